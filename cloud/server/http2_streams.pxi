# What is known of a call, and what all connections hold together; a part of http2.pyx.

cdef class Budget:
    """How much the connections of a server may hold together.

    Parameters
    ----------
    most
        Bytes of messages that are not complete, or not read, and of what waits to be looked at.

    Attributes
    ----------
    each
        Bytes that a call may hold even where all together hold more than `most`: else who fills the room, and waits,
        would keep everybody out.
    held
        Bytes that they hold.
    calls
        Calls that are open.
    """

    cdef readonly int64_t held, most, each
    cdef readonly int calls

    def __init__(self, most):
        self.most, self.each, self.held, self.calls = most, most >> 13, 0, 0

    def hold(self, int64_t size):
        """Count what its owner holds beside them; what is less than nothing is given back."""
        self.held += size


cdef class Stream:
    """One call.

    Attributes
    ----------
    id
        Its number in the connection.
    headers
        The first value of each, by name; not to be changed: calls with equal ones may have the same.
    ended
        The client sends no more.
    gone
        The client waits no more.
    over
        It has ended.
    problem
        Why what comes is not read: ``"large"`` (a message is), ``"full"`` (the budget is), ``"cut"`` (it ended within
        a message, or without one), ``"more"`` (than the one message of its method); None where it is.
    length
        Bytes of the message that came last, or is to come.
    held
        Bytes of its messages that are not complete, or not read.
    call
        For the owner of the connection; forgotten when it has ended, unless its client is gone.
    """

    cdef readonly int id
    cdef readonly dict headers
    cdef readonly bint ended
    cdef readonly bint gone
    cdef readonly bint over
    cdef readonly str problem
    cdef public object call
    cdef bint touched, several, began
    cdef unsigned char prefix[5]
    cdef int prefixed
    cdef int64_t taken  # messages that came as a whole
    cdef bytes message
    cdef readonly Py_ssize_t length
    cdef Py_ssize_t filled
    cdef object messages
    cdef readonly int64_t held
    cdef int64_t unread
    cdef int64_t window_in, window_out
    cdef int64_t said, came  # bytes of its contents: as its headers say (-1: nothing), and so far
    cdef list out  # messages and their prefixes that found no room
    cdef Py_ssize_t out_at
    cdef int64_t out_bytes
    cdef bytes trailers

    @property
    def unsent(self):
        """How many bytes wait until the client takes them."""
        return self.out_bytes

    @property
    def owed(self):
        """The message that its client has room for and has not ended (0 is none), and `unsent`."""
        return (self.taken + 1 if self.prefixed and not self.messages and self.problem is None else 0), self.out_bytes
