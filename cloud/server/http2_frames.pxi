# Numbers, headers and frames of HTTP/2 as bytes; a part of http2.pyx.

ctypedef const unsigned char *bytes_t

cdef enum:
    DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION

cdef enum:
    END_STREAM = 1  # and, of settings and pings, an answer
    END_HEADERS = 4
    PADDED = 8
    WITH_PRIORITY = 32

cdef enum:
    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11

cdef enum:
    STAYS, ASKED, LEAVES  # the client was asked to go; it has heard that

cdef bytes _HEARD = b"leaving!"  # of a ping
cdef bytes _PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
cdef Py_ssize_t _FRAME = 262144  # the largest that is taken
cdef Py_ssize_t _BLOCK = 32768  # the most bytes of headers, packed
cdef int _CONTINUATIONS = 8  # that headers may come in
cdef int _CHORES = 10000  # pings, resets of either side and the like between two calls of `Connection.forgive`
cdef int _DEAR = 100  # for so many of them count settings, which every open call may have to be told
cdef int _MESSAGE = 128  # what a message takes in memory beside its contents
cdef int _DIGITS = 18  # of a number that still fits into 64 bits
cdef int _DETAILS = 1000  # letters of a status message; all of 4 bytes, they still go into the smallest frame
cdef int64_t _STREAM_WINDOW = 1 << 20  # what may come on a stream before it is known how much it will be
cdef int64_t _CONNECTION_WINDOW = 1 << 26
cdef int64_t _LARGEST_WINDOW = (1 << 31) - 1
# ":status: 200", and the rest as literals: what is remembered nowhere cannot be remembered wrongly
cdef bytes _HEAD = b"\x88\x0f\x10\x10application/grpc"
cdef bytes _OK = b"\x00\x0bgrpc-status\x010"
cdef frozenset _PSEUDO = frozenset([b":method", b":scheme", b":path", b":authority"])
cdef frozenset _OF_HTTP1 = frozenset(
    [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"]
)


cdef inline uint32_t _get32(bytes_t p) noexcept nogil:
    return <uint32_t>p[0] << 24 | <uint32_t>p[1] << 16 | <uint32_t>p[2] << 8 | p[3]


cdef inline void _put32(unsigned char *p, uint32_t value) noexcept nogil:
    p[0], p[1], p[2], p[3] = value >> 24, value >> 16 & 0xFF, value >> 8 & 0xFF, value & 0xFF


cdef inline unsigned char *_put_frame(
    unsigned char *p, Py_ssize_t length, int kind, int flags, int stream
) noexcept nogil:
    """Write the head of a frame; return where its contents go."""
    p[0], p[1], p[2], p[3], p[4] = length >> 16 & 0xFF, length >> 8 & 0xFF, length & 0xFF, kind, flags
    _put32(p + 5, <uint32_t>stream)
    return p + 9


cdef bytes _frame(int kind, int flags, int stream, bytes contents):
    cdef Py_ssize_t size = PyBytes_GET_SIZE(contents)
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, 9 + size)
    cdef unsigned char *p = <unsigned char *>PyBytes_AS_STRING(frame)
    memcpy(_put_frame(p, size, kind, flags, stream), PyBytes_AS_STRING(contents), size)
    return frame


cdef bytes _literal(bytes name, bytes value):
    """Return a header that nobody should remember."""
    return b"".join([b"\0", _size(len(name)), name, _size(len(value)), value])


cdef bytes _size(Py_ssize_t number):
    if number < 127:
        return bytes([number])
    digits = bytearray([127])
    number -= 127
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    digits.append(number)
    return bytes(digits)


cdef bytes _quoted(str text):
    """Return a text as gRPC's status message has it: what is not plain ASCII as %XX."""
    return b"".join([
        bytes([c]) if 32 <= c < 127 and c != 37 else b"%%%02X" % c for c in text.encode(errors="replace")
    ])


cdef bint _begins_a_call(list fields):
    """Tell whether there is a pseudo-header among them, as only the first of a call have."""
    return any([field[0][0] == 58 for field in fields])


cdef str _what_is_wrong(list fields):
    """Return why headers are none of a request (RFC 9113, 8.2 and 8.3); None where they are."""
    cdef bytes name, value
    cdef bint regular = False
    cdef set seen = set()
    for name, value in fields:
        if PyBytes_AS_STRING(name)[0] == b":":
            if regular or name in seen:
                return "headers are out of order"
            if name not in _PSEUDO:
                return "a request has no such header"
            seen.add(name)
        else:
            regular = True
            if name in _OF_HTTP1 or (name == b"te" and value != b"trailers"):
                return "a header is of HTTP/1"
            if name == b"content-length":
                if name in seen or not value.isdigit() or len(value) > _DIGITS:
                    return "a length is none"
                seen.add(name)
    if b":method" not in seen or b":scheme" not in seen or (b":path", b"") in fields or b":path" not in seen:
        return "a request has no method, scheme or path"
    return None
