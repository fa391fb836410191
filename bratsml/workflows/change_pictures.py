"""Pictures of the cases that two results differ most on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bratsml.errors import BratsmlError
from bratsml.figures.overlay import overlay_figure
from bratsml.tracking.render import Picture
from bratsml.tracking.runs import RecordedRun
from bratsml.workflows.out_of_fold import OutOfFold

PICTURES_EACH_WAY = 1


def change_pictures(
    first: RecordedRun,
    second: RecordedRun,
    names: tuple[str, str],
    changes: pd.DataFrame,
) -> list[Picture]:
    """Overlays of the most worsened and the most improved case, in both results.

    None for runs that kept no probabilities and where the data is no longer at hand.

    Args:
        first, second: ``cv`` runs of the same cases.
        changes: As :func:`bratsml.evaluation.subgroups.case_changes` gives it.
    """
    try:
        results = [OutOfFold.of(run.run_id, "") for run in (first, second)]
        return [
            Picture(_picture(result, case_id, f"{direction}: {case_id} by {name}"))
            for direction, case_id in _most_changed(changes)
            for result, name in zip(results, names, strict=True)
        ]
    except BratsmlError:
        return []


def _most_changed(changes: pd.DataFrame) -> list[tuple[str, str]]:
    worsened = changes[changes["change"] < 0]["case"].head(PICTURES_EACH_WAY)
    improved = changes[changes["change"] > 0]["case"].tail(PICTURES_EACH_WAY)
    return [("worsened", str(c)) for c in worsened] + [("improved", str(c)) for c in improved]


def _picture(result: OutOfFold, case_id: str, title: str) -> object:
    meta, store = result.store.meta(case_id), result.store
    label = np.asarray(store.label(case_id))
    regions = result.output.regions
    return overlay_figure(
        np.asarray(store.image(case_id), dtype=np.float32),
        result.output.scheme.region_stack(label, regions),
        result.stored_masks(result.fold_of(case_id), case_id),
        regions,
        title,
        spacing_mm=meta.stored_spacing_mm,
    )
