"""What the members of an ensemble say of one case, kept on disk and read back in thin slabs.

Members are added one at a time and leave memory at once, so memory does not grow with their number;
only the box in which any member sees anything is kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import cast

import numpy as np
import numpy.typing as npt

from bratsml.errors import ResourceError
from bratsml.files import open_array
from bratsml.geometry import CropBox, Shape

Probabilities = npt.NDArray[np.float32]
"""Per region ``(R, X, Y, Z)``, 0 to 1."""
Block = npt.NDArray[np.float32]
"""A slab by every member, ``(M, R, x, Y, Z)``."""

SLAB_VALUES = 1 << 24
"""Numbers of one slab over all members: 64 MB, or one plane where that is more."""


@dataclass(frozen=True)
class _Stored:
    """One member's probabilities within its own box; no box when all are 0."""

    path: Path
    box: CropBox | None


class MemberVolumes:
    """Region probabilities of one case by each member, on the case's own grid.

    A context manager: the temporary files are gone afterwards.
    """

    def __init__(self, num_regions: int, shape: Shape, slab_values: int = SLAB_VALUES) -> None:
        self.num_regions, self.shape, self.slab_values = num_regions, shape, slab_values
        self._members: list[_Stored] = []
        self._around: CropBox | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="bratsml-ensemble-")

    def __enter__(self) -> MemberVolumes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the temporary files; leaving the context does so too."""
        self._folder.cleanup()

    def __len__(self) -> int:
        return len(self._members)

    def add(self, probabilities: Probabilities) -> None:
        """Keep the next member's probabilities ``(R, X, Y, Z)``.

        Raises:
            ValueError: Another shape than the case has.
            ResourceError: The temporary folder is full.
        """
        if probabilities.shape != (self.num_regions, *self.shape):
            raise ValueError(
                f"probabilities of shape {probabilities.shape} for {self.num_regions} regions on "
                f"a grid of {self.shape}"
            )
        box = CropBox.around(np.any(probabilities > 0, axis=0, keepdims=True)[0])
        path = Path(self._folder.name) / f"{len(self._members)}.npy"
        if box is not None:
            try:
                np.save(path, box.crop(probabilities).astype(np.float32, copy=False))
            except OSError as error:
                raise ResourceError(
                    f"{error.strerror or 'error'} while keeping an ensemble's members in "
                    f"{self._folder.name}; set TMPDIR to a folder with room"
                ) from error
            self._widen(box)
        self._members.append(_Stored(path, box))

    def include(self, mask: npt.NDArray[np.bool_]) -> None:
        """Widen the box to hold a mask ``(X, Y, Z)``, as of the reference."""
        box = CropBox.around(mask)
        if box is not None:
            self._widen(box)

    @property
    def box(self) -> CropBox:
        """Holds every voxel with a probability above 0, and every included mask; never empty."""
        return self._around or CropBox((0, 0, 0), (1, 1, 1))

    def blocks(self, members: Sequence[int] | None = None) -> Iterator[tuple[slice, Block]]:
        """The box slab by slab along X: place within the box, and what each member says there.

        Args:
            members: Numbers in the order they were added; all if not given.
        """
        chosen = range(len(self)) if members is None else members
        height, *plane = self.box.shape
        values_per_plane = max(1, len(chosen)) * self.num_regions * int(np.prod(plane))
        planes = max(1, self.slab_values // values_per_plane)
        for start in range(0, height, planes):
            place = slice(start, min(start + planes, height))
            shape = (len(chosen), self.num_regions, place.stop - place.start, *plane)
            block = np.zeros(shape, dtype=np.float32)
            for row, member in enumerate(chosen):
                self._fill(block[row], self._members[member], place)
            yield place, block

    def paste(self, cropped: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """An array on the box as one on the whole grid, 0 outside."""
        return cast(npt.NDArray[np.float32], self.box.paste(cropped, self.shape))

    def _fill(self, target: npt.NDArray[np.float32], member: _Stored, place: slice) -> None:
        """Write a member's share of a slab ``(R, x, Y, Z)`` into it."""
        if member.box is None:
            return
        offset = [own - whole for own, whole in zip(member.box.start, self.box.start, strict=True)]
        size = member.box.shape
        first, last = max(place.start, offset[0]), min(place.stop, offset[0] + size[0])
        if first >= last:
            return
        kept = open_array(member.path)
        target[
            :,
            first - place.start : last - place.start,
            offset[1] : offset[1] + size[1],
            offset[2] : offset[2] + size[2],
        ] = kept[:, first - offset[0] : last - offset[0]]

    def _widen(self, box: CropBox) -> None:
        if self._around is None:
            self._around = box
            return
        start = np.minimum(self._around.start, box.start).tolist()
        stop = np.maximum(self._around.stop, box.stop).tolist()
        self._around = CropBox((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
