"""Folders as people make them: by modality, by tool, hidden, unreadable, oddly named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bratsml.data import layouts
from bratsml.data.case_names import is_generic, name_problem, shared_id
from bratsml.data.cases import MODALITIES, Discovery, discover_cases
from bratsml.errors import DataError

OLD = ("t1", "t1ce", "t2", "flair", "seg")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def case_files(case_id: str, folder: str | None = None, suffixes: tuple[str, ...] = OLD):
    place = case_id if folder is None else folder
    return [f"{place}/{case_id}_{suffix}.nii.gz" for suffix in suffixes]


def look(folder: Path, need_labels: bool = True) -> Discovery:
    return discover_cases(folder, need_labels=need_labels)


def ids(found: Discovery) -> list[str]:
    return [case.id for case in found.cases]


# --- folders by modality -----------------------------------------------------------------------


@pytest.mark.parametrize("cases", [("a1",), ("a1", "b2", "c3"), ("BraTS2021_00000",)])
@pytest.mark.parametrize(
    "form",
    [
        "{modality}/{case}_{modality}.nii.gz",
        "{modality}/{case}.nii.gz",
        "{case}/{modality}/scan.nii.gz",
        "{case}/{modality}/{case}_{modality}.nii",
        "images/{modality}/{case}_{modality}.nii.gz",
    ],
)
def test_a_folder_per_modality_holds_whole_cases(tmp_path, cases, form):
    for case in cases:
        touch(tmp_path, *(form.format(modality=m, case=case) for m in OLD))
    found = look(tmp_path)
    assert not found.problems
    assert ids(found) == sorted(cases)
    assert all(tuple(case.images) == MODALITIES and case.label for case in found.cases)
    for case in found.cases:
        assert "ce" in str(case.images["t1c"].relative_to(tmp_path))


def test_folders_of_the_newer_names_and_of_label_maps(tmp_path):
    for case in ("p1", "p2"):
        touch(tmp_path, *(f"{m}/{case}-{m}.nii.gz" for m in MODALITIES), f"labels/{case}.nii.gz")
    found = look(tmp_path)
    assert ids(found) == ["p1", "p2"]
    assert [case.layout for case in found.cases] == ["brats2023"] * 2


def test_a_case_that_lacks_a_modality_among_folders_is_named(tmp_path):
    touch(tmp_path, *case_files("a1", "t1", ("t1",)), *case_files("a1", "t2", ("t2",)))
    touch(tmp_path, "flair/b2.nii.gz", "t1ce/b2.nii.gz")
    reasons = {problem.case: problem.reason for problem in look(tmp_path).problems}
    assert reasons == {
        "a1": "missing modalities t1c, t2f",
        "b2": "missing modalities t1n, t2w",
    }


def test_a_folder_called_seg_beside_whole_cases_adds_no_case(tmp_path):
    touch(tmp_path, *case_files("a1"), "seg/notes.nii.gz", "a1/seg/rough.nii.gz")
    found = look(tmp_path)
    assert (ids(found), found.problems) == (["a1"], ())
    assert found.cases[0].label.name == "a1_seg.nii.gz"


def test_images_and_label_maps_in_folders_of_their_own(tmp_path):
    for case in ("a1", "b2"):
        touch(tmp_path, *case_files(case, "images", OLD[:4]), *case_files(case, "masks", OLD[4:]))
    assert ids(look(tmp_path)) == ["a1", "b2"]


def test_a_copy_is_still_a_copy_and_the_remedy_deletes_no_modality(tmp_path):
    touch(tmp_path, *case_files("BraTS2021_00001", "one"), *case_files("BraTS2021_00001", "two"))
    touch(tmp_path, *case_files("BraTS2021_00002", "three", OLD[:1]))
    touch(tmp_path, *case_files("BraTS2021_00002", "four", OLD[1:]))
    found = look(tmp_path)
    assert ids(found) == ["BraTS2021_00002"]
    (problem,) = found.problems
    assert problem.reason == "appears in 2 places"
    assert "if they are copies" in problem.remedy


# --- what a case is called ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (case_files("UPENN-1", "sub/hdbet_native-space"), ["UPENN-1"]),
        (case_files("scan", "TCGA-FG-6692/hdbet_native-space"), ["TCGA-FG-6692"]),
        (case_files("scan", "patient 7"), ["patient 7"]),
        (case_files("x", "clinic7"), ["clinic7"]),
        (
            ["native/T1_AX_TCGA-FG-6692_10_t1.nii.gz", "native/C_TCGA-FG-6692_13_t1c.nii.gz",
             "native/T2_AX_TCGA-FG-6692_11_t2.nii.gz", "native/F_TCGA-FG-6692_21_fla.nii.gz",
             "native/TCGA-FG-6692_seg.nii.gz"],
            ["TCGA-FG-6692"],
        ),
        (  # a tool nobody knows, its folder the same in every case
            [*case_files("s-01", "s-01/xtool"), *case_files("s-02", "s-02/xtool")],
            ["s-01", "s-02"],
        ),
        (
            [*case_files("scan", "s-01/anat"), *case_files("scan", "s-02/anat")],
            ["s-01", "s-02"],
        ),
        (case_files("BraTS2021_00000", "anything"), ["BraTS2021_00000"]),
    ],
)  # fmt: skip
def test_a_case_is_called_after_what_tells_it(tmp_path, files, expected):
    touch(tmp_path / "data", *files)
    found = look(tmp_path / "data")
    assert not found.problems
    assert ids(found) == expected


def test_words_of_tools_and_steps_tell_nothing():
    for name in ("t1", "T1CE", "seg", "hdbet_native-space", "skull stripped", "1mm_iso"[:3], "raw"):
        assert is_generic(name), name
    for name in ("patient7", "sub-001", "Smith", "UCSF-PDGM-0004_nifti", "brain12"):
        assert not is_generic(name), name
    assert shared_id(["a_b", "c_d"]) == shared_id([]) == ""


# --- names that cannot be used --------------------------------------------------------------

ODD = {
    "two\nlines": r"two\nlines",
    "tab\there": r"tab\there",
    "no\xa0break": r"no\xa0break",
    "turned\u202egpj": r"turned\u202egpj",
    "mark\u200f": r"mark\u200f",
    "bell\x07": r"bell\x07",
    "red\x1b[31m": r"red\x1b[31m",
    os.fsdecode(b"caf\xe9"): r"caf\xe9",
    "soft\xadhyphen": r"soft\xadhyphen",
    "line\u2028sep": r"line\u2028sep",
}


@pytest.mark.parametrize("flat", [True, False])
def test_every_odd_name_has_its_row_shown_escaped(tmp_path, flat):
    touch(tmp_path, *case_files("good1"))
    for name in ODD:
        touch(tmp_path, *case_files(name, "all" if flat else None))
    found = look(tmp_path)
    assert ids(found) == ["good1"]
    assert {problem.case for problem in found.problems} == set(ODD.values())
    assert all("do not show" in problem.reason for problem in found.problems)
    assert all(str(problem).isprintable() for problem in found.problems)


@pytest.mark.parametrize(
    "name", ["=1+1", "+x", "-x", "@x", "a#b", "a?b", "a%2eb", "a%2Fb", "a;b", "a:b", "a b", "ü",
             "[red]x", "a'b", 'a"b', "a&b", "$(x)", "`x`", "a,b", "{x}", "x" * 200],
)  # fmt: skip
def test_other_signs_are_as_good_as_letters(tmp_path, name):
    touch(tmp_path, *case_files(name))
    assert ids(look(tmp_path)) == [name]


def test_names_too_long_for_what_is_put_beside_them(tmp_path):
    long = "x" * 244  # with _t1.nii.gz the longest that a file can have
    touch(tmp_path, f"raw/{long}_t1.nii.gz", f"raw/{long}_t2.nii.gz")
    touch(tmp_path, *case_files("good1"), *case_files("good2", "n" * 255))
    found = look(tmp_path)
    assert ids(found) == ["good1"]
    reasons = sorted(problem.reason.split(",")[0] for problem in found.problems)
    assert reasons == ["its name has 244 bytes", "its name has 255 bytes"]


def test_hidden_cases_are_told_and_tools_left_alone(tmp_path):
    touch(tmp_path, *case_files("good1"))
    touch(tmp_path, *case_files(".hidden", "folder"), *case_files("inside", ".secret"))
    touch(tmp_path, *case_files("x", ".git/annex"), *case_files("x", "__MACOSX/x"))
    touch(tmp_path, "good1/._good1_t1.nii.gz", ".DS_Store", ".notes", ".empty/notes.txt")
    touch(tmp_path, *case_files("x", ".bratsml-0123456789abcdef~x"))
    found = look(tmp_path)
    assert ids(found) == ["good1"]
    assert {p.case for p in found.problems} == {
        *(f".hidden_{suffix}.nii.gz" for suffix in OLD), ".secret",
    }  # fmt: skip
    assert all("begins with a dot" in problem.reason for problem in found.problems)


def test_the_decathlons_names_are_looked_at_too(tmp_path):
    for name in ("BRATS_001", "two\nlines", "x" * 230):
        touch(tmp_path, f"imagesTr/{name}.nii.gz", f"labelsTr/{name}.nii.gz")
    found = look(tmp_path)
    assert ids(found) == ["BRATS_001"]
    assert [problem.case for problem in found.problems] == [r"two\nlines", "x" * 79 + "…"]


# --- folders that cannot be read --------------------------------------------------------------


def test_an_unreadable_folder_is_a_problem_of_its_own(tmp_path, monkeypatch):
    touch(tmp_path, *case_files("good1"), *case_files("locked1"))
    scandir = os.scandir

    def locked(path):
        if str(path).endswith("locked1"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(layouts.os, "scandir", locked)
    found = look(tmp_path)
    assert ids(found) == ["good1"]
    (problem,) = found.problems
    assert (problem.case, problem.reason) == (
        "locked1", "its folder cannot be read (Permission denied)",
    )  # fmt: skip


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_without_permission_the_other_cases_go_on(tmp_path):
    touch(tmp_path, *case_files("good1"), *case_files("locked1"))
    (tmp_path / "locked1").chmod(0)
    try:
        found = look(tmp_path)
    finally:
        (tmp_path / "locked1").chmod(0o700)
    assert ids(found) == ["good1"]
    assert found.problems[0].case == "locked1"


def test_a_link_out_of_the_data_is_not_followed_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(layouts, "MAX_FOLDERS", 5)
    touch(tmp_path, *(f"{n}/x" for n in range(9)))
    with pytest.raises(DataError, match="more than 5 folders"):
        look(tmp_path)


def test_links_to_nothing_and_to_themselves(tmp_path):
    touch(tmp_path, *case_files("good1"))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "up").symlink_to(tmp_path)
    assert ids(look(tmp_path)) == ["good1"]


def test_a_name_is_refused_for_one_reason():
    assert name_problem("BraTS2021_00000") is None
    assert "dot" in name_problem(".x")[0]
    assert "201 bytes" in name_problem("ü" * 100 + "x")[0]
