# Where the elements of an array lie. Cython's views know more, and cost 70 kB of a module and a microsecond of a call
# (docs/decisions/009). Whoever asks holds the array for as long as the address is used.

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer


cdef inline void *_address(array, int kind) noexcept:
    # NULL where the array is not of that kind
    try:
        return _start(array, kind)
    except (BufferError, ValueError):
        return NULL


cdef inline const void *_source(array) except NULL:
    return _start(array, PyBUF_C_CONTIGUOUS)


cdef inline void *_target(array) except NULL:
    return _start(array, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)


cdef void *_start(array, int kind) except NULL:
    cdef Py_buffer buffer
    PyObject_GetBuffer(array, &buffer, kind)
    PyBuffer_Release(&buffer)
    return buffer.buf
