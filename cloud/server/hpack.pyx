"""Header blocks of HTTP/2, taken apart (RFC 7541)."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from edge_sdk.errors import InputError

__all__ = ["TABLE_BYTES", "Decoder"]

TABLE_BYTES = 4096
"""How much the encoder at the other end may have had remembered, as RFC 7541 counts."""

cdef Py_ssize_t _MOST_BYTES = 16384  # of the names and values of one block, counted likewise
cdef Py_ssize_t _TABLE_BYTES = TABLE_BYTES
cdef Py_ssize_t _OVERHEAD = 32

# RFC 7541, appendix A
cdef tuple _STATIC = tuple([(name.encode(), value.encode()) for name, value in [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
]])
cdef Py_ssize_t _STATICS = len(_STATIC)

# RFC 7541, appendix B: the code is canonical, so that the lengths in bits of the 257 codes say all
cdef bytes _LENGTHS = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b0806060605050506"
    "06060606060607080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e060f05060506050606"
    "060507070606060506070605050607070707070f0b0e0d1c14161414161616171617171717171817181816171817171717151617"
    "1617171816151416161717151716161815161717151516151716171714161616171616171a1a1413161716191a1a1a1b1b1a1819"
    "13151a1b1b1a1b1815151a1a1c1b1b1b14181415161515171616191918181a171a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)
cdef int _LONGEST = 30
cdef unsigned int _first[31]  # the lowest code of each length
cdef int _count[31]
cdef int _at[31]  # where its symbols begin in _symbols
cdef short _symbols[257]


cdef void _prepare() noexcept:
    cdef int bits, symbol, filled = 0
    cdef unsigned int code = 0
    for bits in range(1, _LONGEST + 1):
        code <<= 1
        _first[bits], _at[bits], _count[bits] = code, filled, 0
        for symbol in range(257):
            if <unsigned char>_LENGTHS[symbol] == bits:
                _symbols[filled] = symbol
                filled += 1
                _count[bits] += 1
        code += _count[bits]


_prepare()


cdef bytes _unpack(const unsigned char *data, Py_ssize_t size):
    """Return a text in Huffman's code as it was."""
    cdef bytearray out = bytearray()
    cdef unsigned int code = 0
    cdef int bits = 0, bit, symbol
    cdef Py_ssize_t at
    for at in range(size):
        for bit in range(7, -1, -1):
            code = code << 1 | (data[at] >> bit & 1)
            bits += 1
            if bits > _LONGEST:
                raise InputError("a header is no Huffman code")
            if code - _first[bits] < <unsigned int>_count[bits]:
                symbol = _symbols[_at[bits] + <int>(code - _first[bits])]
                if symbol == 256:
                    raise InputError("a header holds the end of a Huffman code")
                out.append(symbol)
                code, bits = 0, 0
    if bits > 7 or code != (<unsigned int>1 << bits) - 1:  # what fills the last byte begins as the longest code
        raise InputError("a header does not end as a Huffman code does")
    return bytes(out)


cdef class Decoder:
    """Takes apart the header blocks of one connection, in their order.

    Attributes
    ----------
    malformed
        What `decode` has raised for is a header that may not be, not how it was packed.
    """

    cdef readonly bint malformed

    cdef list _entries  # what the encoder has had remembered, the newest first
    cdef Py_ssize_t _size, _limit
    cdef const unsigned char *_p
    cdef const unsigned char *_end
    cdef bytes _last
    cdef list _last_fields

    def __init__(self):
        self._entries, self._size, self._limit = [], 0, _TABLE_BYTES
        self._last, self._last_fields = None, None

    def decode(self, bytes block not None):
        """Return names and values, in their order.

        Raises
        ------
        InputError
            It is no header block, or one that is too large; what comes after it on this connection cannot be read.
        """
        if block == self._last:  # calls of one client are mostly equal
            return self._last_fields
        cdef list fields = []
        cdef Py_ssize_t total = 0
        cdef int first
        cdef bint changed = False
        cdef tuple field
        self._p = <const unsigned char *>PyBytes_AS_STRING(block)
        self._end = self._p + PyBytes_GET_SIZE(block)
        while self._p < self._end:
            first = self._p[0]
            if first & 0x80:
                field = self._entry(self._number(7))
            elif first & 0x40:
                changed = True
                field = self._literal(6)
                self._remember(field)
            elif first & 0x20:
                if fields:
                    raise InputError("a header table is resized between headers")
                changed = True
                self._resize(self._number(5))
                continue
            else:
                field = self._literal(4)
            total += len(<bytes>field[0]) + len(<bytes>field[1]) + _OVERHEAD
            if total > _MOST_BYTES:
                raise InputError("headers are too large")
            fields.append(field)
        self._last, self._last_fields = (None, None) if changed else (block, fields)
        return fields

    cdef Py_ssize_t _number(self, int bits) except -1:
        cdef int mask = (1 << bits) - 1
        cdef Py_ssize_t number = self._p[0] & mask
        cdef int shift = 0
        cdef bint last
        self._p += 1
        if number < mask:
            return number
        while True:
            if self._p >= self._end or shift > 21:
                raise InputError("a header holds no number where it should")
            number += <Py_ssize_t>(self._p[0] & 0x7F) << shift
            shift += 7
            last = not self._p[0] & 0x80
            self._p += 1
            if last:
                return number

    cdef bytes _text(self):
        if self._p >= self._end:
            raise InputError("headers end too early")
        cdef bint packed = self._p[0] & 0x80
        cdef Py_ssize_t size = self._number(7)
        if size > self._end - self._p:
            raise InputError("headers end too early")
        cdef const unsigned char *start = self._p
        self._p += size
        return _unpack(start, size) if packed else PyBytes_FromStringAndSize(<const char *>start, size)

    cdef tuple _literal(self, int bits):
        cdef Py_ssize_t index = self._number(bits)
        cdef bytes name
        cdef unsigned char c
        if index:
            name = self._entry(index)[0]
        else:
            name = self._text()
            self.malformed = True  # but where all is well
            if not name:
                raise InputError("a header has no name")
            for c in name:
                if c <= 32 or c >= 127 or 65 <= c <= 90:
                    raise InputError("a header's name is none of HTTP/2")
            self.malformed = False
        cdef bytes value = self._text()
        for c in value:
            if c == 0 or c == 10 or c == 13:
                self.malformed = True
                raise InputError("a header holds the end of a line")
        return name, value

    cdef tuple _entry(self, Py_ssize_t index):
        if 0 < index <= _STATICS:
            return _STATIC[index - 1]
        index -= _STATICS + 1
        if index < 0 or index >= len(self._entries):
            raise InputError("a header names none that was remembered")
        return self._entries[index]

    cdef int _remember(self, tuple field) except -1:
        self._last = None
        self._size += len(<bytes>field[0]) + len(<bytes>field[1]) + _OVERHEAD
        self._entries.insert(0, field)
        self._evict()

    cdef int _resize(self, Py_ssize_t limit) except -1:
        if limit > _TABLE_BYTES:
            raise InputError("a header table is made larger than it may be")
        self._last = None
        self._limit = limit
        self._evict()

    cdef int _evict(self) except -1:
        cdef tuple field
        while self._size > self._limit:
            field = self._entries.pop()
            self._size -= len(<bytes>field[0]) + len(<bytes>field[1]) + _OVERHEAD
