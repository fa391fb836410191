from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from bratsml.ensembling.ensemble_file import EnsembleFile
from bratsml.errors import ConfigError

WEIGHTS = np.array([[0.25, 1 / 3], [0.75, 2 / 3]])


def file() -> EnsembleFile:
    return EnsembleFile(
        combine="fitted",
        label_scheme="brats2023",
        regions=("TC", "WT"),
        members=EnsembleFile.members_of(("r1", "r2"), ("a", "b"), ("TC", "WT"), WEIGHTS),
    )


def test_written_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "ensemble.yaml"
    path.write_text(file().text("first\nsecond"))
    assert path.read_text().startswith("# first\n# second\ncombine: fitted\n")
    again = EnsembleFile.read(path)
    assert again == file()
    np.testing.assert_allclose(again.weights, WEIGHTS, atol=1e-6)
    assert again.weights.sum(axis=0) == pytest.approx([1, 1], abs=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"combine": "voting"}, "setting 'combine'"),
        ({"members": []}, "setting 'members'"),
        ({"regions": ["ET", "TC"]}, "a has no weight for region ET"),
        ({"postprocess": [{"kind": "min_component", "region": "ET", "voxels": 3}]}, "region 'ET'"),
        ({"members": [{"run": "r", "name": "a", "weights": {"TC": 0.4, "WT": 1}}]}, "sum to 0.4"),
        ({"members": [{"run": "r", "name": "a", "weights": {"TC": -1, "WT": 1}}]}, "a negative"),
        ({"seed": 3}, "unknown setting 'seed'"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(yaml.safe_dump(file().tree() | change))
    with pytest.raises(ConfigError, match=r"^e\.yaml: ") as error:
        EnsembleFile.read(path)
    assert message in str(error.value)
