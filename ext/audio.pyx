"""Log-mel spectra and cepstra of sound, of a whole recording or as it comes in.

Same bits for the same samples on every processor, and however a recording is cut into chunks.
"""

import math
import sys

from libc.stdint cimport int16_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove

import numpy as np

from edge_sdk.errors import InputError

__all__ = ["LogMel", "LogMelStream", "path", "paths", "use_path"]

cdef extern from "audio_kernel.h" nogil:
    enum edge_audio_path:
        EDGE_AUDIO_PATHS

    ctypedef struct edge_audio_options:
        size_t frame_length, frame_step, fft_length, mels, mfcc
        double sample_rate, low_hz, high_hz
        float floor
        int magnitude

    ctypedef struct edge_audio_plan:
        pass

    int edge_audio_has(edge_audio_path path)
    edge_audio_path edge_audio_best()
    edge_audio_plan *edge_audio_make(const edge_audio_options *options)
    void edge_audio_free(edge_audio_plan *plan)
    size_t edge_audio_scratch(const edge_audio_plan *plan)
    void edge_audio_run(
        const edge_audio_plan *plan, edge_audio_path path, const float *x, const int16_t *pcm,
        size_t frames, void *scratch, float *out,
    )
    size_t edge_audio_first_bad(const float *x, size_t count)
    void edge_audio_window(const edge_audio_plan *plan, float *out)
    void edge_audio_weights(const edge_audio_plan *plan, float *out)

include "buffers.pxi"

cdef object FLOAT32 = np.dtype(np.float32)
cdef object INT16 = np.dtype(np.int16)
cdef float SMALLEST = np.finfo(np.float32).tiny
# of frames, steps and transforms, in samples: a minute at 16 kHz, and no product of two overflows
cdef Py_ssize_t LONGEST = 1 << 20
cdef Py_ssize_t MOST_MELS = 1024

cdef tuple PATHS = ("portable", "avx2")
cdef edge_audio_path current = edge_audio_best()


def path():
    """Name of the code that runs; every path gives the same bits."""
    return PATHS[<int>current]


def paths():
    """Names of the paths that this processor runs and that the compiler could build."""
    return tuple(name for index, name in enumerate(PATHS) if edge_audio_has(<edge_audio_path>index))


def use_path(name):
    """Run another path from now on, in this process: for tests and measurements."""
    global current
    if name not in paths():
        raise InputError(f"path: there are {', '.join(paths())} here, not {name!r}")
    current = <edge_audio_path>PATHS.index(name)


cdef class LogMel:
    """Log-mel spectrum, or cepstrum, of one channel of sound, as ``tf.signal`` defines them.

    Frames without padding, a periodic Hann window, the transform's magnitudes or powers, triangular
    filters between edges that are even on the HTK mel scale, and ``log(bands + floor)``: what
    ``stft``, ``linear_to_mel_weight_matrix`` and ``mfccs_from_log_mel_spectrograms`` give. As there,
    a window of odd length is symmetric. Never changes after it is made: threads may share it.

    Parameters
    ----------
    sample_rate
        In hertz.
    frame_length, frame_step
        Samples of a frame, and from one frame to the next.
    fft_length
        A power of two, at least 4 and at least `frame_length`; shorter frames end in zeros.
    mels
        Number of filters, at most 1024.
    low_hz, high_hz
        Edges of the first and the last filter; `high_hz` is at most half the sample rate.
    floor
        Added before the logarithm.
    mfcc
        How many of the first cepstral coefficients to give instead of the spectrum; 0 for none.
    power
        What the filters weigh: 1.0 for magnitudes, 2.0 for powers.

    Raises
    ------
    InputError
        An option is of the wrong type or out of its range.
    """

    cdef edge_audio_plan *plan
    cdef dict options
    cdef readonly Py_ssize_t frame_length, frame_step, columns

    def __cinit__(
        self,
        *,
        sample_rate,
        frame_length,
        frame_step,
        fft_length,
        mels,
        low_hz,
        high_hz,
        floor=1e-6,
        mfcc=0,
        power=2.0,
    ):
        cdef edge_audio_options given
        given.sample_rate = _number("sample_rate", sample_rate)
        if not 0 < given.sample_rate <= 1e9:
            raise InputError(f"sample_rate: need more than 0 Hz and at most 1e9, not {sample_rate}")
        self.frame_length = given.frame_length = _integer("frame_length", frame_length, 1, LONGEST)
        self.frame_step = given.frame_step = _integer("frame_step", frame_step, 1, LONGEST)
        given.fft_length = _integer("fft_length", fft_length, 4, LONGEST)
        if given.fft_length & (given.fft_length - 1) or given.fft_length < given.frame_length:
            raise InputError(
                f"fft_length: need a power of two of at least frame_length, {frame_length}, not {fft_length}"
            )
        given.mels = _integer("mels", mels, 1, MOST_MELS)
        given.mfcc = _integer("mfcc", mfcc, 0, mels)
        given.low_hz, given.high_hz = _number("low_hz", low_hz), _number("high_hz", high_hz)
        if not 0 <= given.low_hz < given.high_hz <= given.sample_rate / 2:
            raise InputError(
                f"low_hz, high_hz: need 0 <= low < high <= {given.sample_rate / 2:g}, half the sample rate, "
                f"not {given.low_hz:g} and {given.high_hz:g}"
            )
        given.floor = <float>_number("floor", floor)
        if not SMALLEST <= given.floor <= 1:
            raise InputError(f"floor: need a number above 0 and at most 1, not {floor}")
        number = _number("power", power)
        if number not in (1.0, 2.0):
            raise InputError(f"power: need 1.0 for magnitudes or 2.0 for powers, not {power}")
        given.magnitude = number == 1.0
        self.plan = edge_audio_make(&given)
        if self.plan == NULL:
            raise MemoryError
        self.columns = given.mfcc if given.mfcc else given.mels
        self.options = {
            "sample_rate": sample_rate,
            "frame_length": frame_length,
            "frame_step": frame_step,
            "fft_length": fft_length,
            "mels": mels,
            "low_hz": low_hz,
            "high_hz": high_hz,
            "floor": floor,
            "mfcc": mfcc,
            "power": power,
        }

    def __dealloc__(self):
        edge_audio_free(self.plan)

    def __reduce__(self):
        return _made, (self.options,)

    def __repr__(self):
        return f"LogMel({', '.join(f'{key}={value!r}' for key, value in self.options.items())})"

    @property
    def window(self):
        """The window: ndarray of float32, shape (frame_length,)."""
        values = np.empty(self.frame_length, FLOAT32)
        edge_audio_window(self.plan, <float *>_target(values))
        return values

    @property
    def weights(self):
        """The filters: ndarray of float32, shape (fft_length / 2 + 1, mels); in use they are sparse."""
        values = np.empty((self.options["fft_length"] // 2 + 1, self.options["mels"]), FLOAT32)
        edge_audio_weights(self.plan, <float *>_target(values))
        return values

    def frames(self, samples):
        """How many frames a number of samples has; a last one that is not whole does not count."""
        return self._frames(_integer("samples", samples, 0, sys.maxsize))

    cdef Py_ssize_t _frames(self, Py_ssize_t samples) noexcept nogil:
        return 0 if samples < self.frame_length else 1 + (samples - self.frame_length) // self.frame_step

    def __call__(self, x, out=None):
        """Features of a recording. Releases the GIL.

        Parameters
        ----------
        x : ndarray of float32 or int16, shape (n,)
            At least one frame. Floats are usually within ±1; integers stand for 1/32768 each.
        out : ndarray of float32, C-contiguous, shape (frames(n), mels or mfcc), optional
            Filled and returned; does not share memory with `x`. A new array by default.

        Returns
        -------
        ndarray of float32, shape (frames(n), mels or mfcc)

        Raises
        ------
        InputError
            Wrong dtype, rank or `out`, less than one frame, or a sample that is not finite or
            beyond ±1e9.
        """
        cdef Py_ssize_t frames
        cdef float *filled
        cdef void *scratch

        _check_samples(x)
        frames = self._frames(x.shape[0])
        if frames == 0:
            raise InputError(f"x: need at least one frame of {self.frame_length} samples, not {x.shape[0]}")
        shape = (frames, self.columns)
        if out is None:
            out = np.empty(shape, FLOAT32)
        else:
            _check_out(out, shape, x)
        filled = <float *>_target(out)
        x = np.ascontiguousarray(x)
        scratch = malloc(edge_audio_scratch(self.plan))
        if scratch == NULL:
            raise MemoryError
        try:
            self._run(x, frames, scratch, filled)
        finally:
            free(scratch)
        return out

    cdef int _run(self, x, Py_ssize_t frames, void *scratch, float *out) except -1:
        cdef const void *given = _source(x)
        cdef size_t count = x.shape[0], bad
        if x.dtype == INT16:
            with nogil:
                edge_audio_run(self.plan, current, NULL, <const int16_t *>given, frames, scratch, out)
            return 0
        with nogil:
            bad = edge_audio_first_bad(<const float *>given, count)
            if bad == count:
                edge_audio_run(self.plan, current, <const float *>given, NULL, frames, scratch, out)
        if bad != count:
            raise InputError(_bad_sample(x, bad))
        return 0

    def stream(self):
        """Begin a recording that comes in chunks: a `LogMelStream`."""
        return LogMelStream(self)


cdef class LogMelStream:
    """Features of a recording that comes in chunks: the same bits as of the whole, however it is cut.

    What the next frame needs is kept from chunk to chunk. One thread at a time pushes; a second one
    is refused.

    Parameters
    ----------
    log_mel
        What to compute.
    """

    cdef LogMel log_mel
    cdef float *kept
    cdef void *scratch
    cdef Py_ssize_t held, room, skipped
    cdef bint busy

    def __cinit__(self, LogMel log_mel not None):
        self.log_mel = log_mel
        self.scratch = malloc(edge_audio_scratch(log_mel.plan))
        if self.scratch == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.kept)
        free(self.scratch)

    def reset(self):
        """Forget what was kept: the next chunk begins a recording.

        Raises
        ------
        InputError
            Another thread is in `push`.
        """
        if self.busy:
            raise InputError("stream: another thread is pushing; give each thread a stream of its own")
        self.held = self.skipped = 0

    def push(self, x):
        """Features of the frames that this chunk completes. Releases the GIL.

        Parameters
        ----------
        x : ndarray of float32 or int16, shape (n,)
            The next samples, of any number; integers stand for 1/32768 each.

        Returns
        -------
        ndarray of float32, shape (k, mels or mfcc)
            k is 0 as long as no frame is whole.

        Raises
        ------
        InputError
            Wrong dtype or rank, or a sample that is not finite or beyond ±1e9: the stream is as if
            the chunk had not come. Or another thread is in `push`.
        """
        if self.busy:
            raise InputError("stream: another thread is pushing; give each thread a stream of its own")
        self.busy = True
        try:
            return self._push(x)
        finally:
            self.busy = False

    cdef _push(self, x):
        cdef const float *samples
        cdef float *rows
        cdef Py_ssize_t count, total, frames, used, skip, length = self.log_mel.frame_length
        cdef size_t bad

        _check_samples(x)
        x = np.ascontiguousarray(x)
        if x.dtype == INT16:
            x = x * np.float32(1.0 / 32768.0)
        else:
            count = x.shape[0]
            bad = edge_audio_first_bad(<const float *>_source(x), count)
            if bad != <size_t>count:
                raise InputError(_bad_sample(x, bad))
        count = x.shape[0]
        skip = min(self.skipped, count)
        total = self.held + count - skip
        frames = self.log_mel._frames(total)
        out = np.empty((frames, self.log_mel.columns), FLOAT32)
        if total == 0:
            self.skipped -= skip
            return out
        self._make_room(total)
        if count > skip:
            samples = <const float *>_source(x)
            memcpy(self.kept + self.held, samples + skip, (count - skip) * sizeof(float))
        self.skipped -= skip
        self.held = total
        if frames > 0:
            rows = <float *>_target(out)
            with nogil:
                edge_audio_run(self.log_mel.plan, current, self.kept, NULL, frames, self.scratch, rows)
            used = frames * self.log_mel.frame_step
            self.skipped = max(used - total, 0)
            self.held = max(total - used, 0)
            memmove(self.kept, self.kept + (total - self.held), self.held * sizeof(float))
        if self.room > 4 * max(self.held, length):  # a long chunk's memory is not kept for ever
            self._take(max(self.held, length))
        return out

    cdef int _make_room(self, Py_ssize_t total) except -1:
        if total > self.room:
            self._take(total)
        return 0

    cdef int _take(self, Py_ssize_t room) except -1:
        cdef float *moved = <float *>malloc(room * sizeof(float))
        if moved == NULL:
            raise MemoryError
        if self.held > 0:
            memcpy(moved, self.kept, self.held * sizeof(float))
        free(self.kept)
        self.kept = moved
        self.room = room
        return 0


def _made(options):
    return LogMel(**options)


cdef _kind(value):
    return f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


cdef _bad_sample(x, Py_ssize_t index):
    return f"x: sample {index} is {x[index]}; samples are finite and within ±1e9, usually ±1"


cdef int _check_samples(x) except -1:
    if not isinstance(x, np.ndarray) or (x.dtype != FLOAT32 and x.dtype != INT16) or x.ndim != 1:
        raise InputError(f"x: need float32 or int16 of shape (n,), one channel, not {_kind(x)}")
    return 0


cdef int _check_out(out, shape, x) except -1:
    if not isinstance(out, np.ndarray) or out.dtype != FLOAT32 or out.shape != shape:
        raise InputError(f"out: need float32 of shape {shape}, not {_kind(out)}")
    if not out.flags.c_contiguous or not out.flags.writeable or np.may_share_memory(out, x):
        raise InputError("out: need a writeable C-contiguous array that does not share memory with x")
    return 0


cdef double _number(name, value) except? -1.0:
    if isinstance(value, (bool, str, bytes)):
        raise InputError(f"{name}: need a number, not {type(value).__name__}")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name}: need a number, not {type(value).__name__}") from None
    if not math.isfinite(number):
        raise InputError(f"{name}: need a finite number, not {number}")
    return number


cdef Py_ssize_t _integer(name, value, Py_ssize_t low, Py_ssize_t high) except? -1:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InputError(f"{name}: need an integer, not {type(value).__name__}")
    if not low <= value <= high:
        raise InputError(f"{name}: need an integer in {low}..{high}, not {value}")
    return value
