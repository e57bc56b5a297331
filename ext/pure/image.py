"""From a uint8 frame to a model's input tensor: the twin of `edge_sdk.ext.image`.

`sampled`, `colored` and `rgb_of` are what the reference executor of a processing specification is
made of, too.
"""

from __future__ import annotations

import operator
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError
from edge_sdk.ext.pure.checks import kind

__all__ = [
    "LUMA",
    "ImagePlan",
    "colored",
    "image_to_tensor",
    "path",
    "paths",
    "planes_in",
    "rgb_of",
    "sampled",
    "use_path",
]

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in grey: ITU-R BT.601."""

_T = TypeVar("_T", np.float32, np.float16, np.int8, np.uint8)
_Doubles: TypeAlias = NDArray[np.float64]
_Part: TypeAlias = tuple[int, int, int, int]
_Plane: TypeAlias = NDArray[np.uint8]

_TYPES = tuple(map(np.dtype, (np.float32, np.float16, np.int8, np.uint8)))
_CHANNELS = {"rgb": (1, 3, 4), "bgr": (3, 4)}
_MAX_SIDE = 1 << 24


def path() -> str:
    """Return the name of the code that runs."""
    return "numpy"


def paths() -> tuple[str, ...]:
    """Return the names of the paths there are: this one."""
    return ("numpy",)


def use_path(name: str) -> None:
    """Refuse any path but this one."""
    if name not in paths():
        raise InputError(f"path: there are {', '.join(paths())} here, not {name!r}")


class ImagePlan:
    """`image_to_tensor` for many frames of one shape; there is nothing to work out ahead here."""

    def __init__(
        self,
        frame: _Plane | tuple[_Plane, _Plane],
        out: NDArray[Any],
        *,
        mean: NDArray[np.float32],
        gain: NDArray[np.float32],
        planar: bool = False,
        zero_point: int = 0,
        pixels: Literal["rgb", "bgr", "nv12", "yuyv"] = "rgb",
        window: _Part | None = None,
        inner: _Part | None = None,
        fill: float = 0.0,
        nearest: bool = False,
        antialias: bool = False,
        yuv: NDArray[np.float32] | None = None,
    ) -> None:
        _check_frame(frame, pixels)
        self._shapes = _shapes(frame, pixels)
        one = out[0] if isinstance(out, np.ndarray) and out.ndim == 4 and len(out) == 1 else out
        height, width, channels = self._size = _check_out(one, planar, zero_point)
        self._out_shape, self._out_dtype = out.shape, out.dtype
        _check_constants("mean", mean, channels)
        _check_constants("gain", gain, channels)
        if pixels in ("nv12", "yuyv"):
            _check_constants("yuv", yuv, 6)
        self._window = _part("window", window, *self._shapes[0][:2])
        self._inner = _part("inner", inner, height, width)
        if antialias and (nearest or pixels in ("nv12", "yuyv")):
            raise InputError("antialias: is for bilinear sampling of rgb and bgr frames")
        self._mean, self._gain, self._planar, self._zero_point = mean.copy(), gain.copy(), planar, zero_point
        self._pixels, self._level, self._nearest, self._antialias = pixels, fill, nearest, antialias
        self._yuv = np.array(yuv, np.float64)

    def fill(self, frame: Any, out: Any) -> bool:
        """Fill `out` from a frame; False where they are not as planned."""
        if not isinstance(out, np.ndarray) or not out.flags.c_contiguous or not out.flags.writeable:
            return False
        try:
            _check_frame(frame, self._pixels)
        except InputError:
            return False
        if _shapes(frame, self._pixels) != self._shapes or (out.dtype, out.shape) != (self._out_dtype, self._out_shape):
            return False
        self._run(planes_in(frame, self._pixels), out[0] if out.ndim == 4 else out)
        return True

    def _run(self, planes: tuple[_Plane, ...], out: NDArray[Any]) -> None:
        above, left, tall, wide = self._inner
        x = sampled(planes[0], self._window, (tall, wide), nearest=self._nearest, antialias=self._antialias)
        if len(planes) == 2:
            size = planes[0].shape[:2]
            chroma = sampled(planes[1], self._window, (tall, wide), nearest=self._nearest, luma_size=size)
            x = rgb_of(x, chroma, self._yuv)
        levels = np.full(self._size, np.float32(self._level), np.float64)
        levels[above : above + tall, left : left + wide] = colored(x, self._size[2])
        with np.errstate(over="ignore", invalid="ignore"):
            values = (levels - self._mean) * self._gain.astype(np.float64)
            if out.dtype.kind in "iu":
                limits = np.iinfo(str(out.dtype))
                values = np.clip(np.rint(values) + self._zero_point, limits.min, limits.max)
            out[...] = np.moveaxis(values, 2, 0) if self._planar else values


def image_to_tensor(
    frame: _Plane | tuple[_Plane, _Plane],
    out: NDArray[_T],
    *,
    mean: NDArray[np.float32],
    gain: NDArray[np.float32],
    planar: bool = False,
    zero_point: int = 0,
    pixels: Literal["rgb", "bgr", "nv12", "yuyv"] = "rgb",
    window: _Part | None = None,
    inner: _Part | None = None,
    fill: float = 0.0,
    nearest: bool = False,
    antialias: bool = False,
    yuv: NDArray[np.float32] | None = None,
) -> NDArray[_T]:
    """Resize, fill, convert colours, normalise and quantise a frame into a tensor."""
    _check_out(out, planar, zero_point)
    plan = ImagePlan(
        frame,
        out,
        mean=mean,
        gain=gain,
        planar=planar,
        zero_point=zero_point,
        pixels=pixels,
        window=window,
        inner=inner,
        fill=fill,
        nearest=nearest,
        antialias=antialias,
        yuv=yuv,
    )
    plan.fill(frame, out)
    return out


def _shapes(frame: Any, pixels: str) -> list[tuple[int, ...]]:
    planes = planes_in(frame, pixels) if pixels == "nv12" else (np.atleast_3d(frame),)
    return [plane.shape for plane in planes]


def planes_in(frame: _Plane | tuple[_Plane, _Plane], pixels: str) -> tuple[_Plane, ...]:
    """Return the planes of a frame that has been checked: (H, W, C), or luma (H, W, 1) and chroma (h, w, 2)."""
    if pixels == "nv12":
        if isinstance(frame, tuple):
            return frame[0][:, :, None], frame[1]
        height = frame.shape[0] // 3 * 2
        return frame[:height, :, None], frame[height:].reshape(height // 2, frame.shape[1] // 2, 2)
    assert not isinstance(frame, tuple)  # they were checked
    if pixels == "yuyv":
        return frame[:, :, :1], np.stack([frame[:, ::2, 1], frame[:, 1::2, 1]], axis=-1)
    return (frame[:, :, 2::-1] if pixels == "bgr" else np.atleast_3d(frame)[:, :, :3],)


def colored(x: _Doubles, channels: int) -> _Doubles:
    """Return grey or colours with so many channels."""
    if channels == 3:
        return np.repeat(x, 3, axis=2) if x.shape[2] == 1 else x
    return x if x.shape[2] == 1 else (x @ LUMA)[:, :, None]


def rgb_of(luma: _Doubles, chroma: _Doubles, yuv: _Doubles) -> _Doubles:
    """Return colours, clipped to 0..255, of luma (h, w, 1) and chroma (h, w, 2) by the six constants of a matrix."""
    black, gain, v_to_r, u_to_g, v_to_g, u_to_b = yuv
    y, (u, v) = (luma[:, :, 0] - black) * gain, np.moveaxis(chroma - 128.0, 2, 0)
    colours = np.stack([y + v * v_to_r, y + u * u_to_g + v * v_to_g, y + u * u_to_b], axis=-1)
    clipped: _Doubles = np.clip(colours, 0.0, 255.0)
    return clipped


def sampled(
    x: NDArray[Any],
    window: _Part,
    size: tuple[int, int],
    *,
    nearest: bool = False,
    antialias: bool = False,
    luma_size: tuple[int, int] | None = None,
) -> _Doubles:
    """Resize a part of a plane.

    Parameters
    ----------
    x : ndarray, shape (H, W, C)
    window
        Top, left, height and width of the part, in pixels of the frame.
    size
        Height and width to resize to.
    nearest, antialias
        How; bilinear by default.
    luma_size
        Height and width of the frame, where `x` is chroma, which may have half as many.
    """
    for axis, count in enumerate(size):
        low, extent = window[axis], window[axis + 2]
        if antialias:
            x = _averaged(x, axis, low, extent, count)
        else:
            halved = luma_size is not None and x.shape[axis] < luma_size[axis]
            x = _sampled_axis(x, axis, low, extent, count, nearest, halved)
    return x.astype(np.float64)


def _sampled_axis(
    x: NDArray[Any], axis: int, low: int, extent: int, count: int, nearest: bool, halved: bool
) -> NDArray[Any]:
    """Half-pixel centres, clamped to the window; chroma has one sample in the middle of two pixels."""
    if nearest:
        pixel = low + (2 * np.arange(count) + 1) * extent // (2 * count)
        return np.take(x, pixel // 2 if halved else pixel, axis)
    at = low + (np.arange(count) + 0.5) * extent / count - 0.5
    at = np.clip((at + 0.5) / 2 - 0.5, 0, x.shape[axis] - 1) if halved else np.clip(at, low, low + extent - 1)
    first = at.astype(np.intp)
    second = np.minimum(first + 1, x.shape[axis] - 1)
    weight = (at - first).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    resized: _Doubles = np.take(x, first, axis) * (1 - weight) + np.take(x, second, axis) * weight
    return resized


def _averaged(x: NDArray[Any], axis: int, low: int, extent: int, count: int) -> _Doubles:
    """Average over triangles that reach as far as the sampled pixels are apart, at least one pixel."""
    scale = extent / count
    centres = (np.arange(count) + 0.5) * scale
    away = np.abs(np.arange(extent) + 0.5 - centres[:, None])
    weights = np.maximum(0.0, 1.0 - away / max(scale, 1.0))
    weights /= weights.sum(axis=1, keepdims=True)
    part = np.take(x, np.arange(low, low + extent), axis)
    averaged: _Doubles = np.moveaxis(np.tensordot(weights, part, axes=(1, axis)), 0, axis)
    return averaged


def _check_frame(frame: Any, pixels: object) -> None:
    name = pixels if isinstance(pixels, str) else ""
    if name == "nv12":
        _check_nv12(frame)
        return
    _check_plane("frame", frame)
    if name == "yuyv":
        if frame.ndim != 3 or frame.shape[2] != 2 or frame.shape[1] % 2:
            raise InputError(f"frame: need shape (H, W, 2) with an even W, not {frame.shape}")
    elif name in _CHANNELS:
        if (1 if frame.ndim == 2 else frame.shape[2]) not in _CHANNELS[name]:
            wanted = "(H, W) or (H, W, 1|3|4)" if name == "rgb" else "(H, W, 3|4)"
            raise InputError(f"frame: need shape {wanted}, not {frame.shape}")
    else:
        raise InputError(f"pixels: need rgb, bgr, nv12 or yuyv, not {pixels!r}")


def _check_nv12(frame: Any) -> None:
    if isinstance(frame, tuple) and len(frame) == 2:
        luma, chroma = frame
        _check_plane("frame[0]", luma)
        _check_plane("frame[1]", chroma)
        if luma.ndim != 2:
            raise InputError(f"frame[0]: need shape (H, W), not {luma.shape}")
        shape = ((luma.shape[0] + 1) // 2, (luma.shape[1] + 1) // 2, 2)
        if chroma.shape != shape:
            raise InputError(f"frame[1]: need shape {shape}, not {chroma.shape}")
        return
    _check_plane("frame", frame)
    if frame.ndim != 2 or frame.shape[0] % 3 or frame.shape[1] % 2 or frame.shape[0] // 3 * 2 % 2:
        raise InputError(f"frame: need shape (H * 3/2, W) with even H and W, or a pair Y, UV, not {frame.shape}")


def _check_plane(name: str, plane: object) -> None:
    if not isinstance(plane, np.ndarray) or plane.dtype != np.uint8:
        raise InputError(f"{name}: need a uint8 array, not {kind(plane)}")
    if plane.ndim not in (2, 3):
        raise InputError(f"{name}: need shape (H, W) or (H, W, C), not {plane.shape}")
    if plane.size == 0:
        raise InputError(f"{name}: is empty (shape {plane.shape})")
    if max(plane.shape[:2]) > _MAX_SIDE:
        raise InputError(f"{name}: {plane.shape[0]} x {plane.shape[1]} is too large")
    channels = 1 if plane.ndim == 2 else plane.shape[2]
    if (channels > 1 and plane.strides[2] != 1) or (plane.shape[1] > 1 and plane.strides[1] != channels):
        raise InputError(f"{name}: the pixels of a row are not contiguous; pass numpy.ascontiguousarray({name})")


def _check_out(out: Any, planar: bool, zero_point: int) -> tuple[int, int, int]:
    if not isinstance(out, np.ndarray) or out.ndim != 3 or out.size == 0:
        raise InputError(f"out: need an array of rank 3 that is not empty, not {kind(out)}")
    if not out.flags.c_contiguous or not out.flags.writeable:
        raise InputError("out: need a writeable C-contiguous array")
    if out.dtype not in _TYPES:
        raise InputError(f"out: need dtype float32, float16, int8 or uint8, not {out.dtype}")
    if out.dtype.kind in "iu":
        low, high = np.iinfo(out.dtype).min, np.iinfo(out.dtype).max
        if not low <= zero_point <= high:
            raise InputError(f"zero_point: {zero_point} is not within {low}..{high}")
    height, width, channels = (out.shape[1], out.shape[2], out.shape[0]) if planar else out.shape
    if channels not in (1, 3):
        raise InputError(f"out: need 1 or 3 channels, not {channels} (shape {out.shape}, planar={planar})")
    if height > _MAX_SIDE or width > _MAX_SIDE:
        raise InputError(f"out: {height} x {width} is too large")
    return height, width, channels


def _check_constants(name: str, value: object, count: int) -> None:
    if not isinstance(value, np.ndarray) or value.dtype != np.float32 or value.shape != (count,):
        raise InputError(f"{name}: need float32 of shape ({count},), not {kind(value)}")


def _part(name: str, part: Any, height: int, width: int) -> _Part:
    if part is None:
        return 0, 0, height, width
    try:
        top, left, tall, wide = (operator.index(value) for value in part)
    except (TypeError, ValueError):
        raise InputError(f"{name}: need (top, left, height, width) in whole pixels") from None
    if not (min(top, left) >= 0 and 0 < tall <= height - top and 0 < wide <= width - left):
        raise InputError(f"{name}: ({top}, {left}, {tall}, {wide}) is not within {height} x {width}")
    return top, left, tall, wide
