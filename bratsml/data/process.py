"""One case of a dataset, from its files into the store: what a worker process does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bratsml.data.cases import CaseFiles
from bratsml.data.ledger import CaseRecord, FileRecord, check_manifest, file_stamp
from bratsml.data.prepare import case_key, prepare_raw_case, read_case
from bratsml.data.recipes import RecipeConfig
from bratsml.data.store import IMAGE_FILE, LABEL_FILE, REFERENCE_FILE, write_case
from bratsml.errors import DataError
from bratsml.files import printable
from bratsml.geometry import Array
from bratsml.labels import get_scheme


@dataclass(frozen=True)
class Task:
    """One case for one worker.

    Attributes:
        known_key: Key of what the store holds of the case, empty for nothing.
        expected: Use to the SHA-256 that a manifest asks for.
    """

    case: CaseFiles
    recipe: RecipeConfig
    scheme: str
    out: Path
    repair: bool
    known_key: str
    expected: Mapping[str, str]


def process_case(task: Task) -> tuple[str, CaseRecord, bool]:
    """Read, check and store one case; runs in a worker process.

    Returns:
        The case id, its record (with the error when it was refused), whether it was stored anew.
    """
    case, scheme = task.case, get_scheme(task.scheme)
    stamps = {use: file_stamp(path) for use, path in case.files.items()}
    try:
        raw = read_case(case, repair=task.repair)
    except DataError as error:  # without hashes there is no key: looked at again next time
        return case.id, CaseRecord(files={}, key="", error=_told(error)), False
    files = {
        use: FileRecord(size=size, mtime_ns=mtime, ctime_ns=ctime, sha256=raw.hashes[use])
        for use, (size, mtime, ctime) in stamps.items()
    }
    key = case_key(raw.hashes, task.recipe, task.scheme, task.repair)
    refused = check_manifest(case, raw.hashes, task.expected)
    if refused is not None:  # no key: looked at again next time, when the manifest may be mended
        return case.id, CaseRecord(files=files, key="", error=_told(refused)), False
    if key == task.known_key:
        return case.id, CaseRecord(files=files, key=key), False
    try:
        prepared = prepare_raw_case(raw, task.recipe, scheme, repair=task.repair)
    except DataError as error:
        return case.id, CaseRecord(files=files, key=key, error=_told(error)), False
    except MemoryError:
        told = ("", "does not fit into memory", "free some or use fewer workers, and run it again")
        return case.id, CaseRecord(files={}, key="", error=told), False
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # a mistake of ours about one case must not cost the others; without a key it is tried again
        what = printable(f"{type(error).__name__}: {error}", 200)
        told = ("", f"could not be read by a mistake of bratsml ({what})", "please report it")
        return case.id, CaseRecord(files={}, key="", error=told), False
    arrays: dict[str, Array] = {IMAGE_FILE: prepared.image}
    if prepared.label is not None:
        arrays[LABEL_FILE] = prepared.label
    if prepared.reference is not None:
        arrays[REFERENCE_FILE] = prepared.reference
    write_case(task.out, prepared.meta, arrays)
    return case.id, CaseRecord(files=files, key=key), True


def _told(error: DataError) -> tuple[str, str, str]:
    return error.file, error.reason, error.remedy
