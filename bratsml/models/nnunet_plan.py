"""nnU-Net's rule for the stages of a U-Net, given patch and spacing (Isensee et al. 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bratsml.errors import ConfigError
from bratsml.geometry import Shape

SMALLEST_SIDE = 4
"""No axis is halved below as many voxels."""
ANISOTROPIC = 2.0
"""Axes whose spacing is that many times the finest one wait until the others have caught up."""


@dataclass(frozen=True)
class Plan:
    """Strides and kernels of every stage, finest first; the first stage has stride 1."""

    strides: tuple[Shape, ...]
    kernels: tuple[Shape, ...]

    @property
    def factors(self) -> Shape:
        """What the sides of a patch must be multiples of."""
        x, y, z = (math.prod(stride[axis] for stride in self.strides) for axis in range(3))
        return x, y, z


def plan_stages(patch: Shape, spacing_mm: tuple[float, float, float]) -> Plan:
    """Halve axes until their sides reach 4 voxels, the finest in millimetres first.

    An axis takes part in a convolution (kernel 3 instead of 1) from the stage on at which its
    spacing is less than twice the finest.

    Args:
        patch: Voxels along each axis; each must be a multiple of two to the number of its halvings.
        spacing_mm: Of the patch's voxels.

    Raises:
        ConfigError: No axis can be halved, or a halving would leave half a voxel.
    """
    if min(spacing_mm) <= 0:
        raise ConfigError(f"spacing_mm must be positive, received {list(spacing_mm)}")
    size, spacing = list(patch), list(spacing_mm)
    strides, kernels = [(1, 1, 1)], []
    kernel = [1, 1, 1]
    while halved := _axes_to_halve(size, spacing):
        finest = min(spacing)
        kernel = [
            3 if kernel[axis] == 3 or spacing[axis] / finest < ANISOTROPIC else 1
            for axis in range(3)
        ]
        kernels.append(_shape(kernel))
        strides.append(_shape([2 if axis in halved else 1 for axis in range(3)]))
        for axis in halved:
            size[axis] //= 2
            spacing[axis] *= 2
    if len(strides) < 2:
        raise ConfigError(
            f"planned_patch {list(patch)} is too small to be halved; use sides of "
            f"{2 * SMALLEST_SIDE} voxels or more"
        )
    plan = Plan(tuple(strides), (*kernels, (3, 3, 3)))
    if any(side % factor for side, factor in zip(patch, plan.factors, strict=True)):
        raise ConfigError(
            f"planned_patch {list(patch)} would be halved to fractions of a voxel; make its sides "
            f"multiples of {list(plan.factors)}"
        )
    return plan


def _axes_to_halve(size: list[int], spacing: list[float]) -> list[int]:
    """The axes that are large enough and not much coarser than the finest of these."""
    large = [axis for axis in range(3) if size[axis] >= 2 * SMALLEST_SIDE]
    if not large:
        return []
    finest = min(spacing[axis] for axis in large)
    near = [axis for axis in large if spacing[axis] / finest < ANISOTROPIC]
    if len(near) == 1 and size[near[0]] < 3 * SMALLEST_SIDE:
        return []
    return near


def _shape(values: list[int]) -> Shape:
    x, y, z = values
    return x, y, z
