"""Label maps on disk: what is scored, what is refused, and how a missing case counts."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bratsml.evaluation.predictions import Pair, ScoringConfig, score_pair

CONFIG = ScoringConfig(scheme="brats2021", regions=("ET", "TC", "WT"))
DIAGONAL_MM = np.sqrt(8**2 + 8**2 + 8**2)


def label_map() -> np.ndarray:
    volume = np.zeros((8, 8, 8), np.uint8)
    volume[1:5, 1:5, 1:5] = 2
    volume[2:4, 2:4, 2:4] = 4
    return volume


def save(path: Path, volume: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(volume, np.eye(4) if affine is None else affine), path)
    return path


def pair(folder: Path, prediction: np.ndarray | None, **changes: object) -> Pair:
    reference = save(folder / "case_seg.nii.gz", label_map())
    predicted = None if prediction is None else save(folder / "case.nii.gz", prediction)
    return Pair("case", reference, predicted, CONFIG.model_copy(update=changes))


def by_region(scored) -> dict[str, dict]:
    return {row["region"]: row for row in scored.rows}


def test_scores_by_hand(tmp_path):
    prediction = label_map()
    prediction[1] = 0  # of 64 voxels of WT 16 are lost
    rows = by_region(score_pair(pair(tmp_path, prediction)))
    assert rows["WT"]["dice"] == pytest.approx(2 * 48 / (64 + 48))
    assert rows["ET"]["dice"] == 1
    assert rows["WT"]["lost_boundary"] == pytest.approx(1 - 2 * 48 / 112)
    assert not rows["WT"]["missing"]


def test_a_rule_adds_its_columns(tmp_path):
    prediction = label_map()
    prediction[7, 7, 7] = 2  # a false lesion of one voxel
    found = score_pair(pair(tmp_path, prediction, rule="brats2023-gli", regions=("WT", "TC", "ET")))
    row = by_region(found)["WT"]
    assert (row["num_matched"], row["num_missed"], row["num_false"]) == (1, 0, 1)
    assert row["lesion_dice"] == pytest.approx(1 / 2)
    assert row["lesion_hd95_mm"] == pytest.approx(374 / 2)


def test_other_affines_are_refused_and_shown(tmp_path):
    moved = np.eye(4)
    moved[0, 3] = 5
    given = pair(tmp_path, label_map())
    save(given.prediction, label_map(), moved)
    scored = score_pair(given)
    assert scored.problem is not None
    assert "5.0 mm away" in str(scored.problem)
    assert "1 0 0 5" in str(scored.problem)
    assert by_region(scored)["WT"]["dice"] == 0
    by_index = Pair(
        "case",
        given.reference,
        given.prediction,
        CONFIG.model_copy(update={"compare_by_index": True}),
    )
    assert by_region(score_pair(by_index))["WT"]["dice"] == 1


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (np.zeros((8, 8, 7), np.uint8), "has shape 8x8x7, the reference 8x8x8"),
        (np.full((8, 8, 8), 3, np.uint8), "label values that scheme brats2021 does not know"),
    ],
)
def test_what_cannot_be_compared_is_scored_as_missing(tmp_path, volume, message):
    scored = score_pair(pair(tmp_path, volume))
    assert message in str(scored.problem)
    assert all(row["missing"] and row["dice"] == 0 for row in scored.rows)


def test_values_are_mapped_on_reading(tmp_path):
    prediction = label_map()
    prediction[prediction == 4] = 3
    scored = score_pair(pair(tmp_path, prediction, prediction_map={3: 4}))
    assert scored.problem is None
    assert by_region(scored)["ET"]["dice"] == 1


def test_mapping_exchanges_values(tmp_path):
    # 2 and 4 change places: each voxel is changed once, by what it was
    prediction = label_map()
    swapped = np.select([prediction == 2, prediction == 4], [4, 2], 0).astype(np.uint8)
    scored = score_pair(pair(tmp_path, swapped, prediction_map={2: 4, 4: 2}))
    assert by_region(scored)["ET"]["dice"] == 1


def test_a_missing_case_is_never_perfect(tmp_path):
    empty = save(tmp_path / "empty_seg.nii.gz", np.zeros((8, 8, 8), np.uint8))
    scored = score_pair(Pair("empty", empty, None, CONFIG))
    assert "has no prediction" in str(scored.problem)
    for row in scored.rows:
        assert row["dice"] == 0
        assert row["hd95_mm"] == pytest.approx(DIAGONAL_MM)
    by_rule = CONFIG.model_copy(update={"rule": "brats2023-gli", "regions": ("WT", "TC", "ET")})
    row = by_region(score_pair(Pair("empty", empty, None, by_rule)))["WT"]
    assert (row["lesion_dice"], row["lesion_hd95_mm"]) == (0, 374)


def test_a_broken_reference_gives_no_rows(tmp_path):
    given = pair(tmp_path, label_map())
    given.reference.write_bytes(b"not a file")
    scored = score_pair(given)
    assert scored.rows == ()
    assert scored.problem is not None
