"""How an evaluation is set up: regions, schemes, mappings, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from bratsml.errors import ConfigError, DataError
from bratsml.workflows.evaluate import _linked, _mapping, _scoring, evaluate


@pytest.fixture
def references(tmp_path: Path) -> Path:
    folder = tmp_path / "references"
    for name in ("BraTS2021_00001", "BraTS2021_00002"):
        (folder / name).mkdir(parents=True)
        for suffix in ("t1", "t1ce", "t2", "flair", "seg"):
            (folder / name / f"{name}_{suffix}.nii.gz").touch()
    return folder


def test_scheme_and_regions_follow_from_the_names(references: Path) -> None:
    config = _scoring(references, "", "", "", "", "", False)
    assert (config.scheme, config.regions) == ("brats2021", ("ET", "TC", "WT"))
    config = _scoring(references, "brats2023-gli", "", "", "", "4=3", False)
    assert config.regions == ("WT", "TC", "ET")
    assert config.prediction_map == {4: 3}
    assert _scoring(references, "", "", "WT", "", "", True).regions == ("WT",)


def test_mapped_labels_are_in_the_scheme_of_the_rule(references: Path) -> None:
    config = _scoring(references, "brats2024-gli", "", "", "4=3", "4=3", False)
    assert config.scheme == "brats2024-gli"


def test_a_rule_that_needs_other_regions_says_which(references: Path) -> None:
    with pytest.raises(ConfigError, match="needs region NETC, which label scheme brats2021"):
        _scoring(references, "brats2024-gli", "", "", "", "", False)


def test_label_maps_without_telling_names_need_a_scheme(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").touch()
    with pytest.raises(ConfigError, match="give scheme=NAME"):
        _scoring(tmp_path, "", "", "", "", "", False)
    assert _scoring(tmp_path, "", "brats2023", "", "", "", False).scheme == "brats2023"


def test_mappings() -> None:
    assert _mapping("m", "4=3, 2=1") == {4: 3, 2: 1}
    assert _mapping("m", "") == {}
    for wrong in ("4", "4=x", "4=3=2"):
        with pytest.raises(ConfigError, match="m must look like 4=3,2=1"):
            _mapping("m", wrong)


def test_links_are_named_by_case(references: Path, tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "x.nii").touch()
    names = {path.name for path in _linked(references, tmp_path / "one").iterdir()}
    assert names == {"BraTS2021_00001.nii.gz", "BraTS2021_00002.nii.gz"}
    assert [p.name for p in _linked(tmp_path / "flat", tmp_path / "two").iterdir()] == ["x.nii"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "predictions=FOLDER and references=FOLDER, or run=ID"),
        ({"predictions": "p", "references": "r", "run": "abc"}, "not both"),
    ],
)
def test_what_is_missing_is_said(arguments: dict[str, str], message: str) -> None:
    given = {"predictions": "", "references": ""} | arguments
    run = given.pop("run", "")
    with pytest.raises(ConfigError, match=message):
        evaluate(given["predictions"], given["references"], run=run)


def test_predictions_of_no_case_are_refused(references: Path, tmp_path: Path) -> None:
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "other.nii.gz").touch()
    with pytest.raises(DataError, match="no prediction has the name of a case"):
        evaluate(str(tmp_path / "predictions"), str(references))
