"""Fixed fold files in every accepted form, and the sentence for each that does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bratsml.data.folds import Split, SplitConfig, make_split
from bratsml.errors import ConfigError

IDS = ("B_0001", "B_0002", "B_0003", "B_0004")
CASES = [SimpleNamespace(id=i, patient=i, cohort="B", volume_ml={"WT": 1.0}) for i in IDS]


def split_of(tmp_path: Path, content: Any) -> Split:
    path = tmp_path / "folds.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return make_split(CASES, SplitConfig(file=str(path)))


def label_entry(case_id: str, fold: int) -> dict[str, Any]:
    return {"fold": fold, "image": [f"d/{case_id}/x-t1c.nii"], "label": f"d/{case_id}/seg.nii.gz"}


class TestForms:
    def test_ours(self, tmp_path: Path) -> None:
        content = {
            "folds": [["B_0001"], ["B_0002"]],
            "test": ["B_0003"],
            "training_only": ["B_0004"],
        }
        split = split_of(tmp_path, content)
        assert split == Split(("B_0003",), (("B_0001",), ("B_0002",)), ("B_0004",))

    def test_what_a_run_wrote(self, tmp_path: Path) -> None:
        split = make_split(CASES, SplitConfig(folds=3))
        assert split_of(tmp_path, split.to_tree()) == split

    def test_nnunet_lists(self, tmp_path: Path) -> None:
        content = [
            {"train": ["B_0002", "B_0003", "B_0004"], "val": ["B_0001"]},
            {"train": ["B_0001", "B_0003", "B_0004"], "val": ["B_0002"]},
        ]
        split = split_of(tmp_path, content)
        assert split == Split((), (("B_0001",), ("B_0002",)), ("B_0003", "B_0004"))

    def test_monai_datalist_with_paths(self, tmp_path: Path) -> None:
        training = [label_entry("B_0001", 0), label_entry("B_0002", 1), label_entry("B_0003", -1)]
        split = split_of(
            tmp_path, {"training": training, "testing": [{"image": "d/B_0004.nii.gz"}]}
        )
        assert split == Split(("B_0004",), (("B_0001",), ("B_0002",)), ("B_0003",))

    def test_datalist_with_ids(self, tmp_path: Path) -> None:
        training = [{"id": case_id, "fold": i % 2} for i, case_id in enumerate(IDS)]
        split = split_of(tmp_path, {"training": training})
        assert split.folds == (("B_0001", "B_0003"), ("B_0002", "B_0004"))

    def test_table_of_folds(self, tmp_path: Path) -> None:
        content = dict(zip(IDS, (0, 1, 1, -1), strict=True))
        assert split_of(tmp_path, content).training_only == ("B_0004",)


class TestCaseInAPath:
    @pytest.mark.parametrize(
        "path",
        [
            "B_0001.nii.gz",
            "a/B_0001/t1.nii",
            "a/B_0001-seg.nii.gz",
            "B_0001_seg.nii",
            "x\\B_0001.nii",
        ],
    )
    def test_is_recognised(self, tmp_path: Path, path: str) -> None:
        rest = [{"id": case_id, "fold": 1} for case_id in IDS[1:]]
        split = split_of(tmp_path, {"training": [{"label": path, "fold": 0}, *rest]})
        assert split.folds[0] == ("B_0001",)

    def test_is_not_guessed_from_a_longer_id(self, tmp_path: Path) -> None:
        rest = [{"id": case_id, "fold": 1} for case_id in IDS]
        with pytest.raises(ConfigError, match=r"names B_00012-seg\.nii, which the dataset"):
            split_of(tmp_path, {"training": [{"label": "B_00012-seg.nii", "fold": 0}, *rest]})


class TestRefused:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "is not valid JSON"),
            ([], "holds no folds"),
            ([{"train": ["B_0001"]}], "entry 0 of .* needs lists"),
            ({"a": "b"}, "is not a fold file"),
            ({"B_0001": 1, "B_0002": 2}, "must count 0, 1, 2"),
            ({"B_0001": -1}, "found none"),
            ({"training": [{"id": "B_0001"}]}, "entry 0 of 'training' .* has no fold"),
            ({"training": [{"fold": 0}]}, "does not name its case"),
            ({"training": [{"id": "B_0001", "fold": True}]}, "has no fold"),
            ({"training": [{"id": "B_0001", "fold": 0}] * 2}, "names B_0001 twice"),
            ([{"train": ["B_0001"], "val": ["B_0001"]}], "trains on B_0001 and validates on"),
            (
                [
                    {"train": ["B_0002"], "val": ["B_0001"]},
                    {"train": ["B_0001"], "val": ["B_0003"]},
                ],
                "fold 0 .* neither trains nor validates on B_0003",
            ),
            ({"folds": [["B_0001"], ["B_0002"]]}, "where B_0003, B_0004 belong"),
        ],
    )
    def test_in_one_sentence(self, tmp_path: Path, content: Any, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            split_of(tmp_path, content)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read"):
            make_split(CASES, SplitConfig(file=str(tmp_path / "no.json")))
