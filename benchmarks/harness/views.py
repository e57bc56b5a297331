"""Random views of images, and what a teacher says of them: computed once, for many students and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Views", "crops"]

SHIFT = 4  # pixels
AT_ONCE = 2000


def crops(images: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.uint8]:
    """Shift each of ``[n, h, w, c]`` by up to 4 pixels, edges mirrored, and turn half of them left to right."""
    rng = np.random.default_rng(seed)
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="reflect")
    down, right = rng.integers(0, 2 * SHIFT + 1, len(images)), rng.integers(0, 2 * SHIFT + 1, len(images))
    turned = rng.random(len(images)) < 0.5
    result = np.empty_like(images)
    for i in range(len(images)):
        view = padded[i, down[i] : down[i] + height, right[i] : right[i] + width]
        result[i] = view[:, ::-1] if turned[i] else view
    return result


class Views:
    """Views ``0 .. count - 1`` of a training set; the first is the images as they are.

    Parameters
    ----------
    images
        uint8 ``[n, h, w, c]``.
    teacher
        A Keras model of such pixels as float32.
    folder
        Where views and logits are kept for the next run; it is for one teacher and one set of images.
    """

    def __init__(self, images: npt.NDArray[np.uint8], teacher: Any, folder: Path) -> None:
        self.images, self.teacher, self.folder = images, teacher, folder

    def get(self, count: int, limit: int | None = None) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Return ``count`` views of the first ``limit`` images, one view after the other, and their logits."""
        pairs = [self._view(number) for number in range(count)]
        return np.concatenate([x[:limit] for x, _ in pairs]), np.concatenate([logits[:limit] for _, logits in pairs])

    def _view(self, number: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        files = self.folder / f"x{number}.npy", self.folder / f"l{number}.npy"
        if not all(file.exists() for file in files):
            self.folder.mkdir(parents=True, exist_ok=True)
            view = crops(self.images, number) if number else self.images
            parts = [
                self.teacher.predict(view[at : at + AT_ONCE].astype(np.float32), batch_size=250, verbose=0)
                for at in range(0, len(view), AT_ONCE)
            ]
            np.save(files[0], view)
            np.save(files[1], np.concatenate(parts).astype(np.float32))
        return np.load(files[0]), np.load(files[1])
