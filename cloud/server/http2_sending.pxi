# The half of a connection that sends; a part of http2.pyx.

cdef class _Sending:
    """The half of a connection that sends: answers, as far as the windows of the client let them through."""

    cdef readonly bint closed
    cdef dict _streams
    cdef Budget _budget
    cdef list _out, _touched
    cdef int _last
    cdef int _leaving
    cdef int64_t _window_out, _stream_window_out
    cdef Py_ssize_t _frame_out
    cdef dict _blocked
    cdef int _chores  # work for the client that is no call, since `Connection.forgive`

    def __init__(self, Budget budget not None):
        self._budget = budget
        self._streams, self._blocked, self._touched, self._out = {}, {}, [], []
        self._window_out = self._stream_window_out = 65535
        self._frame_out = 16384

    @property
    def speaks(self):
        """Whether there is something for `take` to return, or nothing more will come."""
        return self.closed or len(self._out) > 0

    @property
    def busy(self):
        """Whether calls are open, or may come yet that its client made before it heard `go_away`."""
        return len(self._streams) > 0 or self._leaving == ASKED

    @property
    def unsent(self):
        """How many bytes of answers wait until the client gives them room."""
        return sum([(<Stream>stream).out_bytes for stream in self._blocked.values()])

    @property
    def streams(self):
        """The calls that are open."""
        return list(self._streams.values())

    def take(self):
        """Return what is to be sent now; empty where nothing is."""
        cdef list out = self._out
        if not out:
            return b""
        self._out = []
        return out[0] if len(out) == 1 else b"".join(out)

    def respond(self, Stream stream not None, bytes message not None):
        """Answer a call with one message, and end it."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(message)
        cdef Py_ssize_t head = PyBytes_GET_SIZE(_HEAD), ok = PyBytes_GET_SIZE(_OK)
        cdef bytes data
        cdef unsigned char *p
        if stream.over or self.closed:
            return
        if stream.began or stream.out or size + 5 > min(self._frame_out, stream.window_out, self._window_out):
            self.send(stream, message)
            self.end(stream, 0)
            return
        data = PyBytes_FromStringAndSize(NULL, 27 + head + 5 + size + ok)
        p = <unsigned char *>PyBytes_AS_STRING(data)
        p = _put_frame(p, head, HEADERS, END_HEADERS, stream.id)
        memcpy(p, PyBytes_AS_STRING(_HEAD), head)
        p = _put_frame(p + head, size + 5, DATA, 0, stream.id)
        p[0] = 0
        _put32(p + 1, <uint32_t>size)
        memcpy(p + 5, PyBytes_AS_STRING(message), size)
        p = _put_frame(p + 5 + size, ok, HEADERS, END_HEADERS | END_STREAM, stream.id)
        memcpy(p, PyBytes_AS_STRING(_OK), ok)
        stream.window_out -= size + 5
        self._window_out -= size + 5
        self._out.append(data)
        self._finish(stream)

    def send(self, Stream stream not None, bytes message not None):
        """Send a message of a call; what the client does not take yet waits, `Stream.unsent`."""
        if stream.over or self.closed:
            return
        self.begin(stream)
        if stream.out is None:
            stream.out = []
        stream.out.append(b"\0" + PyBytes_GET_SIZE(message).to_bytes(4, "big"))
        stream.out.append(message)
        stream.out_bytes += PyBytes_GET_SIZE(message) + 5
        self._pump(stream)

    def begin(self, Stream stream not None):
        """Send the headers of an answer, if that has not been done."""
        if not stream.began and not stream.over:
            stream.began = True
            self._out.append(_frame(HEADERS, END_HEADERS, stream.id, _HEAD))

    def end(self, Stream stream not None, int status, str message="", metadata=()):
        """End a call with a gRPC status, after what it has sent."""
        if stream.over or stream.trailers is not None or self.closed:
            return
        parts = [] if stream.began else [_HEAD]
        parts.append(_literal(b"grpc-status", str(status).encode()))
        if message:
            parts.append(_literal(b"grpc-message", _quoted(message[:_DETAILS])))
        for name, value in metadata:
            parts.append(_literal(name.encode(), value.encode()))
        stream.trailers = b"".join(parts)
        self._pump(stream)

    def refuse(self, Stream stream not None, int status):
        """Answer what is no gRPC with an HTTP status, and no more."""
        if not stream.over and not self.closed:
            stream.trailers = _literal(b":status", str(status).encode())
            self._pump(stream)

    def reset(self, Stream stream not None, int code):
        """Break a call off."""
        if not stream.over and not self.closed:
            self._out.append(_frame(RST_STREAM, 0, stream.id, code.to_bytes(4, "big")))
            stream.ended = True
            self._finish(stream)

    def limit(self, int max_streams):
        """Ask the client to have no more calls open at a time; as many as before are still taken."""
        if not self.closed:
            self._out.append(_frame(SETTINGS, 0, 0, b"\0\3" + max_streams.to_bytes(4, "big")))

    def ping(self):
        """Ask for a sign of life."""
        if not self.closed:
            self._out.append(_frame(PING, 0, 0, bytes(8)))

    def go_away(self):
        """Ask for no new calls; what was on its way before the client says that it has heard is done."""
        if self._leaving == STAYS and not self.closed:
            self._leaving = ASKED
            self._out.append(_frame(GOAWAY, 0, 0, b"\x7f\xff\xff\xff" + bytes(4)))
            self._out.append(_frame(PING, 0, 0, _HEARD))

    def lose(self):
        """Say that the connection is gone; return the calls that it takes with it."""
        streams = list(self._streams.values())
        self._drop()
        return streams

    cdef int _heard(self) except -1:
        """Take no new calls."""
        if self._leaving == ASKED:
            self._leaving = LEAVES
            self._out.append(_frame(GOAWAY, 0, 0, self._last.to_bytes(4, "big") + bytes(4)))
        return 0

    cdef int _touch(self, Stream stream) except -1:
        if not stream.touched:
            stream.touched = True
            self._touched.append(stream)
        return 0

    cdef int _pump(self, Stream stream) except -1:
        """Send what the windows let through of a call."""
        cdef Py_ssize_t n, size
        cdef bytes data
        while stream.out:
            n = min(min(stream.out_bytes, <int64_t>self._frame_out), min(stream.window_out, self._window_out))
            if n <= 0:
                self._blocked[stream.id] = stream
                return 0
            stream.window_out -= n
            self._window_out -= n
            stream.out_bytes -= n
            data = PyBytes_FromStringAndSize(NULL, 9)
            _put_frame(<unsigned char *>PyBytes_AS_STRING(data), n, DATA, 0, stream.id)
            self._out.append(data)
            while n:
                data = stream.out[0]
                size = PyBytes_GET_SIZE(data) - stream.out_at
                if size <= n:
                    self._out.append(data[stream.out_at:] if stream.out_at else data)
                    del stream.out[0]
                    stream.out_at = 0
                    n -= size
                else:
                    self._out.append(data[stream.out_at:stream.out_at + n])
                    stream.out_at += n
                    n = 0
            if stream.out and not stream.out_bytes:
                del stream.out[0]  # an empty message's contents
        if self._blocked.pop(stream.id, None) is not None:
            self._touch(stream)  # who waits for room may go on
        if stream.trailers is not None and not stream.over:
            self._out.append(_frame(HEADERS, END_HEADERS | END_STREAM, stream.id, stream.trailers))
            self._finish(stream)
        return 0

    cdef int _pump_all(self) except -1:
        for stream in list(self._blocked.values()):
            self._pump(stream)
        return 0

    cdef int _finish(self, Stream stream) except -1:
        """Forget a call."""
        if not stream.over:
            if not stream.ended:  # the answer does not wait for the rest of the request
                self._out.append(_frame(RST_STREAM, 0, stream.id, bytes(4)))
                self._chores += 1
            stream.over = stream.ended = True
            stream.out, stream.message, stream.messages, stream.out_bytes = None, None, None, 0
            if not stream.gone:
                stream.call = None  # it knows its stream: a ring that only the garbage collector would find
            self._let_go(stream, stream.held)
            del self._streams[stream.id]
            self._blocked.pop(stream.id, None)
            self._budget.calls -= 1
        return 0

    cdef int _let_go(self, Stream stream, int64_t size) except -1:
        stream.held -= size
        self._budget.held -= size
        return 0

    cdef int _fail(self, int code, str why) except -1:
        """Close the connection and say why."""
        self._out.append(
            _frame(GOAWAY, 0, 0, self._last.to_bytes(4, "big") + code.to_bytes(4, "big") + why.encode())
        )
        self._drop()
        return 0

    cdef int _drop(self) except -1:
        cdef Stream stream
        self.closed = True
        for stream in list(self._streams.values()):
            stream.ended = stream.gone = stream.over = True
            stream.out, stream.message, stream.messages, stream.out_bytes = None, None, None, 0
            self._let_go(stream, stream.held)
            self._touch(stream)
        self._budget.calls -= len(self._streams)
        self._streams.clear()
        self._blocked.clear()
        return 0
