"""What is known of a stored case besides its voxels: its grids, its intensities, its regions."""

from __future__ import annotations

import numpy as np

from bratsml.config import Config
from bratsml.geometry import Affine, CropBox, Reorientation, Shape, Spacing

Row = tuple[float, float, float, float]


class Intensity(Config):
    """Of one modality inside the brain, before normalisation, in the file's own units."""

    mean: float
    std: float
    minimum: float
    maximum: float


class CaseMeta(Config):
    """All that is known of a stored case besides its voxels.

    Grids, in the order a case passes them: *original* (as in its files), *RAS* (axes turned),
    *resampled* (1 mm; the same as RAS when it was at 1 mm), *cropped*, *stored* (the same as
    cropped unless the recipe resizes).

    Attributes:
        id, patient, cohort: As in :class:`bratsml.data.cases.CaseFiles`.
        label_scheme: Meaning of the label values.
        has_label: Whether there is a label map.
        original_shape: Along the axes of the files.
        affine: Of the original grid, voxel indices to millimetres.
        spacing_mm: Voxel size of the original grid along the axes of the files.
        permutation, flips: The turn to RAS, see :class:`bratsml.geometry.Reorientation`.
        resampled_shape: ``None`` when the case was not interpolated to 1 mm.
        crop_start, crop_stop: Crop box in the resampled (or RAS) grid.
        shape: Of the stored arrays.
        volume_ml: Region to volume, measured on the original label map.
        foreground: Region to flat C-order indices of stored voxels within it, a sorted random
            sample; empty where the region has none.
        intensities: Modality to what normalisation was based on.
        flags: Oddities that do not disqualify, e.g. ``no foreground``.
        source_hash: Of the raw files' content.
        key: Of everything the stored arrays depend on.
    """

    id: str
    patient: str
    cohort: str
    label_scheme: str
    has_label: bool
    original_shape: Shape
    affine: tuple[Row, Row, Row, Row]
    spacing_mm: Spacing
    permutation: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    resampled_shape: Shape | None
    crop_start: Shape
    crop_stop: Shape
    shape: Shape
    volume_ml: dict[str, float]
    foreground: dict[str, list[int]]
    intensities: dict[str, Intensity]
    flags: tuple[str, ...] = ()
    source_hash: str = ""
    key: str = ""

    @property
    def affine_matrix(self) -> Affine:
        """Affine of the original grid as an array."""
        return np.array(self.affine, dtype=np.float64)

    @property
    def reorientation(self) -> Reorientation:
        """The turn from the original axes to RAS."""
        return Reorientation(self.permutation, self.flips)

    @property
    def ras_shape(self) -> Shape:
        """Original shape with the axes in RAS order."""
        x, y, z = (self.original_shape[axis] for axis in self.permutation)
        return x, y, z

    @property
    def ras_spacing_mm(self) -> Spacing:
        """Original voxel size with the axes in RAS order."""
        x, y, z = (self.spacing_mm[axis] for axis in self.permutation)
        return x, y, z

    @property
    def crop_box(self) -> CropBox:
        """The box that was kept, in the resampled (or RAS) grid."""
        return CropBox(self.crop_start, self.crop_stop)

    @property
    def is_interpolated(self) -> bool:
        """Whether stored voxels are not simply original voxels."""
        return self.resampled_shape is not None or self.crop_box.shape != self.shape

    @property
    def stored_spacing_mm(self) -> Spacing:
        """Voxel size of the stored arrays along their axes."""
        whole = (1.0, 1.0, 1.0) if self.resampled_shape is not None else self.ras_spacing_mm
        x, y, z = (
            size * cropped / stored
            for size, cropped, stored in zip(whole, self.crop_box.shape, self.shape, strict=True)
        )
        return x, y, z
