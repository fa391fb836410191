"""Patches on their way to the network, perhaps with their augmentation still to be done."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bratsml.data.augment import Change, apply_changes


@dataclass
class Batch:
    """Patches ready for the network.

    Attributes:
        image: ``(N, M, X, Y, Z)`` float32, modalities in the order of ``MODALITIES``; deeper than
            the patch where the loader reads neighbours.
        label: ``(N, 1, X, Y, Z)`` uint8, values of the store's label scheme.
        case_ids: The case of each patch.
        changes: For each patch what its augmentation has yet to do; :meth:`to` does it.
    """

    image: torch.Tensor
    label: torch.Tensor
    case_ids: list[str]
    changes: tuple[tuple[Change, ...], ...] = ()

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory, from which copying to a GPU need not wait."""
        image, label = self.image.pin_memory(), self.label.pin_memory()
        return Batch(image, label, self.case_ids, self.changes)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device, augmented there if that is left to do; CPU batches in place."""
        image = self.image.to(device, non_blocking=True)
        label = self.label.to(device, non_blocking=True)
        for number, changes in enumerate(self.changes):
            apply_changes(image[number], label[number, 0], changes)
        return Batch(image, label, self.case_ids)

    def share_memory(self) -> None:
        """Move the tensors to shared memory."""
        self.image.share_memory_()
        self.label.share_memory_()
