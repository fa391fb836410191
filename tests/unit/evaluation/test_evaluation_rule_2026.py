"""The organisers' programs are not installed here; scripts of their names stand in for them."""

import sys

import pandas as pd
import pytest

from bratsml.errors import ConfigError, DataError, ResourceError
from bratsml.evaluation.rule_2026 import CHALLENGES, COLUMNS, score_by_rule_2026

EVALUATE = """
import json, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert given["--config"] == "mets", given
json.dump(given, open(given["--summary_json"], "w"))
"""
PARSE = """
import json, sys
assert sys.argv[1] == "seg"
given = dict(zip(sys.argv[2::2], sys.argv[3::2]))
json.load(open(given["--json_path"]))
open(given["--output_csv_path"], "w").write(
    "subject_id,all_instance_tp_et,global_dsc_et,lesionwise_hd95_mean_et,lesionwise_hd95_std_et,"
    "global_dsc_tc,lesionwise_hd95_mean_tc\\n"
    "BraTS-MET-00001-000-seg.nii.gz,2,0.5,3.5,1.0,0.75,\\n"
    "BraTS-MET-00002-000-seg.nii.gz,0,0.0,373,0,0.0,inf\\n"
    "mean,1,0.25,188.25,0.5,0.375,inf\\nstd,1,1,1,1,1,1\\nmedian,1,1,1,1,1,1\\n"
)
"""


@pytest.fixture
def folders(tmp_path):
    """References, predictions and a folder of stand-in programs."""
    references, predictions, programs = (tmp_path / name for name in ("ref", "pred", "bin"))
    for folder in (references, predictions, programs):
        folder.mkdir()
    for number in ("00001", "00002"):
        (references / f"BraTS-MET-{number}-000-seg.nii.gz").touch()
    install(programs, "brats-evaluate", EVALUATE)
    install(programs, "brats-parse-metrics", PARSE)
    return predictions, references, programs


def install(folder, name, script):
    program = folder / name
    program.write_text(f"#!{sys.executable}\n{script}")
    program.chmod(0o755)


def test_their_table_becomes_ours(folders):
    predictions, references, programs = folders
    table = score_by_rule_2026(predictions, references, "brats2026-met", programs)
    assert list(table.columns) == ["case", "region", *COLUMNS.values()]
    assert table["case"].tolist() == ["BraTS-MET-00001-000"] * 2 + ["BraTS-MET-00002-000"] * 2
    assert table["region"].tolist() == ["ET", "TC", "ET", "TC"]
    first = table.iloc[0]
    assert (first["num_matched"], first["dice"], first["lesion_hd95_mm"]) == (2, 0.5, 3.5)
    assert table.iloc[1]["dice"] == 0.75
    assert pd.isna(table.iloc[1]["lesion_hd95_mm"])
    assert table.iloc[3]["lesion_hd95_mm"] == 373


def test_without_the_programs_it_says_what_to_do(folders, tmp_path):
    with pytest.raises(ResourceError, match="pip install brats-evaluation"):
        score_by_rule_2026(*folders[:2], "brats2026-gli", tmp_path / "elsewhere")


def test_a_failure_is_told_even_if_the_program_does_not_admit_it(folders):
    install(folders[2], "brats-evaluate", "print('Error: no such directory')")
    with pytest.raises(ResourceError, match="its last words: Error: no such directory"):
        score_by_rule_2026(*folders[:2], "brats2026-met", folders[2])


def test_cases_they_leave_out_are_named(folders):
    (folders[1] / "BraTS-MET-00003-000-seg.nii.gz").touch()
    with pytest.raises(DataError, match="BraTS-MET-00003-000: brats-evaluate could not score 1"):
        score_by_rule_2026(*folders[:2], "brats2026-met", folders[2])


def test_unknown_rules_are_refused(folders):
    with pytest.raises(ConfigError, match="brats2026-gli"):
        score_by_rule_2026(*folders[:2], "brats2023-gli", folders[2])
    assert all(name.startswith("brats2026-") for name in CHALLENGES)
