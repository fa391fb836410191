"""Lesion-wise scores of a real network's predictions, against the organisers' programs."""

import json
import time

import nibabel as nib
import numpy as np
import pytest

from bratsml.metrics.lesions import score_lesions
from bratsml.metrics.rules import RULES

pytestmark = pytest.mark.real_data

# The file's name of a program, and our rule: the programs named 2024 are those of 2024 and 2025,
# as released last. They score NSD (2025), and MET by its rule of 2025.
RULE_OF = {
    "brats2023-gli": "brats2023-gli",
    "brats2023-met": "brats2023-met",
    "brats2024-gli": "brats2025-gli",
    "brats2024-ssa": "brats2025-ssa",
    "brats2024-ped": "brats2025-ped",
    "brats2024-met": "brats2025-met",
}
CASES = ("00000", "00002", "00014", "00024", "00031")
REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,), "NETC": (1,), "SNFH": (2,), "RC": (4,)}
# the program for PED was given the same label maps, and reads them by its own scheme
PEDIATRIC = {"WT": (1, 2, 3, 4), "TC": (1, 2, 3), "ET": (1,), "NETC": (2,), "CC": (3,), "ED": (4,)}
NUMBERED = {"Sensitivity", "Specificity", "Legacy_HD95"}
"""Of component numbers instead of masks in the programs of 2024 and 2025, by a slip."""


@pytest.fixture(scope="module")
def label_maps(real_data):
    """Case to prediction and reference, labels of 2021 mapped to those of 2023."""

    def load(path):
        label_map = np.asarray(nib.load(path).dataobj).astype(np.uint8)
        label_map[label_map == 4] = 3
        return label_map

    return {
        case: (
            load(real_data / "predictions" / f"BraTS2021_{case}.nii.gz"),
            load(real_data / "brats2021" / f"BraTS2021_{case}" / f"BraTS2021_{case}_seg.nii.gz"),
        )
        for case in CASES
    }


@pytest.fixture(scope="module")
def official(real_data):
    content = json.loads((real_data / "official_scores.json").read_text(encoding="utf-8"))
    return content["rules"]


def masks_of(label_maps, rule):
    values = PEDIATRIC if rule.name.endswith("ped") else REGIONS
    inside = {tissue: np.isin(np.arange(5), values[tissue]) for tissue in rule.tissues}
    return [{tissue: inside[tissue][m] for tissue in rule.tissues} for m in label_maps]


def under_their_names(found, rule):
    named = {
        "Num_TP": found.num_matched,
        "Num_FP": found.num_false,
        "Num_FN": found.num_missed,
        "Sensitivity": found.sensitivity,
        "Specificity": found.specificity,
        "Legacy_Dice": found.dice,
        "Legacy_HD95": found.hd95_mm,
        "GT_Complete_Volume": found.reference_mm3,
        "LesionWise_Score_Dice": found.lesion_dice,
        "LesionWise_Score_HD95": found.lesion_hd95_mm,
    }
    for i, tolerance in enumerate(rule.tolerances_mm):
        named[f"Legacy NSD @ {tolerance}"] = found.nsd[i]
        named[f"LesionWise_Score_NSD @ {tolerance}"] = found.lesion_nsd[i]
    return named


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("program", RULE_OF)
def test_the_organisers_results_are_met(label_maps, official, program, case):
    rule = RULES[RULE_OF[program]]
    scores = score_lesions(*masks_of(label_maps[case], rule), (1.0, 1.0, 1.0), rule)
    expected = official[program][f"BraTS2021_{case}"]
    assert [found.region for found in scores] == list(expected)
    for found in scores:
        named = under_their_names(found, rule)
        assert named.keys() == expected[found.region].keys()
        for name, value in expected[found.region].items():
            if name not in NUMBERED or program.startswith("brats2023"):
                assert named[name] == pytest.approx(value, abs=1e-6), (found.region, name)


def test_every_program_in_the_file_has_a_rule(official):
    assert official.keys() == RULE_OF.keys()


def test_the_rules_of_2024_differ_from_those_of_2025_in_the_penalty_of_met_alone(label_maps):
    for challenge in ("gli", "ssa", "ped", "met"):
        old, new = (RULES[f"brats{year}-{challenge}"] for year in (2024, 2025))
        both = [
            score_lesions(*masks_of(label_maps["00024"], rule), (1.0, 1.0, 1.0), rule)
            for rule in (old, new)
        ]
        for first, second in zip(*both, strict=False):
            assert first.region == second.region
            assert first.lesion_dice == second.lesion_dice
            assert (first.lesion_hd95_mm == second.lesion_hd95_mm) == (challenge != "met")


def test_hd95_of_the_whole_region_where_the_programs_slip(label_maps, official):
    rule = RULES["brats2025-gli"]
    scores = score_lesions(*masks_of(label_maps["00000"], rule), (1.0, 1.0, 1.0), rule)
    core = next(found for found in scores if found.region == "TC")
    assert core.hd95_mm == pytest.approx(1.0)
    assert official["brats2024-gli"]["BraTS2021_00000"]["TC"]["Legacy_HD95"] > 9


@pytest.mark.parametrize("name", RULES)
def test_a_case_is_scored_in_well_under_two_seconds(label_maps, name):
    rule = RULES[name]
    label_maps_of_case = label_maps["00031"]
    if rule.regions == ("GTV",):
        masks = [{"GTV": label_map > 0} for label_map in label_maps_of_case]
    else:
        masks = masks_of(label_maps_of_case, rule)
    start = time.process_time()
    score_lesions(*masks, (1.0, 1.0, 1.0), rule)
    assert time.process_time() - start < 2
