"""Files are read through one room only, which refuses pipes and devices and bounds what is read.

A single ``path.read_text()`` elsewhere hangs for ever on a pipe, and a single ``json.loads`` ends
in a traceback on deep nesting. Whoever adds one finds it here.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "bratsml"

METHODS = {"read_text": "files.read_text", "read_bytes": "files.read_bytes"}
FUNCTIONS = {
    "open": "files.open_file",
    "json.load": "files.read_json",
    "json.loads": "files.parse_json",
    "yaml.load": "files.parse_yaml",
    "yaml.safe_load": "files.parse_yaml",
    "np.load": "files.open_array or read_archived_array",
    "np.fromfile": "files.open_array",
    "np.loadtxt": "files.read_table",
    "np.memmap": "files.open_array",
    "pd.read_csv": "files.read_table",
    "pd.read_json": "files.read_json",
    "pd.read_parquet": "files.read_table",
    "csv.reader": "files.read_table",
    "gzip.open": "files.open_file",
    "gzip.decompress": "data.nifti",
    "zipfile.ZipFile": "files.read_archived_array",
    "tarfile.open": "nothing: archives are not unpacked here",
    "pickle.load": "nothing: pickles run code",
    "pickle.loads": "nothing: pickles run code",
    "nib.load": "data.nifti.read_volume",
    "torch.load": "training.checkpoint.load_checkpoint",
}
ALLOWED = {("training/checkpoint.py", "torch.load")}
"""Its one door, after the file was looked at."""


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE / "files")


def inside(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def raw_reads(source: str) -> list[str]:
    """What a module calls that reads a file or parses text without limits."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [name for name in map(_raw_read, calls) if name]


def _raw_read(call: ast.Call) -> str:
    name = ast.unparse(call.func)
    writes = any(
        isinstance(part, ast.Constant) and str(part.value)[:1] in ("w", "a", "x")
        for part in (*call.args[1:], *(keyword.value for keyword in call.keywords))
    )
    if name in FUNCTIONS:
        return "" if name.endswith("open") and writes else name
    if not isinstance(call.func, ast.Attribute) or name.startswith("files."):
        return ""
    modes = ("r", "rb", "rt", "r+", "r+b")
    if call.func.attr == "open" and any(
        isinstance(part, ast.Constant) and part.value in modes for part in call.args
    ):
        return ".open"
    return call.func.attr if call.func.attr in METHODS else ""


@pytest.mark.parametrize("path", modules(), ids=inside)
def test_a_module_reads_files_through_the_room_for_files(path: Path) -> None:
    found = set(raw_reads(path.read_text(encoding="utf-8")))
    for name in found - {name for place, name in ALLOWED if place == inside(path)}:
        instead = {**FUNCTIONS, **METHODS}.get(name, "files.open_file")
        pytest.fail(f"{inside(path)} calls {name}; use {instead}")


@pytest.mark.parametrize(
    "line",
    [
        "Path('x').read_text()",
        "x = (a / b).read_bytes()",
        "open('x')",
        "path.open('rb', buffering=0)",
        "json.loads(text)",
        "yaml.load(text, Loader=L)",
        "np.load(path, mmap_mode='r')",
        "gzip.open(path)",
    ],
)
def test_a_raw_read_is_found(line: str) -> None:
    assert raw_reads(line)


@pytest.mark.parametrize(
    "line",
    ["read_text(path)", "files.read_bytes(p, 3)", "log.open('ab')", "Store.open(path)",
     "gzip.open(p, 'wb')", "record.open()"],
)  # fmt: skip
def test_what_is_no_raw_read_is_left_alone(line: str) -> None:
    assert not raw_reads(line)
