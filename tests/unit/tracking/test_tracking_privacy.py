from __future__ import annotations

from pathlib import Path

import pytest

from bratsml.tracking.privacy import OUTSIDE, scrub_paths

ROOT = Path("/project")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/jane/doe_john/t1.nii.gz", OUTSIDE),
        ("data=/scans/doe_john model=unet", f"data={OUTSIDE} model=unet"),
        ("in ~/scans, ~jane/scans", f"in {OUTSIDE}, {OUTSIDE}"),
        ("../scans/doe", OUTSIDE),
        ("a/../../scans/doe", OUTSIDE),
        ("file:///scans/doe", OUTSIDE),
        ("'C:\\scans\\doe'", f"'{OUTSIDE}'"),
        ('{"file": "/scans/doe"}', f'{{"file": "{OUTSIDE}"}}'),
        ("/scans/John Doe", OUTSIDE),
        ("scored /scans/John Doe/t1.nii.gz twice", f"scored {OUTSIDE} twice"),
        ("cannot write (/scans/doe): full", f"cannot write ({OUTSIDE}): full"),
    ],
)
def test_paths_outside_the_project_are_replaced(text: str, expected: str) -> None:
    assert scrub_paths(text, ROOT) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/project/experiments/unet.yaml", "experiments/unet.yaml"),
        ("experiments/../data/phantom", "data/phantom"),
    ],
)
def test_paths_inside_the_project_become_relative(text: str, expected: str) -> None:
    assert scrub_paths(text, ROOT) == expected


@pytest.mark.parametrize(
    "text",
    [
        "experiments/unet.yaml",
        "http://server:5000/#/experiments/1",
        "val/dice/ET",
        "GB/s, 3 / 4, ~5 minutes, and/or",
        "<td>0.5</td><br/>",
        "| a | b |\n|---|---|",
        "1e-3 ... 2",
        "",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert scrub_paths(text, ROOT) == text
