# The half of a connection that receives messages; a part of http2.pyx.

cdef class _Receiving(_Sending):
    """The half of a connection that takes messages from the frames that bring their parts, as far as there is room."""

    cdef Py_ssize_t _max_message
    cdef Stream _data_stream  # of the frame that is being read
    cdef Py_ssize_t _data_left, _data_padding
    cdef bint _data_end
    cdef int64_t _window_in

    def __init__(self, Budget budget not None, Py_ssize_t max_message):
        super().__init__(budget)
        self._max_message, self._window_in = max_message, _CONNECTION_WINDOW

    def read(self, Stream stream not None):
        """Return the next message of a call and whether it is compressed; None where none has come."""
        if not stream.messages:
            return None
        message, compressed = stream.messages.popleft()
        cdef Py_ssize_t size = PyBytes_GET_SIZE(message)
        stream.unread -= size + 5
        self._let_go(stream, size + _MESSAGE)
        if not stream.ended and stream.several:
            self._widen(stream, _STREAM_WINDOW - stream.unread, _STREAM_WINDOW // 2)
            self._ask_for_rest(stream)
        return message, compressed

    cdef int _begin_data(self, Py_ssize_t length, int flags, int number, int padding) except -1:
        cdef Stream stream
        if number == 0 or number > self._last or (padding >= 0 and padding >= length):
            return self._fail(PROTOCOL_ERROR, "data belong to no call")
        self._window_in -= length
        if self._window_in < 0:
            return self._fail(FLOW_CONTROL_ERROR, "more came than was asked for")
        if self._window_in < _CONNECTION_WINDOW // 2:
            self._out.append(
                _frame(WINDOW_UPDATE, 0, 0, (_CONNECTION_WINDOW - self._window_in).to_bytes(4, "big"))
            )
            self._window_in = _CONNECTION_WINDOW
        stream = self._streams.get(number)  # None where it is over: what was on its way then is skipped
        if stream is not None:
            if stream.ended:
                return self._fail(STREAM_CLOSED, "data came after the end")
            stream.window_in -= length
            if stream.window_in < 0:
                return self._fail(FLOW_CONTROL_ERROR, "more came than was asked for")
        self._data_end = flags & END_STREAM
        self._data_left, self._data_padding = length, 0
        if padding >= 0:
            self._data_left, self._data_padding = length - 1 - padding, padding
        if stream is not None:
            stream.came += self._data_left
            if 0 <= stream.said < stream.came:
                self._break_off(stream)
                stream = None
        self._data_stream = stream
        if not self._data_left and not self._data_padding:
            self._end_data()
        return 0

    cdef int _end_data(self) except -1:
        stream, self._data_stream = self._data_stream, None
        if stream is not None and self._data_end:
            self._end_of(stream)
        return 0

    cdef int _take_data(self, Stream stream, bytes_t p, Py_ssize_t size) except -1:
        cdef Py_ssize_t n
        cdef bint last = self._data_end and size == self._data_left
        while size and stream.problem is None and not stream.over:
            if stream.message is None:
                n = min(size, 5 - stream.prefixed)
                memcpy(stream.prefix + stream.prefixed, p, n)
                stream.prefixed += <int>n
                p += n
                size -= n
                if stream.prefixed < 5:
                    return 0
                stream.length = _get32(stream.prefix + 1)
                if stream.messages and not stream.several:
                    return self._give_up(stream, "more")
                if stream.length > self._max_message:
                    return self._give_up(stream, "large")
                stream.message = PyBytes_FromStringAndSize(NULL, stream.length)  # the system gives room as it is filled
                stream.filled = 0
            n = min(size, stream.length - stream.filled)
            if n:
                memcpy(<unsigned char *>PyBytes_AS_STRING(stream.message) + stream.filled, p, n)
                stream.filled += n
                stream.held += n
                self._budget.held += n
                p += n
                size -= n
            if stream.filled == stream.length:
                # what an empty one takes in memory counts, too: there might be many
                stream.held += _MESSAGE
                self._budget.held += _MESSAGE
                stream.unread += stream.length + 5
                if stream.messages is None:
                    stream.messages = deque()
                stream.messages.append((stream.message, stream.prefix[0] & 1))
                stream.message, stream.prefixed = None, 0
                stream.taken += 1
                if stream.several:
                    self._touch(stream)
                if stream.several or not (last and size == 0):  # else it is read now
                    if self._budget.held > self._budget.most and stream.held > self._budget.each:
                        return self._give_up(stream, "full")
            elif self._budget.held > self._budget.most and stream.held > self._budget.each:
                return self._give_up(stream, "full")
        return self._ask_for_rest(stream)

    cdef int _ask_for_rest(self, Stream stream) except -1:
        """Let a message come as a whole that has begun, but none behind others that are not read."""
        cdef int64_t n
        if stream.message is not None and not stream.messages and not stream.over:
            n = stream.length - stream.filled
            if stream.window_in < n:
                self._widen(stream, n, n)
        return 0

    cdef int _give_up(self, Stream stream, str problem) except -1:
        stream.problem, stream.message = problem, None
        self._touch(stream)
        return 0

    cdef int _end_of(self, Stream stream) except -1:
        if stream.said >= 0 and stream.said != stream.came:
            return self._break_off(stream)
        stream.ended = True
        if stream.problem is None and (stream.prefixed or not (stream.several or stream.messages)):
            stream.problem = "cut"
        self._touch(stream)
        return 0

    cdef int _break_off(self, Stream stream) except -1:
        """End a call that is not as long as its headers say."""
        self._chores += 1
        self._out.append(_frame(RST_STREAM, 0, stream.id, (<int>PROTOCOL_ERROR).to_bytes(4, "big")))
        stream.ended = stream.gone = True
        self._touch(stream)
        return self._finish(stream)

    cdef int _widen(self, Stream stream, int64_t to, int64_t below) except -1:
        """Let the client send up to so much, where it may send less than something else."""
        if stream.window_in < below and to > stream.window_in:
            self._out.append(_frame(WINDOW_UPDATE, 0, stream.id, (to - stream.window_in).to_bytes(4, "big")))
            stream.window_in = to
        return 0
