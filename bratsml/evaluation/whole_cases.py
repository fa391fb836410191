"""Whole cases through a network: window inference, back to the case's own grid, scored there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from bratsml.data.cases import MODALITIES
from bratsml.data.modalities import channels_of
from bratsml.data.store import CaseMeta, Store
from bratsml.errors import DataError
from bratsml.evaluation.evaluate import EvaluationConfig, case_table, score_case, summarize
from bratsml.evaluation.predictions import ScoringConfig, score_label_maps
from bratsml.geometry import Shape
from bratsml.inference.postprocess import Regions, Step, postprocess
from bratsml.inference.restore import restore
from bratsml.inference.window import InferenceConfig, predict_probabilities
from bratsml.labels import LabelMap, LabelScheme
from bratsml.metrics.rules import get_rule
from bratsml.models.output import Output

Probabilities = npt.NDArray[np.float32]
"""Shape ``(C, X, Y, Z)`` on the case's own grid, one channel per output of the network."""


@dataclass(frozen=True)
class Predictor:
    """A network and how it is applied to a whole case.

    Attributes:
        window: Voxels of one inference window.
        autocast: Gives the context in which forward passes run.
        modalities: Those that the network reads; images are given with all four.
    """

    model: nn.Module
    output: Output
    window: Shape
    inference: InferenceConfig
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    modalities: Sequence[str] = MODALITIES

    def stored_grid(self, image: npt.NDArray[np.generic]) -> Tensor:
        """Probabilities of shape ``(C, X, Y, Z)`` on the grid of the stored image.

        Args:
            image: ``(4, X, Y, Z)`` as it is stored.
        """
        channels = channels_of(self.modalities)
        read = image if len(channels) == len(MODALITIES) else image[list(channels)]
        device = next(self.model.parameters()).device
        return predict_probabilities(
            self.model,
            self.output,
            torch.from_numpy(np.array(read, dtype=np.float32)),
            self.window,
            self.inference,
            device,
            self.autocast,
        )

    def own_grid(self, image: npt.NDArray[np.generic], meta: CaseMeta) -> Probabilities:
        """Probabilities on the case's own grid; voxels outside the crop are background."""
        return restore_probabilities(self.stored_grid(image).numpy(), meta, self.output)


def restore_probabilities(stored: Probabilities, meta: CaseMeta, output: Output) -> Probabilities:
    """Bring probabilities from the stored to the case's own grid.

    Outside the crop every channel is 0, except that with exclusive classes the background is 1.
    """
    # a copy: restoring may give a view with mirrored axes, which torch does not take
    whole: Probabilities = np.ascontiguousarray(restore(stored, meta, linear=True), np.float32)
    if output.exclusive:
        whole[0] += 1.0 - whole.sum(axis=0)
    return whole


def masks_of(
    output: Output, probabilities: Probabilities, steps: Sequence[Step] = ()
) -> npt.NDArray[np.bool_]:
    """Nested region masks ``(R, X, Y, Z)`` after post-processing, as they are scored.

    Args:
        probabilities: Of the network's channels, on any grid.
    """
    channels = torch.from_numpy(probabilities)
    return postprocess(
        output.region_masks(channels).numpy(),
        output.region_probabilities(channels).numpy(),
        Regions.of(output.scheme, output.regions),
        steps,
    )


def label_map_of(
    output: Output, probabilities: Probabilities, steps: Sequence[Step] = ()
) -> LabelMap:
    """Label map ``(X, Y, Z)`` after post-processing, as it is written."""
    if not steps:
        return output.label_map(torch.from_numpy(probabilities))
    return output.scheme.label_map(masks_of(output, probabilities, steps), output.regions)


@dataclass
class CaseScorer:
    """Scores a network on the cases of one split, each on its own grid against its own labels.

    Attributes:
        steps: Post-processing before scoring.
        loss: Given logits and target on the stored grid; ``None`` leaves the loss out.
    """

    store: Store
    case_ids: Sequence[str]
    scheme: LabelScheme
    evaluation: EvaluationConfig
    loss: nn.Module | None = None
    steps: Sequence[Step] = ()

    def score(
        self,
        predictor: Predictor,
        prefix: str,
        keep: Callable[[str, Tensor], None] | None = None,
        everything: bool = False,
    ) -> tuple[dict[str, float], pd.DataFrame]:
        """Summary metrics (names start with ``prefix/``) and the case x region table.

        Args:
            keep: Given every case id and its probabilities on the stored grid.
            everything: See :meth:`rows`.
        """
        rows, losses = [], []
        for case_id, stored, whole in self.predictions(predictor):
            if keep is not None:
                keep(case_id, stored)
            rows += self.rows(case_id, predictor.output, whole, everything=everything)
            if self.loss is not None:
                losses.append(self._loss_of(case_id, stored, predictor.output))
        table = case_table(rows)
        metrics = summarize(table, prefix)
        if losses:
            metrics[f"{prefix}/loss"] = float(np.mean(losses))
        return metrics, table

    def predictions(self, predictor: Predictor) -> Iterator[tuple[str, Tensor, Probabilities]]:
        """``(case id, probabilities on the stored grid, on the own grid)``, one case at a time."""
        for case_id in self.case_ids:
            stored = predictor.stored_grid(self.store.image(case_id))
            meta = self.store.meta(case_id)
            yield case_id, stored, restore_probabilities(stored.numpy(), meta, predictor.output)

    def rows(
        self,
        case_id: str,
        output: Output,
        probabilities: Probabilities,
        *,
        everything: bool = False,
    ) -> list[dict[str, Any]]:
        """Table rows of one case, given probabilities on its own grid.

        Args:
            everything: Also where points are lost and, if there is a rule, lesion by lesion.
        """
        spacing_mm = self.store.meta(case_id).spacing_mm
        if everything:
            config = ScoringConfig(
                scheme=self.scheme.name,
                regions=output.regions,
                rule=self._rule_for(output.regions),
                evaluation=self.evaluation,
            )
            ours = label_map_of(output, probabilities, self.steps)
            return score_label_maps(case_id, ours, self._label_map(case_id), spacing_mm, config)
        return score_case(
            case_id,
            masks_of(output, probabilities, self.steps),
            self.reference(case_id, output.regions),
            output.regions,
            spacing_mm,
            self.evaluation,
        )

    def _rule_for(self, regions: Sequence[str]) -> str:
        """The rule's name, if it scores every region asked for."""
        name = self.evaluation.rule_for(self.scheme.name)
        return name if name and set(regions) <= set(get_rule(name).regions) else ""

    def reference(self, case_id: str, regions: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Region stack ``(R, X, Y, Z)`` of the case's own label map.

        Raises:
            DataError: The case has no label map.
        """
        return self.scheme.region_stack(self._label_map(case_id), regions)

    def _label_map(self, case_id: str) -> LabelMap:
        label_map = self.store.reference(case_id)
        if label_map is None:
            raise DataError(case_id, "", "has no label map", "score cases with label maps only")
        return label_map

    def _loss_of(self, case_id: str, stored: Tensor, output: Output) -> float:
        """Loss on the whole stored case, from probabilities turned back into logits."""
        assert self.loss is not None
        label = torch.from_numpy(np.array(self.store.label(case_id)))[None, None]
        tiny = 1e-6
        clamped = stored.clamp(tiny, 1 - tiny)[None]
        logits = clamped.log() if output.exclusive else clamped.logit()
        with torch.inference_mode():
            return float(self.loss(logits, output.target(label)))
