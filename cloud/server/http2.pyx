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
include "http2_messages.pxi"


cdef class Connection(_Receiving):
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
    cdef list _wellformed  # headers that were found so last, and what they say
    cdef dict _last_headers
    cdef bint _of_several
    cdef int64_t _said
    cdef int _max_streams
    cdef bytes _rest
    cdef bint _greeted
    cdef bytearray _block  # headers that go on in the next frame
    cdef int _block_stream, _block_flags, _block_parts
    cdef bint _widened  # there may be room for what waits

    def __init__(self, several, *, int max_streams, Py_ssize_t max_message_bytes, Budget budget not None):
        super().__init__(budget, max_message_bytes)
        self._several, self._max_streams = several, max_streams
        self._rest, self._block, self._decoder = b"", bytearray(), Decoder()
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
            self._fail(PROTOCOL_ERROR if self._decoder.malformed else COMPRESSION_ERROR, str(error))
        if self._widened:  # once, however often the client said so
            self._widened = False
            self._pump_all()
        touched, self._touched = self._touched, []
        for stream in touched:
            stream.touched = False
        return touched

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
            if increment == 0:
                return self._fail(PROTOCOL_ERROR, "a window grows by nothing")
            if number == 0:
                self._window_out += increment
                if self._window_out > _LARGEST_WINDOW:
                    return self._fail(FLOW_CONTROL_ERROR, "a window is too large")
                self._widened = True
                return 0
            if number > self._last:
                return self._fail(PROTOCOL_ERROR, "a window belongs to no call")
            stream = self._streams.get(number)
            if stream is not None:
                stream.window_out += increment
                if stream.window_out > _LARGEST_WINDOW:
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
            if number:
                return self._fail(PROTOCOL_ERROR, "settings are of no call")
            if length % 6 or (flags & END_STREAM and length):
                return self._fail(FRAME_SIZE_ERROR, "these are no settings")
            if not flags & END_STREAM:
                return self._settings(p, length)
        elif kind == PING:
            if number:
                return self._fail(PROTOCOL_ERROR, "a ping is of no call")
            if length != 8:
                return self._fail(FRAME_SIZE_ERROR, "a ping has eight bytes")
            if flags & END_STREAM:
                if memcmp(p, PyBytes_AS_STRING(_HEARD), 8) == 0:
                    self._heard()
            else:
                self._out.append(_frame(PING, END_STREAM, 0, PyBytes_FromStringAndSize(<const char *>p, 8)))
        elif kind == PUSH_PROMISE:
            return self._fail(PROTOCOL_ERROR, "clients promise nothing")
        elif kind == PRIORITY:
            if number == 0:
                return self._fail(PROTOCOL_ERROR, "a priority is of a call")
            if length != 5:
                return self._fail(FRAME_SIZE_ERROR, "a priority has five bytes")
        elif kind == GOAWAY:
            if number:
                return self._fail(PROTOCOL_ERROR, "a farewell is of no call")
            if length < 8:
                return self._fail(FRAME_SIZE_ERROR, "a farewell has eight bytes at least")
        return 0

    cdef int _settings(self, bytes_t p, Py_ssize_t length) except -1:
        cdef Py_ssize_t at
        cdef int64_t value, window = self._stream_window_out
        cdef int name
        cdef Stream stream
        for at in range(0, length, 6):
            name, value = p[at] << 8 | p[at + 1], _get32(p + at + 2)
            if name == 2 and value > 1:
                return self._fail(PROTOCOL_ERROR, "promises are wanted or not")
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
        if number <= self._last:
            stream = self._streams.get(number)
            if stream is not None and stream.ended:
                return self._fail(STREAM_CLOSED, "headers came after the end")
            if not flags & END_STREAM or _begins_a_call(fields):
                return self._fail(PROTOCOL_ERROR, "headers came twice")
            if stream is not None:  # else it is over already
                self._end_of(stream)
            return 0
        self._last = number
        if self._leaving == LEAVES:
            return 0  # the client was told that nothing new is looked at
        if len(self._streams) >= self._max_streams:
            self._out.append(_frame(RST_STREAM, 0, number, REFUSED_STREAM.to_bytes(4, "big")))
            self._chores += 1
            return 0
        if fields is not self._wellformed:  # calls of one client are mostly equal
            why = _what_is_wrong(fields)
            if why is not None:
                return self._fail(PROTOCOL_ERROR, why)
            headers = {}
            for name, value in fields:
                if name not in headers:
                    headers[name] = value
            value = headers.get(b"content-length")
            self._wellformed, self._last_headers = fields, headers
            self._of_several = headers[b":path"] in self._several
            self._said = -1 if value is None else int(value)
        stream = Stream.__new__(Stream)
        stream.id, stream.headers = number, self._last_headers
        stream.several, stream.said = self._of_several, self._said
        stream.window_in, stream.window_out = _STREAM_WINDOW, self._stream_window_out
        self._streams[number] = stream
        self._budget.calls += 1
        self._touch(stream)
        if flags & END_STREAM:
            self._end_of(stream)
        return 0
