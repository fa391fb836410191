"""A folder of raw cases into a store: in parallel, resumable, every refused case explained.

A case is done again when the content of its files, the recipe, the recipe's code version or the
label scheme changed, and skipped otherwise. Refused cases go into ``rejected.csv``; the others go
on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bratsml.data.cases import MODALITIES, CaseFiles, Discovery, discover_cases
from bratsml.data.ledger import (
    MANIFEST_FILE,
    CaseRecord,
    check_manifest,
    file_stamp,
    read_ledger,
    read_manifest,
    write_ledger,
)
from bratsml.data.pool import run_each, usable_cores
from bratsml.data.prepare import PreparedCase, case_key, prepare_case
from bratsml.data.process import Task, process_case
from bratsml.data.progress import case_progress
from bratsml.data.recipes import RECIPE_VERSION, RecipeConfig
from bratsml.data.rejected import write_rejected
from bratsml.data.store import (
    CASES_FOLDER,
    META_FILE,
    REJECTED_FILE,
    STORE_FILE,
    STORE_FORMAT,
    Store,
    StoreIndex,
    locked_for_writing,
    read_case_meta,
    remove_leftovers,
)
from bratsml.errors import DataError
from bratsml.files import write_json
from bratsml.labels import LabelScheme

__all__ = ["PreparedCase", "Report", "build_store", "prepare_case", "preprocess_dataset"]

WORKER_MEMORY_BYTES = 600 << 20
"""What one worker takes at its peak on a BraTS case, with room to spare."""
WORKER_START_BYTES = 10 << 20
"""Starting a process costs about as much as reading this much of gzipped volumes."""
LEDGER_SECONDS = 5.0


@dataclass
class Report:
    """What a run of preprocessing did.

    Attributes:
        num_done: Cases read and stored in this run.
        num_skipped: Cases that were there already.
        rejected: Errors of the cases left out, by case id.
        seconds: Wall-clock time.
    """

    path: Path
    num_done: int = 0
    num_skipped: int = 0
    rejected: list[DataError] = field(default_factory=list)
    seconds: float = 0.0

    def require_complete(self) -> None:
        """Raise when cases were left out.

        Raises:
            DataError: Naming their number, the first of them and where to read on.
        """
        if self.rejected:
            first = self.rejected[0]
            raise DataError(
                self.path.name,
                REJECTED_FILE,
                f"{len(self.rejected)} of {self.num_cases} cases were rejected, first {first}",
                "mend them, or go on without them: preprocess --allow-rejected, or "
                "data.allow_rejected=true with train and cv",
            )

    @property
    def num_usable(self) -> int:
        """Cases in the store."""
        return self.num_done + self.num_skipped

    @property
    def num_cases(self) -> int:
        """Cases found, whatever became of them."""
        return self.num_usable + len(self.rejected)


def preprocess_dataset(
    source: Path,
    out: Path,
    recipe: RecipeConfig,
    label_scheme: str | None = None,
    *,
    workers: int | None = None,
    need_labels: bool = True,
    allow_rejected: bool = False,
    repair: bool = False,
    manifest: Path | None = None,
    progress: bool = True,
) -> Store:
    """Preprocess every case under ``source`` into the store ``out``.

    Args:
        label_scheme: Name in ``SCHEMES``; ``None`` or ``auto`` takes what the case names imply.
        workers: Processes; by default one per core, fewer when memory is short.
        need_labels: Refuse cases without label map.
        allow_rejected: Return the store of the good cases instead of raising.
        repair: Mend broken voxel sizes and missing orientation instead of refusing.
        manifest: File of ``sha256sum`` lines to check against; ``SHA256SUMS`` in the source folder
            is used when there is one.
        progress: Show a progress bar on standard error.

    Raises:
        DataError: No case at all, none usable, or some rejected without ``allow_rejected`` (the
            store of the others is finished nevertheless).
        ConfigError: The label scheme is unknown or cannot be told.
        ResourceError: No space, no permission, or a worker was killed.
    """
    report = build_store(
        source,
        out,
        recipe,
        label_scheme,
        workers=workers,
        need_labels=need_labels,
        repair=repair,
        manifest=manifest,
        progress=progress,
    )
    if not allow_rejected or report.num_usable == 0:
        report.require_complete()
    return Store.open(out)


def build_store(
    source: Path,
    out: Path,
    recipe: RecipeConfig,
    label_scheme: str | None = None,
    *,
    workers: int | None = None,
    need_labels: bool = True,
    repair: bool = False,
    manifest: Path | None = None,
    progress: bool = True,
) -> Report:
    """:func:`preprocess_dataset` that reports rejected cases instead of raising."""
    started = time.monotonic()
    discovery = discover_cases(source, need_labels=need_labels)
    scheme = discovery.scheme(label_scheme)
    sums = _manifest_of(source, manifest)
    report = Report(out, rejected=list(discovery.problems))
    with locked_for_writing(out):
        remove_leftovers(out)
        plan = _Plan(out, recipe, scheme, repair, sums)
        records, tasks = plan.split(discovery)
        report.num_skipped = sum(1 for record in records.values() if record.error is None)
        if tasks:
            (out / STORE_FILE).unlink(missing_ok=True)  # unfinished from here on
            _process(tasks, records, report, _num_workers(workers, tasks), progress)
        errors = [record.data_error(case_id) for case_id, record in records.items()]
        report.rejected += [error for error in errors if error is not None]
        report.rejected.sort(key=lambda error: error.case)
        _finish(plan, records, report)
    report.seconds = time.monotonic() - started
    return report


@dataclass(frozen=True)
class _Plan:
    """What decides whether a case must be done again."""

    out: Path
    recipe: RecipeConfig
    scheme: LabelScheme
    repair: bool
    sums: Mapping[Path, str]

    def split(self, discovery: Discovery) -> tuple[dict[str, CaseRecord], list[Task]]:
        """Records of the cases that are as they were, tasks for the others."""
        ledger = read_ledger(self.out)
        records: dict[str, CaseRecord] = {}
        tasks: list[Task] = []
        for case in discovery.cases:
            paths = {use: path.resolve() for use, path in case.files.items()} if self.sums else {}
            expected = {use: self.sums[path] for use, path in paths.items() if path in self.sums}
            record = ledger.get(case.id)
            if record and self._is_current(record, case, expected):
                records[case.id] = record
                continue
            tasks.append(
                Task(
                    case=case,
                    recipe=self.recipe,
                    scheme=self.scheme.name,
                    out=self.out,
                    repair=self.repair,
                    known_key=_stored_key(self.out, case.id),
                    expected=expected,
                )
            )
        return records, tasks

    def _is_current(self, record: CaseRecord, case: CaseFiles, expected: Mapping[str, str]) -> bool:
        key = case_key(record.hashes, self.recipe, self.scheme.name, self.repair)
        there = (self.out / CASES_FOLDER / case.id / META_FILE).is_file()
        return (
            record.key == key
            and (there or record.error is not None)
            and record.still_holds(case)
            and check_manifest(case, record.hashes, expected) is None
        )


def _stored_key(out: Path, case_id: str) -> str:
    """Key of what the store holds of a case; empty when it holds nothing usable."""
    try:
        return read_case_meta(out, case_id).key
    except DataError:
        return ""


def _process(
    tasks: list[Task], records: dict[str, CaseRecord], report: Report, workers: int, progress: bool
) -> None:
    """Run the tasks, keeping the ledger on disk nearly up to date."""
    saved = time.monotonic()
    with case_progress("Preprocessing", len(tasks), shown=progress) as advance:
        try:
            for case_id, record, stored in run_each(
                process_case, tasks, workers, lambda task: task.case.id
            ):
                records[case_id] = record
                report.num_done += stored
                report.num_skipped += record.error is None and not stored
                advance(record.error is not None)
                if time.monotonic() - saved > LEDGER_SECONDS:
                    write_ledger(report.path, records)
                    saved = time.monotonic()
        finally:
            write_ledger(report.path, records)


def _finish(plan: _Plan, records: Mapping[str, CaseRecord], report: Report) -> None:
    """Write what makes the store whole, leaving files alone that would not change."""
    index = StoreIndex(
        format=STORE_FORMAT,
        recipe=plan.recipe,
        recipe_version=RECIPE_VERSION[plan.recipe.kind],
        label_scheme=plan.scheme.name,
        modalities=MODALITIES,
        cases={case_id: r.key for case_id, r in sorted(records.items()) if r.error is None},
        rejected=len(report.rejected),
    )
    write_rejected(plan.out / REJECTED_FILE, report.rejected)
    try:
        unchanged = Store.open(plan.out).index == index
    except DataError:
        unchanged = False
    if not unchanged:
        write_json(plan.out / STORE_FILE, index.tree())


def _manifest_of(source: Path, manifest: Path | None) -> dict[Path, str]:
    if manifest is not None:
        return read_manifest(manifest)
    usual = source / MANIFEST_FILE
    return read_manifest(usual) if usual.is_file() else {}


def _num_workers(asked: int | None, tasks: list[Task]) -> int:
    """One process per core, but none that memory does not allow or that would not pay."""
    if asked is not None:
        return max(1, min(asked, len(tasks)))
    by_memory = psutil.virtual_memory().available // WORKER_MEMORY_BYTES
    size = sum(file_stamp(path)[0] for task in tasks for path in task.case.files.values())
    by_size = 1 + size // WORKER_START_BYTES
    return max(1, min(usable_cores(), len(tasks), by_memory, by_size))
