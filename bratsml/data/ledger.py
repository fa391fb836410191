"""What preprocessing remembers of the raw files, so that an unchanged dataset is not read again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bratsml.config import Config
from bratsml.data.cases import CaseFiles
from bratsml.errors import ConfigError, DataError
from bratsml.files import read_json, read_text, write_json

LEDGER_FILE = ".ledger.json"
MANIFEST_FILE = "SHA256SUMS"


class FileRecord(Config):
    """One file as it was last read.

    The time of the last change of status is kept besides that of the content, because the latter
    can be set back.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    sha256: str

    def still_holds(self, path: Path) -> bool:
        """Whether the file looks untouched since."""
        return file_stamp(path) == (self.size, self.mtime_ns, self.ctime_ns)


class CaseRecord(Config):
    """What became of a case: stored under ``key``, or refused with ``error``."""

    files: dict[str, FileRecord]
    key: str
    error: tuple[str, str, str] | None = None  # file, reason, remedy

    def still_holds(self, case: CaseFiles) -> bool:
        """Whether the case has the same files and none looks touched."""
        paths = case.files
        return paths.keys() == self.files.keys() and all(
            self.files[use].still_holds(path) for use, path in paths.items()
        )

    @property
    def hashes(self) -> dict[str, str]:
        """Use to SHA-256."""
        return {use: record.sha256 for use, record in self.files.items()}

    def data_error(self, case_id: str) -> DataError | None:
        """The error the case was refused with, or ``None`` when it was stored."""
        return DataError(case_id, *self.error) if self.error else None


def file_stamp(path: Path) -> tuple[int, int, int]:
    """Size and times of a file; zeros when it cannot be reached."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0, 0
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_ledger(store: Path) -> dict[str, CaseRecord]:
    """Case id to record; empty when there is none or it is damaged (work is then only redone)."""
    try:
        tree = read_json(store / LEDGER_FILE)
        return {case_id: CaseRecord.model_validate(entry) for case_id, entry in tree.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def write_ledger(store: Path, records: Mapping[str, CaseRecord]) -> None:
    """Replace the ledger."""
    write_json(store / LEDGER_FILE, {case_id: records[case_id].tree() for case_id in records})


def read_manifest(path: Path) -> dict[Path, str]:
    """Absolute path to expected SHA-256, from the lines of ``sha256sum``.

    Raises:
        ConfigError: Unreadable, or a line is not ``<sha256>  <file>``.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"manifest {path.name} cannot be read; check its name") from error
    expected: dict[Path, str] = {}
    for number, line in enumerate(lines, start=1):
        digest, _, name = line.strip().partition(" ")
        if not line.strip() or line.startswith("#"):
            continue
        if len(digest) != 64 or not name.strip():
            raise ConfigError(f"manifest {path.name}, line {number}: expected '<sha256>  <file>'")
        expected[(path.parent / name.strip().removeprefix("*")).resolve()] = digest.lower()
    return expected


def check_manifest(
    case: CaseFiles, hashes: Mapping[str, str], expected: Mapping[str, str]
) -> DataError | None:
    """The error of the first file whose content is not what the manifest says."""
    for use, digest in expected.items():
        if hashes.get(use, digest) != digest:
            return DataError(
                case.id,
                case.files[use].name,
                "is corrupt: its sha256 is not the one in the manifest",
                "copy or download it again",
            )
    return None
