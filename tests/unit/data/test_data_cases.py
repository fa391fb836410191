"""Case discovery: names of every year, odd files, gaps."""

from __future__ import annotations

from pathlib import Path

import pytest

from bratsml.data.cases import MODALITIES, discover_cases, find_case, parse_case_id
from bratsml.errors import ConfigError, DataError

OLD = ("t1", "t1ce", "t2", "flair", "seg")
NEW = ("t1n", "t1c", "t2w", "t2f", "seg")


def touch(folder: Path, case_id: str, suffixes: tuple[str, ...], mark: str = "_", ending=".nii.gz"):
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in suffixes:
        (folder / f"{case_id}{mark}{suffix}{ending}").touch()


@pytest.mark.parametrize(
    ("case_id", "patient", "cohort", "scheme"),
    [
        ("BraTS19_CBICA_AAB_1", "BraTS19_CBICA_AAB", "BraTS2019", "brats2021"),
        ("BraTS20_Training_001", "BraTS20_Training_001", "BraTS2020", "brats2021"),
        ("BraTS2021_00000", "BraTS2021_00000", "BraTS2021", "brats2021"),
        ("BraTS-GLI-00000-001", "BraTS-GLI-00000", "GLI", "brats2023"),
        ("BraTS-GLI-02405-100", "BraTS-GLI-02405", "GLI", "brats2024-gli"),
        ("BraTS-SSA-00002-000", "BraTS-SSA-00002", "SSA", "brats2023"),
        ("BraTS-MET-00001-000", "BraTS-MET-00001", "MET", "brats2023"),
        ("BraTS-MEN-00004-000", "BraTS-MEN-00004", "MEN", "brats2023"),
        ("BraTS-MEN-RT-0000-1", "BraTS-MEN-RT-0000", "MEN-RT", "brats2024-men-rt"),
        ("BraTS-PED-00001-000", "BraTS-PED-00001", "PED", ""),
    ],
)
def test_case_ids_tell_patient_cohort_and_scheme(case_id, patient, cohort, scheme):
    name = parse_case_id(case_id)
    assert (name.patient, name.cohort, name.label_scheme) == (patient, cohort, scheme)


def test_a_made_up_id_tells_nothing():
    assert parse_case_id("patient7") is None


@pytest.mark.parametrize(
    ("case_id", "suffixes", "mark", "ending", "layout"),
    [
        ("BraTS2021_00000", OLD, "_", ".nii.gz", "brats2021"),
        ("BraTS20_Training_001", OLD, "_", ".nii", "brats2021"),
        ("BraTS-GLI-00000-000", NEW, "-", ".nii.gz", "brats2023"),
        ("BraTS-SSA-00002-000", NEW, "-", ".nii", "brats2023"),
    ],
)
def test_files_of_each_layout_find_their_modality(
    tmp_path, case_id, suffixes, mark, ending, layout
):
    touch(tmp_path / "HGG" / case_id, case_id, suffixes, mark, ending)
    (case,) = discover_cases(tmp_path, need_labels=True).cases
    assert (case.id, case.layout) == (case_id, layout)
    assert tuple(case.images) == MODALITIES
    found = [case.images[m].name for m in MODALITIES] + [case.label.name]
    assert found == [f"{case_id}{mark}{suffix}{ending}" for suffix in suffixes]


def test_many_cases_in_one_folder(tmp_path):
    for number in (2, 0, 1):
        touch(tmp_path, f"BraTS-GLI-0000{number}-000", NEW, "-")
    found = discover_cases(tmp_path, need_labels=True)
    assert [c.id for c in found.cases] == [f"BraTS-GLI-0000{n}-000" for n in range(3)]
    assert not found.problems


def test_hidden_and_extra_files_are_ignored(tmp_path):
    folder = tmp_path / "BraTS2021_00000"
    touch(folder, "BraTS2021_00000", OLD)
    extras = ("._BraTS2021_00000_t1.nii.gz", "notes.txt", "BraTS2021_00000_pred.nii.gz")
    for extra in extras:
        (folder / extra).touch()
    touch(tmp_path / "__MACOSX" / "BraTS2021_00000", "BraTS2021_00000", OLD)
    found = discover_cases(tmp_path, need_labels=True)
    assert len(found.cases) == 1
    assert not found.problems


def test_the_odd_label_of_training_case_355(tmp_path):
    case_id = "BraTS20_Training_355"
    touch(tmp_path / case_id, case_id, OLD[:4], ending=".nii")
    (tmp_path / case_id / "W39_1998.09.19_Segm.nii").touch()
    (case,) = discover_cases(tmp_path, need_labels=True).cases
    assert case.id == case_id
    assert case.label.name == "W39_1998.09.19_Segm.nii"


def test_files_of_different_names_in_one_folder_are_one_case(tmp_path):
    folder = tmp_path / "clinic7"
    folder.mkdir()
    for name in ("a_t1.nii.gz", "b_t1c.nii.gz", "c_t2.nii.gz", "d_fla.nii.gz"):
        (folder / name).touch()
    (case,) = discover_cases(folder, need_labels=False).cases
    assert case.id == "clinic7"
    assert [case.images[m].name[0] for m in MODALITIES] == ["a", "b", "c", "d"]


def test_the_decathlon_lists_its_4d_file_for_each_modality(tmp_path):
    root = tmp_path / "Task01_BrainTumour"
    for folder, name in (("imagesTr", "001"), ("labelsTr", "001"), ("imagesTs", "485")):
        (root / folder).mkdir(parents=True)
        (root / folder / f"BRATS_{name}.nii.gz").touch()
        (root / folder / f"._BRATS_{name}.nii.gz").touch()
    found = discover_cases(tmp_path, need_labels=True)
    (case,) = found.cases
    assert (case.id, case.cohort, found.label_scheme) == ("BRATS_001", "decathlon", "decathlon")
    assert {path.name for path in case.images.values()} == {"BRATS_001.nii.gz"}
    assert case.label.parent.name == "labelsTr"
    assert list(case.files) == ["t1n", "label"]
    unlabelled = discover_cases(tmp_path, need_labels=False)
    assert [c.id for c in unlabelled.cases] == ["BRATS_001", "BRATS_485"]


def test_missing_modality_is_named_and_the_other_cases_go_on(tmp_path):
    touch(tmp_path / "BraTS2021_00001", "BraTS2021_00001", ("t1", "t2", "flair", "seg"))
    touch(tmp_path / "BraTS2021_00002", "BraTS2021_00002", OLD)
    found = discover_cases(tmp_path, need_labels=True)
    assert [c.id for c in found.cases] == ["BraTS2021_00002"]
    (problem,) = found.problems
    assert (problem.case, problem.reason) == ("BraTS2021_00001", "missing modality t1c")


def test_missing_label_matters_only_where_labels_are_needed(tmp_path):
    touch(tmp_path / "BraTS2021_00001", "BraTS2021_00001", OLD[:4])
    assert discover_cases(tmp_path, need_labels=True).problems[0].reason == "missing label map"
    (case,) = discover_cases(tmp_path, need_labels=False).cases
    assert case.label is None


def test_two_files_for_one_modality(tmp_path):
    touch(tmp_path / "BraTS2021_00001", "BraTS2021_00001", OLD)
    (tmp_path / "BraTS2021_00001" / "BraTS2021_00001_t1.nii").touch()
    found = discover_cases(tmp_path, need_labels=True)
    assert not found.cases
    assert "second file for t1n" in found.problems[0].reason


def test_one_case_in_two_places(tmp_path):
    for place in ("a", "b"):
        touch(tmp_path / place, "BraTS2021_00001", OLD)
    found = discover_cases(tmp_path, need_labels=True)
    assert not found.cases
    assert [problem.reason for problem in found.problems] == ["appears in 2 places"]


def test_links_are_followed_once(tmp_path):
    touch(tmp_path / "real" / "BraTS2021_00001", "BraTS2021_00001", OLD)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "data")
    assert len(discover_cases(tmp_path / "data", need_labels=True).cases) == 1


def test_no_case_and_no_folder(tmp_path):
    with pytest.raises(DataError, match="holds no case"):
        discover_cases(tmp_path, need_labels=False)
    with pytest.raises(DataError, match="is not a folder"):
        discover_cases(tmp_path / "nowhere", need_labels=False)


def test_post_treatment_visits_bring_the_scheme_with_the_cavity(tmp_path):
    for case_id in ("BraTS-GLI-00001-000", "BraTS-GLI-00002-100"):
        touch(tmp_path / case_id, case_id, NEW, "-")
    assert discover_cases(tmp_path, need_labels=True).label_scheme == "brats2024-gli"


def test_ambiguous_names_demand_a_declared_scheme(tmp_path):
    touch(tmp_path / "BraTS-PED-00001-000", "BraTS-PED-00001-000", NEW, "-")
    found = discover_cases(tmp_path, need_labels=True)
    assert found.label_scheme == ""
    with pytest.raises(ConfigError, match=r"brats2024-ped\); declare the label scheme"):
        found.scheme()
    assert found.scheme("brats2024-ped").name == "brats2024-ped"
    with pytest.raises(ConfigError, match="unknown"):
        found.scheme("brats1999")


def test_cohorts_of_different_schemes_demand_a_declared_one(tmp_path):
    touch(tmp_path / "BraTS-GLI-00001-000", "BraTS-GLI-00001-000", NEW, "-")
    touch(tmp_path / "BraTS2021_00001", "BraTS2021_00001", OLD)
    with pytest.raises(ConfigError, match=r"several label schemes \(brats2021, brats2023\)"):
        discover_cases(tmp_path, need_labels=True).scheme("auto")


def test_find_case_wants_exactly_one(tmp_path):
    for case_id in ("BraTS2021_00001", "BraTS2021_00002"):
        touch(tmp_path / case_id, case_id, OLD[:4])
    assert find_case(tmp_path, "BraTS2021_00002").id == "BraTS2021_00002"
    with pytest.raises(DataError, match="2 cases found"):
        find_case(tmp_path)
