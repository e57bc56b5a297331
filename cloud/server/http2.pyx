"""The server's side of one HTTP/2 connection that carries gRPC: bytes in, calls out, and back (RFC 9113).

No input or output: `Connection.receive` takes what came and returns the streams on which something happened,
`Connection.take` returns what is to be sent. A connection that breaks the rules is told so and closed.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcmp, memcpy

from collections import deque

from edge_sdk.cloud.server.hpack import Decoder
from edge_sdk.errors import InputError

__all__ = ["Budget", "Connection", "Stream"]

include "http2_frames.pxi"
include "http2_streams.pxi"
include "http2_sending.pxi"


cdef class Connection(_Sending):
    """One connection.

    Parameters
    ----------
    several
        Paths (bytes) of the methods that take several messages.
    max_streams
        Calls at a time.
    max_message_bytes
        The largest message that is taken.
    budget
        Shared with other connections.

    Attributes
    ----------
    closed
        Nothing more is read: what `take` returns is the last.
    silent
        Nothing has come since this was last set.
    """

    cdef public bint silent
    cdef readonly bint settled
    cdef object _decoder, _several
    cdef int _max_streams
    cdef Py_ssize_t _max_message
    cdef bytes _rest
    cdef bint _greeted
    cdef bytearray _block  # headers that go on in the next frame
    cdef int _block_stream, _block_flags, _block_parts
    cdef Stream _data_stream  # of the frame that is being read
    cdef Py_ssize_t _data_left, _data_padding
    cdef bint _data_end
    cdef int64_t _window_in
    cdef bint _widened  # there may be room for what waits
    cdef int _chores

    def __init__(self, several, *, int max_streams, Py_ssize_t max_message_bytes, Budget budget not None):
        super().__init__(budget)
        self._several, self._max_streams, self._max_message = several, max_streams, max_message_bytes
        self._rest, self._block, self._decoder = b"", bytearray(), Decoder()
        self._window_in = _CONNECTION_WINDOW
        settings = [(1, 4096), (3, max_streams), (4, _STREAM_WINDOW), (5, _FRAME), (6, 16384)]
        self._out += [
            _frame(SETTINGS, 0, 0, b"".join([k.to_bytes(2, "big") + v.to_bytes(4, "big") for k, v in settings])),
            _frame(WINDOW_UPDATE, 0, 0, (_CONNECTION_WINDOW - 65535).to_bytes(4, "big")),
        ]

    def receive(self, bytearray buffer not None, Py_ssize_t size):
        """Take the first bytes of a buffer; return the streams on which something has happened, each once."""
        cdef bytes_t p = <bytes_t>PyByteArray_AS_STRING(buffer)
        cdef bytes_t end
        cdef bytes joined
        cdef Stream stream
        if self.closed or size > PyByteArray_GET_SIZE(buffer):
            return []
        self.silent = False
        if self._rest:
            joined = self._rest + PyBytes_FromStringAndSize(<const char *>p, size)
            self._rest = b""
            p, size = <bytes_t>PyBytes_AS_STRING(joined), PyBytes_GET_SIZE(joined)
        end = p + size
        try:
            p = self._read(p, end)
            if p < end and not self.closed:
                self._rest = PyBytes_FromStringAndSize(<const char *>p, end - p)
        except InputError as error:
            self._fail(COMPRESSION_ERROR, str(error))
        if self._widened:  # once, however often the client said so
            self._widened = False
            self._pump_all()
        touched, self._touched = self._touched, []
        for stream in touched:
            stream.touched = False
        return touched

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

    def forgive(self):
        """Forget how often the client has asked for work that is no call; to be called from time to time."""
        self._chores = 0

    cdef bytes_t _read(self, bytes_t p, bytes_t end) except NULL:
        cdef Py_ssize_t length, n
        cdef int kind, flags, stream
        if not self._greeted:
            n = min(end - p, PyBytes_GET_SIZE(_PREFACE))
            if memcmp(p, PyBytes_AS_STRING(_PREFACE), n):
                self._fail(PROTOCOL_ERROR, "this is no HTTP/2")
                return end
            if n < PyBytes_GET_SIZE(_PREFACE):
                return p
            self._greeted = True
            p += n
        while not self.closed:
            if self._data_left or self._data_padding:
                n = min(end - p, self._data_left)
                if n:
                    if self._data_stream is not None:
                        self._take_data(self._data_stream, p, n)
                    self._data_left -= n
                    p += n
                n = min(end - p, self._data_padding)
                self._data_padding -= n
                p += n
                if self._data_left or self._data_padding:
                    return p
                self._end_data()
                continue
            if end - p < 9:
                return p
            length = p[0] << 16 | p[1] << 8 | p[2]
            kind, flags, stream = p[3], p[4], <int>(_get32(p + 5) & 0x7FFFFFFF)
            if length > _FRAME or (kind != DATA and length > _BLOCK):
                self._fail(FRAME_SIZE_ERROR, "a frame is too large")
                return end
            if self._block_stream and (kind != CONTINUATION or stream != self._block_stream):
                self._fail(PROTOCOL_ERROR, "headers break off")
                return end
            if not self.settled and (kind != SETTINGS or flags & END_STREAM):
                self._fail(PROTOCOL_ERROR, "settings should come first")
                return end
            if kind != HEADERS and kind != WINDOW_UPDATE and kind != CONTINUATION and (
                kind != DATA or not (length or flags & END_STREAM)
            ):
                self._chores += _DEAR if kind == SETTINGS else 1
                if self._chores > _CHORES:
                    self._fail(ENHANCE_YOUR_CALM, "too much is asked for that is no call")
                    return end
            if kind == DATA:
                n = flags & PADDED and 1
                if end - p < 9 + n:
                    return p
                self._begin_data(length, flags, stream, p[9] if n else -1)
                p += 9 + n
                continue
            if end - p < 9 + length:
                return p
            self._frame(kind, flags, stream, p + 9, length)
            p += 9 + length
        return end

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
        self._data_stream, self._data_end = stream, flags & END_STREAM
        self._data_left, self._data_padding = length, 0
        if padding >= 0:
            self._data_left, self._data_padding = length - 1 - padding, padding
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
                    if self._budget.held > self._budget.most:
                        return self._give_up(stream, "full")
            elif self._budget.held > self._budget.most:
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
        stream.ended = True
        if stream.problem is None and (stream.prefixed or not (stream.several or stream.messages)):
            stream.problem = "cut"
        self._touch(stream)
        return 0

    cdef int _frame(self, int kind, int flags, int number, bytes_t p, Py_ssize_t length) except -1:
        cdef Stream stream
        cdef int64_t increment
        if kind == HEADERS:
            return self._headers(flags, number, p, length)
        if kind == CONTINUATION:
            self._block_parts += 1
            if not self._block_stream:
                return self._fail(PROTOCOL_ERROR, "headers go on that did not begin")
            if self._block_parts > _CONTINUATIONS or len(self._block) + length > _BLOCK:
                return self._fail(ENHANCE_YOUR_CALM, "headers are too large")
            self._block += PyBytes_FromStringAndSize(<const char *>p, length)
            if flags & END_HEADERS:
                block, number, self._block_stream = bytes(self._block), self._block_stream, 0
                self._block.clear()
                return self._open(number, self._block_flags, block)
        elif kind == WINDOW_UPDATE:
            if length != 4:
                return self._fail(FRAME_SIZE_ERROR, "a window has four bytes")
            increment = _get32(p) & 0x7FFFFFFF
            if number == 0:
                self._window_out += increment
                if increment == 0 or self._window_out > _LARGEST_WINDOW:
                    return self._fail(FLOW_CONTROL_ERROR, "a window is too large")
                self._widened = True
                return 0
            if number > self._last:
                return self._fail(PROTOCOL_ERROR, "a window belongs to no call")
            stream = self._streams.get(number)
            if stream is not None:
                stream.window_out += increment
                if increment == 0 or stream.window_out > _LARGEST_WINDOW:
                    return self._fail(FLOW_CONTROL_ERROR, "a window is too large")
                self._pump(stream)
        elif kind == RST_STREAM:
            if length != 4:
                return self._fail(FRAME_SIZE_ERROR, "a reset has four bytes")
            if number == 0 or number > self._last:
                return self._fail(PROTOCOL_ERROR, "a reset belongs to no call")
            stream = self._streams.get(number)
            if stream is not None:
                stream.ended = stream.gone = True
                self._touch(stream)
                self._finish(stream)
        elif kind == SETTINGS:
            if number or length % 6 or (flags & END_STREAM and length):
                return self._fail(FRAME_SIZE_ERROR, "these are no settings")
            if not flags & END_STREAM:
                return self._settings(p, length)
        elif kind == PING:
            if number or length != 8:
                return self._fail(FRAME_SIZE_ERROR, "a ping has eight bytes")
            if not flags & END_STREAM:
                self._out.append(_frame(PING, END_STREAM, 0, PyBytes_FromStringAndSize(<const char *>p, 8)))
        elif kind == PUSH_PROMISE:
            return self._fail(PROTOCOL_ERROR, "clients promise nothing")
        elif kind == PRIORITY and (number == 0 or length != 5):
            return self._fail(FRAME_SIZE_ERROR, "this is no priority")
        return 0

    cdef int _settings(self, bytes_t p, Py_ssize_t length) except -1:
        cdef Py_ssize_t at
        cdef int64_t value, window = self._stream_window_out
        cdef int name
        cdef Stream stream
        for at in range(0, length, 6):
            name, value = p[at] << 8 | p[at + 1], _get32(p + at + 2)
            if name == 4:
                if value > _LARGEST_WINDOW:
                    return self._fail(FLOW_CONTROL_ERROR, "a window is too large")
                window = value
            elif name == 5:
                if not 16384 <= value < 1 << 24:
                    return self._fail(PROTOCOL_ERROR, "frames cannot have that size")
                self._frame_out = value
        if window != self._stream_window_out:  # a frame may hold thousands; the last of them counts
            for stream in self._streams.values():
                stream.window_out += window - self._stream_window_out
                if stream.window_out > _LARGEST_WINDOW:
                    return self._fail(FLOW_CONTROL_ERROR, "a window is too large")
            self._stream_window_out = window
        self.settled = self._widened = True
        self._out.append(_frame(SETTINGS, END_STREAM, 0, b""))
        return 0

    cdef int _headers(self, int flags, int number, bytes_t p, Py_ssize_t length) except -1:
        cdef Py_ssize_t before = 0, padding = 0
        if flags & PADDED:
            before, padding = 1, p[0] if length else 0
        if flags & WITH_PRIORITY:
            before += 5
        if number % 2 == 0 or before + padding > length:
            return self._fail(PROTOCOL_ERROR, "headers belong to no call")
        block = PyBytes_FromStringAndSize(<const char *>p + before, length - before - padding)
        if flags & END_HEADERS:
            return self._open(number, flags, block)
        self._block_stream, self._block_flags, self._block_parts = number, flags, 0
        self._block += block
        return 0

    cdef int _open(self, int number, int flags, bytes block) except -1:
        cdef list fields = self._decoder.decode(block)
        cdef Stream stream
        cdef dict headers
        cdef bytes name, value
        cdef bint regular = False
        if number <= self._last:
            stream = self._streams.get(number)
            if stream is not None:  # else it is over already
                if stream.ended or not flags & END_STREAM:
                    return self._fail(PROTOCOL_ERROR, "headers came twice")
                self._end_of(stream)
            return 0
        self._last = number
        if self._leaving:
            return 0  # the client was told that nothing new is looked at
        if len(self._streams) >= self._max_streams:
            self._out.append(_frame(RST_STREAM, 0, number, REFUSED_STREAM.to_bytes(4, "big")))
            return 0
        headers = {}
        for name, value in fields:
            if PyBytes_AS_STRING(name)[0] == b":":
                if regular or name in headers:
                    return self._fail(PROTOCOL_ERROR, "headers are out of order")
            else:
                regular = True
                if name in headers:
                    continue
            headers[name] = value
        if b":method" not in headers or b":path" not in headers or b":scheme" not in headers:
            return self._fail(PROTOCOL_ERROR, "a request has no method, scheme or path")
        stream = Stream.__new__(Stream)
        stream.id, stream.headers = number, headers
        stream.several = headers[b":path"] in self._several
        stream.window_in, stream.window_out = _STREAM_WINDOW, self._stream_window_out
        self._streams[number] = stream
        self._budget.calls += 1
        self._touch(stream)
        if flags & END_STREAM:
            self._end_of(stream)
        return 0

    cdef int _widen(self, Stream stream, int64_t to, int64_t below) except -1:
        """Let the client send up to so much, where it may send less than something else."""
        if stream.window_in < below and to > stream.window_in:
            self._out.append(_frame(WINDOW_UPDATE, 0, stream.id, (to - stream.window_in).to_bytes(4, "big")))
            stream.window_in = to
        return 0
