import numpy as np
import pytest

from bratsml.metrics import METRIC_VERSION
from bratsml.metrics.overlap import dice
from bratsml.metrics.surface import hausdorff95_mm

GOOD = np.ones((3, 3, 3), bool)


def hd95(prediction, reference):
    return hausdorff95_mm(prediction, reference, (1.0, 1.0, 1.0))


@pytest.mark.parametrize("metric", [dice, hd95])
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (GOOD.astype(np.float32) * 0.7, "float32"),
        (GOOD.astype(np.uint8), "uint8"),
        (GOOD.astype(np.int64) * 4, "int64"),
        (np.full((3, 3, 3), np.nan), "float64 with 27 NaN"),
    ],
)
def test_only_boolean_masks_are_scored(metric, bad, words):
    with pytest.raises(ValueError, match=f"prediction must be boolean, received {words}"):
        metric(bad, GOOD)
    with pytest.raises(ValueError, match=f"reference must be boolean, received {words}"):
        metric(GOOD, bad)


@pytest.mark.parametrize("metric", [dice, hd95])
def test_shapes_must_agree(metric):
    with pytest.raises(ValueError, match=r"\(3, 3, 3\) and \(3, 3, 1\)"):
        metric(GOOD, GOOD[..., :1])  # would broadcast


@pytest.mark.parametrize(
    "spacing",
    [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, np.nan), (np.inf, 1.0, 1.0), (1.0, 1.0)],
)
@pytest.mark.parametrize("prediction", [GOOD, ~GOOD])
def test_voxel_sizes_that_no_volume_has_are_refused(prediction, spacing):
    with pytest.raises(ValueError, match="three sizes above 0 mm"):
        hausdorff95_mm(prediction, GOOD, spacing)


def test_the_version_names_the_kind_of_hd95():
    assert "boundary voxels" in METRIC_VERSION
