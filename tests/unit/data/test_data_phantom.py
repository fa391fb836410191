"""Synthetic patients: same bytes each time, valid in every layout, contrasts as in reality."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from bratsml.config import build_config
from bratsml.data.cases import MODALITIES, discover_cases
from bratsml.data.phantom import (
    LEDGER,
    PhantomConfig,
    make_case,
    phantom_affine,
    phantom_cases,
    write_phantoms,
)
from bratsml.data.phantom_anatomy import ENHANCING, NECROSIS, grow_tumour, make_brain, plan_tumour
from bratsml.data.prepare import prepare_case
from bratsml.data.recipes import NativeRecipe
from bratsml.errors import ConfigError

SMALL = (20, 22, 18)
LAYOUTS = ("brats2021", "brats2023", "decathlon")


def small(**changes: object) -> PhantomConfig:
    return build_config(PhantomConfig, {"cases": 2, "shape": list(SMALL), **changes})


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file: an atomic rewrite changes the inode even within one tick."""
    stats = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {path.name: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


@pytest.fixture(scope="module")
def usual():
    """One case of the default size, with its volumes and label map (NCR 1, ED 2, ET 4)."""
    config = PhantomConfig()
    return make_case(next(phantom_cases(config)), config)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_settings_give_the_same_bytes(tmp_path, layout):
    config = small(layout=layout)
    ids = write_phantoms(tmp_path / "a", config)
    assert write_phantoms(tmp_path / "b", config) == ids
    written = contents(tmp_path / "a")
    assert written == contents(tmp_path / "b")
    stamped = [name for name, content in written.items() if content[4:8] != bytes(4)]
    assert not [name for name in stamped if name.endswith(".gz")]  # gzip's time stamp is unset


def test_a_case_does_not_depend_on_how_many_follow(tmp_path):
    few, many = small(cases=1), small(cases=2)
    write_phantoms(tmp_path / "few", few)
    write_phantoms(tmp_path / "many", many)
    expected = contents(tmp_path / "few")
    del expected[LEDGER]
    found = contents(tmp_path / "many")
    assert len(expected) == 5
    assert {name: found[name] for name in expected} == expected


def test_another_seed_gives_other_patients():
    case = next(phantom_cases(small()))
    first, second = (make_case(case, small(seed=seed))[0]["t1n"] for seed in (0, 1))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("layout", "scheme", "values", "first_id"),
    [
        ("brats2021", "brats2021", {0, 1, 2, 4}, "BraTS2021_90000"),
        ("brats2023", "brats2023", {0, 1, 2, 3}, "BraTS-GLI-90000-000"),
        ("decathlon", "decathlon", {0, 1, 2, 3}, "BRATS_900"),
    ],
)
def test_every_layout_is_found_and_prepared(tmp_path, layout, scheme, values, first_id):
    ids = write_phantoms(tmp_path, small(layout=layout))
    found = discover_cases(tmp_path, need_labels=True)
    assert found.problems == ()
    assert [case.id for case in found.cases] == ids
    assert ids[0] == first_id
    assert found.label_scheme == scheme
    label = nib.load(found.cases[0].label)
    assert set(np.unique(label.dataobj).tolist()) == values
    prepared = prepare_case(found.cases[0], NativeRecipe(), found.scheme())
    assert prepared.image.shape[0] == 4


def test_the_decathlon_file_holds_the_channels_in_its_own_order(tmp_path):
    config = small(layout="decathlon", cases=1)
    write_phantoms(tmp_path, config)
    stored = np.asarray(nib.load(tmp_path / "imagesTr" / "BRATS_900.nii.gz").dataobj)
    images, label = make_case(next(phantom_cases(config)), config)
    for channel, modality in enumerate(("t2f", "t1n", "t1c", "t2w")):
        np.testing.assert_array_equal(stored[..., channel], images[modality])
    # ED 1, NCR 2, ET 3: the rim lies around the core, the oedema is the largest part
    assert np.bincount(label.ravel())[1:].argmax() == 0
    description = json.loads((tmp_path / "dataset.json").read_text())
    assert description["modality"] == {"0": "FLAIR", "1": "T1w", "2": "T1gd", "3": "T2w"}
    assert description["training"][0]["label"] == "./labelsTr/BRATS_900.nii.gz"


def test_files_lie_on_the_brats_grid(tmp_path):
    write_phantoms(tmp_path, small(cases=1))
    for path in (tmp_path / "BraTS2021_90000").iterdir():
        image = nib.load(path)
        expected = [[-1, 0, 0, 0], [0, -1, 0, 21], [0, 0, 1, 0], [0, 0, 0, 1]]
        np.testing.assert_array_equal(image.affine, expected)
        assert image.shape == SMALL
        assert image.header["sform_code"] == image.header["qform_code"] == 1
        assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
        wanted = np.uint8 if "_seg" in path.name else np.int16
        assert image.get_data_dtype() == wanted
    np.testing.assert_array_equal(phantom_affine(SMALL), expected)


def test_only_the_brain_is_not_zero(usual):
    images, label = usual
    brain = images["t1n"] > 0
    for modality in MODALITIES:
        np.testing.assert_array_equal(images[modality] != 0, brain)
    assert 0.2 < brain.mean() < 0.4  # an ellipsoid of 0.43 of each side fills 1/3 of the box
    assert not (label[~brain] != 0).any()
    assert not brain[[0, -1]].any()


def test_contrasts_are_ordered_as_in_reality():
    """Medians of three cases, as the bias field shifts a single one."""
    config = PhantomConfig()
    levels: dict[str, list[dict[str, float]]] = {modality: [] for modality in MODALITIES}
    for case in list(phantom_cases(config))[:3]:
        images, label = make_case(case, config)
        brain = make_brain(np.random.default_rng([config.seed, case.patient, 0]), config.shape)
        csf, grey, white = (part > 0.9 for part in brain.fractions)
        places = {"csf": csf & (label == 0), "grey": grey & (label == 0)}
        places |= {"white": white & (label == 0), "et": label == 4, "ed": label == 2}
        # the middle of the core, away from partial volume
        places["ncr"] = ndimage.binary_erosion(label == 1)
        for modality, image in images.items():
            levels[modality].append(
                {name: float(np.median(image[place])) for name, place in places.items()}
            )
    for t1n, t1c, t2w, t2f in zip(*levels.values(), strict=True):
        assert t1n["white"] > t1n["grey"] > t1n["ncr"] > t1n["csf"]
        assert t1n["white"] > max(t1n["ed"], t1n["et"])
        assert t1c["et"] > 1.3 * t1c["white"]
        assert t1c["white"] > t1c["grey"] > t1c["ncr"]
        assert t2w["csf"] == max(t2w.values())
        assert min(t2w["ed"], t2w["ncr"]) > t2w["grey"] > t2w["white"]
        assert t2f["csf"] == min(t2f.values())
        assert t2f["ed"] == max(t2f.values())
        assert t2f["ed"] > t2f["ncr"] > t2f["csf"]


def test_the_rim_encloses_the_core_and_is_thick(usual):
    _, label = usual
    to_outside = ndimage.distance_transform_edt(np.isin(label, (1, 4)))
    assert to_outside[label == 1].min() > 2  # two voxels of rim at least, in every direction
    assert to_outside[label == 4].max() <= 3.4


def test_every_usual_tumour_has_parts_of_a_learnable_size():
    config = PhantomConfig(cases=9)  # the last one does not enhance
    volumes = []
    for case in phantom_cases(config):
        _, label = make_case(case, config)
        necrosis, oedema, enhancing = ((label == value).sum() for value in (1, 2, 4))
        assert oedema > 300
        if case.enhancing:
            assert enhancing > 300
            assert necrosis > 20
        else:
            assert enhancing == 0
            assert 20 < necrosis < oedema / 2
        volumes.append(int((label > 0).sum()))
    assert not case.enhancing
    assert max(volumes) > 2 * min(volumes)


@pytest.mark.parametrize("shape", [(16, 16, 16), (16, 40, 24)])
def test_even_a_speck_of_a_tumour_has_all_three_tissues(shape):
    for patient in range(8):
        rng = np.random.default_rng(patient)
        brain = make_brain(rng, shape)
        plan = plan_tumour(rng, brain, enhancing=True, rim_mm=(2.4, 3.4))
        tissue = grow_tumour(plan, brain)
        assert (tissue == NECROSIS).any()
        assert (tissue == ENHANCING).any()
        assert brain.inside[tissue > 0].all()


@pytest.mark.parametrize(
    ("share", "without"), [(0.0, []), (0.25, [3, 7]), (0.5, [1, 3, 5, 7]), (1.0, list(range(8)))]
)
def test_the_share_without_enhancement_is_exact(share, without):
    cases = phantom_cases(small(cases=8, without_enhancing_share=share))
    assert [case.patient for case in cases if not case.enhancing] == without


def test_visits_share_the_brain_and_the_tumour_grows():
    config = small(cases=3, layout="brats2023", second_visit_share=0.5)
    cases = list(phantom_cases(config))
    assert [case.id for case in cases] == [
        "BraTS-GLI-90000-000", "BraTS-GLI-90001-000", "BraTS-GLI-90001-001",
    ]  # fmt: skip
    (first, early), (second, late) = (make_case(case, config) for case in cases[1:])
    np.testing.assert_array_equal(first["t1n"] > 0, second["t1n"] > 0)
    assert not np.array_equal(first["t1n"], second["t1n"])
    assert (late > 0).sum() > (early > 0).sum()
    assert (late > 0)[early > 0].mean() > 0.9


def test_the_default_share_of_second_visits():
    cases = list(phantom_cases(PhantomConfig(cases=18, layout="brats2023")))
    assert len(cases) == 18
    assert [case.patient for case in cases if case.visit] == [3, 7, 11]  # every fourth of 15


@pytest.mark.parametrize("layout", ["brats2021", "decathlon"])
def test_layouts_without_visits_give_every_patient_one_case(layout):
    cases = list(phantom_cases(small(cases=8, layout=layout, second_visit_share=1.0)))
    assert [case.patient for case in cases] == list(range(8))


def test_a_complete_set_is_not_rewritten(tmp_path):
    write_phantoms(tmp_path, small())
    before = stamps(tmp_path)
    write_phantoms(tmp_path, small())
    assert stamps(tmp_path) == before
    assert len(before) == 11


def test_an_interrupted_set_is_finished_and_what_is_whole_stays(tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    write_phantoms(whole, small())
    broken = tmp_path / "broken"

    def stop_in_second_case(path: Path, content: bytes) -> None:
        if "90001_t2" in path.name:
            raise KeyboardInterrupt
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr("bratsml.data.phantom.write_bytes", stop_in_second_case)
        with pytest.raises(KeyboardInterrupt):
            write_phantoms(broken, small())
    before = stamps(broken)
    write_phantoms(broken, small())
    assert contents(broken) == contents(whole)
    after = stamps(broken)
    kept = [name for name in before if name.startswith("BraTS2021_90000")]
    assert len(kept) == 5
    assert [after[name] for name in kept] == [before[name] for name in kept]


@pytest.mark.parametrize("harm", ["missing", "changed"])
def test_a_harmed_file_is_written_again(tmp_path, harm):
    write_phantoms(tmp_path, small())
    expected = contents(tmp_path)
    path = tmp_path / "BraTS2021_90001" / "BraTS2021_90001_t1.nii.gz"
    path.unlink() if harm == "missing" else path.write_bytes(b"noise")
    write_phantoms(tmp_path, small())
    assert contents(tmp_path) == expected


@pytest.mark.parametrize("changes", [{"seed": 5}, {"cases": 1}, {"layout": "decathlon"}])
def test_a_changed_set_replaces_the_old_one(tmp_path, changes):
    write_phantoms(tmp_path / "changed", small())
    write_phantoms(tmp_path / "changed", small(**changes))
    write_phantoms(tmp_path / "fresh", small(**changes))
    assert contents(tmp_path / "changed") == contents(tmp_path / "fresh")
    folders = {path.name for path in (tmp_path / "changed").iterdir()}
    assert folders == {path.name for path in (tmp_path / "fresh").iterdir()}


@pytest.mark.parametrize("after", ["no set", "a set"])
def test_foreign_files_are_refused_and_left_alone(tmp_path, after):
    if after == "a set":
        write_phantoms(tmp_path, small())
    foreign = tmp_path / "BraTS2021_00031" / "BraTS2021_00031_t1.nii.gz"
    foreign.parent.mkdir()
    foreign.write_bytes(b"a real patient")
    before = stamps(tmp_path)
    with pytest.raises(ConfigError, match=r"not of a phantom set .*00031_t1\.nii\.gz"):
        write_phantoms(tmp_path, small(seed=3))
    assert stamps(tmp_path) == before


def test_hidden_files_are_no_obstacle(tmp_path):
    (tmp_path / ".gitkeep").touch()
    assert len(write_phantoms(tmp_path, small())) == 2
    assert (tmp_path / ".gitkeep").exists()


def test_a_ledger_that_is_no_ledger_makes_the_files_foreign(tmp_path):
    write_phantoms(tmp_path, small(cases=1))
    (tmp_path / LEDGER).write_text("[]")
    with pytest.raises(ConfigError, match="holds 5 files"):
        write_phantoms(tmp_path, small(cases=1))


def test_a_ledger_cannot_point_outside_its_folder(tmp_path):
    (tmp_path / "precious").touch()
    folder = tmp_path / "set"
    write_phantoms(folder, small(cases=1))
    ledger = json.loads((folder / LEDGER).read_text())
    ledger["files"]["../precious"] = "0"
    (folder / LEDGER).write_text(json.dumps(ledger))
    write_phantoms(folder, small(cases=1, seed=1))
    assert (tmp_path / "precious").exists()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "set").touch()
    with pytest.raises(ConfigError, match="is a file"):
        write_phantoms(tmp_path / "set", small())


@pytest.mark.parametrize(
    "changes",
    [{"cases": 0}, {"shape": [56, 56, 15]}, {"layout": "brats2018"}, {"second_visit_share": 1.5}],
)
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        small(**changes)
