"""The rule of BraTS 2026, by the organisers' own programs where a user has installed them.

``brats-evaluation`` (AGPL-3.0) matches lesions one to one and takes its means over matched lesions
only, so its numbers stand beside none of the earlier rules'. It is no dependency and no part of
this package, and it asks for older libraries: install it in an environment of its own (``pip
install brats-evaluation``) and name the folder of its programs.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from bratsml.errors import ConfigError, DataError, ResourceError
from bratsml.files import read_table

CHALLENGES: Mapping[str, str] = {
    "brats2026-gli": "gli",
    "brats2026-goat": "GoAT",
    "brats2026-men": "MenPre",
    "brats2026-men-rt": "MenRT",
    "brats2026-met": "mets",
    "brats2026-ped": "ped",
}
"""Our name of the rule, and the programs' name of its settings."""

COLUMNS: Mapping[str, str] = {
    "global_dsc": "dice",
    "global_hd95": "hd95_mm",
    "global_nsd": "nsd",
    "lesionwise_dsc_mean": "lesion_dice",
    "lesionwise_hd95_mean": "lesion_hd95_mm",
    "lesionwise_nsd_mean": "lesion_nsd",
    "all_instance_tp": "num_matched",
    "all_instance_fn": "num_missed",
    "all_instance_fp": "num_false",
    "all_instance_f1": "lesion_f1",
}
"""The programs' name of a score, before the region, and ours."""

_SUMMARIES = ("mean", "std", "median")
_PENALTY_MM = 373.0


def score_by_rule_2026(
    predictions: Path, references: Path, rule: str, programs: Path | None = None
) -> pd.DataFrame:
    """Let the organisers' programs score two folders of ``.nii.gz`` label maps.

    They find a reference's prediction by its number (``00005-000``, ``00005``) at the end of the
    file name, and score one that is missing as 0, with an HD95 of 373 mm.

    Args:
        rule: Key of :data:`CHALLENGES`.
        programs: Folder of ``brats-evaluate`` and ``brats-parse-metrics``; the search path by
            default.

    Returns:
        Columns ``case``, ``region`` and those of :data:`COLUMNS`; NaN where the rule skips a region
        that is empty on both sides, 373 mm where no lesion was matched.

    Raises:
        ConfigError: Unknown rule.
        ResourceError: The programs are not installed, or fail.
        DataError: They could not score a case; names some.
    """
    if rule not in CHALLENGES:
        raise ConfigError(f"scoring rule {rule!r} is unknown; use one of {', '.join(CHALLENGES)}")
    evaluate, parse = (_find(name, programs) for name in ("brats-evaluate", "brats-parse-metrics"))
    with tempfile.TemporaryDirectory() as folder:
        summary, scores = Path(folder, "summary.json"), Path(folder, "scores.csv")
        settings = ["--config", CHALLENGES[rule], "--summary_json", str(summary)]
        folders = ["--ref_path", str(references), "--pred_path", str(predictions)]
        _run([evaluate, *settings, *folders], summary)
        _run([parse, "seg", "--json_path", str(summary), "--output_csv_path", str(scores)], scores)
        wide = read_table(scores, ("subject_id",))
    table = _case_table(wide[~wide["subject_id"].isin(_SUMMARIES)])
    expected = {_case_of(path.name) for path in references.glob("*.nii.gz")}
    unscored = sorted(expected - set(table["case"]))
    if unscored:
        reason = f"brats-evaluate could not score {len(unscored)} cases"
        raise DataError(unscored[0], "", reason, "look at these files, or leave them out")
    return table


def _find(program: str, folder: Path | None) -> str:
    found = shutil.which(program, path=str(folder) if folder else None)
    if found is None:
        raise ResourceError(
            f"the rule of 2026 needs the organisers' program {program}, which is not installed; "
            "pip install brats-evaluation in an environment of its own and name its bin folder"
        )
    return found


def _run(command: list[str], result: Path) -> None:
    """Run a program; these may fail with a line of text and without an exit status."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not result.is_file():
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise ResourceError(f"{Path(command[0]).name} failed; its last words: {said}")


def _case_table(wide: pd.DataFrame) -> pd.DataFrame:
    """One row per case and region from one row per case."""
    pattern = re.compile(rf"({'|'.join(map(re.escape, COLUMNS))})_(.+)")
    rows: dict[tuple[str, str], dict[str, object]] = {}
    for record in wide.to_dict("records"):
        case = _case_of(str(record["subject_id"]))
        for column, value in record.items():
            named = pattern.fullmatch(str(column))
            if named:
                region = named[2].upper()
                row = rows.setdefault((case, region), {"case": case, "region": region})
                row[COLUMNS[named[1]]] = value
    table = pd.DataFrame(list(rows.values()), columns=["case", "region", *COLUMNS.values()])
    # they replace it for whole regions, and leave it where no lesion was matched
    return table.replace({"lesion_hd95_mm": {math.inf: _PENALTY_MM}})


def _case_of(file_name: str) -> str:
    return re.sub(r"([-_]seg)?\.nii(\.gz)?$", "", file_name)
