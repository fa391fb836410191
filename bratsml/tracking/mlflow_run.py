"""The tracker that records one run in MLflow."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bratsml.errors import ConfigError, TrackingError
from bratsml.files import parse_json, table_as_csv
from bratsml.tracking.delivery import RunDelivery, RunIdentity, last_steps, translated
from bratsml.tracking.names import (
    LONGEST_VALUE,
    check_param_names,
    digest_of,
    metric_name,
    param_text,
    tag_text,
)
from bratsml.tracking.outbox import Outbox, RefusedError, StoreAwayError
from bratsml.tracking.privacy import scrub_paths
from bratsml.tracking.render import figure_file
from bratsml.tracking.run_state import process_tags
from bratsml.tracking.spool import Entry, Spool
from bratsml.tracking.store import TrackingStore
from bratsml.tracking.system_metrics import PREFIX, SystemMetrics
from bratsml.tracking.tracker import RunStatus

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run

logger = logging.getLogger("bratsml.tracking")

CURVE = "train/loss"
"""The metric that every epoch of a training records: it tells how far a run has come."""
NOT_FINITE = "bratsml.not_finite"
RAW_PARAMS = "bratsml.raw_params"
"""Tag naming the parameters that MLflow itself recorded, as typed, for a project run."""
LAST_WAIT_SECONDS = 20.0
"""How long the end of a run waits for a store that is away."""
HISTORY_WAIT_SECONDS = 5.0


class MlflowTracker:
    """See :class:`bratsml.tracking.tracker.Tracker`; opened by ``open_run`` and its like.

    Safe to use from several threads. What the store cannot take waits in ``mlruns/.spool``.
    """

    def __init__(self, store: TrackingStore, identity: RunIdentity) -> None:
        self.store = store
        self.last_step = -1
        self.is_continued = False
        self._delivery = RunDelivery(store, identity)
        self._spool = Spool(store.spool / identity.folder_name)
        self._outbox = Outbox(self._delivery.deliver, self._spool, self._delivery.is_store_there)
        self._params: dict[str, str] = {}
        self._raw_params: set[str] = set()
        self._stamps: dict[int, int] = {}
        self._not_finite: dict[str, str] = {}
        self._system: SystemMetrics | None = None

    @property
    def run_id(self) -> str:
        """Id of the run; ``""`` for a child that the store, being away, has not made yet."""
        return self._delivery.identity.run_id

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record settings; one recorded before with the same value is left alone.

        A value over 500 characters goes to ``params/<name>.txt``. Paths outside the project are not
        recorded.

        Raises:
            ConfigError: A name MLflow cannot hold, or a setting recorded with another value.
        """
        check_param_names(params)
        fresh = {}
        for name, value in params.items():
            text = scrub_paths(param_text(value), self.store.root)
            if len(text) > LONGEST_VALUE:
                artifact = f"params/{name.replace('/', '_')}.txt"
                shown = f"{len(text)} characters, {digest_of(text)}, in {artifact}"
                if self._params.get(name) != shown:
                    self.log_text(text, artifact)
                text = shown
            if name in self._raw_params and self._params.get(name) != text:
                name = f"config.{name}"
            known = self._params.get(name)
            if known is None:
                fresh[name] = text
            elif known != text:
                raise ConfigError(
                    f"setting {name!r} was recorded as {known!r} in run {self.run_id} and is now "
                    f"{text!r}; change it back, or start a new run with --fork"
                )
        if fresh:
            self._params |= fresh
            self._send({"kind": "params", "values": fresh})

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record one value per name in one call; see :class:`~bratsml.tracking.tracker.Tracker`.

        It does not wait for the store: should the process be killed in the next milliseconds, the
        values are lost. A value that an earlier process of this run recorded at this step is not
        recorded again. Characters that MLflow refuses in a name become ``_``.
        """
        values = self._finite(metrics, step)
        if values:
            entry = {"kind": "metrics", "step": step, "time": self._stamp(step), "values": values}
            self._outbox.post(self._delivery.tagged(entry))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set labels, cut after 8000 characters, paths outside the project left out."""
        root = self.store.root
        values = {name: tag_text(scrub_paths(str(value), root)) for name, value in tags.items()}
        if values:
            self._send({"kind": "tags", "values": values})

    def log_file(self, path: Path, folder: str = "") -> None:
        """Keep a copy of a file; it may be deleted as soon as this returns."""
        self._send({"kind": "file", "folder": folder}, path.resolve())

    def log_text(self, text: str, name: str) -> None:
        """Keep text, paths outside the project left out."""
        self._log_bytes(scrub_paths(text, self.store.root).encode(), name)

    def log_json(self, content: object, name: str) -> None:
        """Keep JSON; ``name`` carries its suffix."""
        self.log_text(json.dumps(content, indent=1, default=str), name)

    def log_table(self, table: pd.DataFrame, name: str) -> None:
        """Keep ``name.csv`` and ``name.parquet``."""
        self._log_bytes(table_as_csv(table).encode(), f"{name}.csv")
        # Parquet wants text as column names
        named = table.set_axis([str(column) for column in table.columns], axis="columns")
        self._log_bytes(named.to_parquet(index=False), f"{name}.parquet")

    def log_figure(self, figure: Any, name: str) -> None:
        """Keep ``name.png`` (matplotlib) or ``name.html`` (Plotly, one figure or a list)."""
        suffix, content = figure_file(figure)
        self._log_bytes(content, f"{name}{suffix}")

    def log_checkpoint(
        self, path: Path, name: str, step: int, metrics: Mapping[str, float]
    ) -> None:
        """Keep a checkpoint, with its ``.sha256`` if there is one, as the logged model ``name``.

        The run's older model of that name is dropped, so at most one per name takes up disk.

        Args:
            path: A file, or a folder whose content becomes the model.
        """
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".logging.") as temporary:
            if path.is_dir():
                folder, model_type = path, "model"
            else:
                folder, model_type = Path(temporary), "checkpoint"
                _place(path, folder)
                _place(path.with_name(f"{path.name}.sha256"), folder)
            entry = {
                "kind": "model",
                "name": name,
                "model_type": model_type,
                "step": step,
                "time": self._stamp(step),
                "values": self._finite(metrics, step),
            }
            self._send(entry, folder.resolve())

    def describe(self, markdown: str) -> None:
        """Set the description shown on the run's page."""
        self.set_tags({"mlflow.note.content": markdown})

    def child(self, name: str, key: str) -> MlflowTracker:
        """The nested run known by ``key``: continued, attached to when finished, or made.

        While the store is away it is made later; its ``run_id`` is empty until then.
        """
        identity = RunIdentity(parent=self.run_id, key=key, name=name)
        tracker = MlflowTracker(self.store, identity)
        tracker.open({}, reopen_finished=False)
        return tracker

    def history(self, metric: str) -> list[tuple[int, float]]:
        """Recorded values by step, the last one where a step has several.

        Empty, with a warning, when the store stays away.
        """
        self._outbox.drain(HISTORY_WAIT_SECONDS)
        try:
            with translated():
                if not self.run_id and self._delivery.find() is None:
                    return []
                found = self.store.client.get_metric_history(self.run_id, metric)
        except (StoreAwayError, RefusedError) as error:
            logger.warning("the history of %s cannot be read (%s)", metric, error)
            return []
        ordered = sorted(found, key=lambda point: (point.step, point.timestamp))
        return list({point.step: point.value for point in ordered}.items())

    def finish(self, status: RunStatus) -> None:
        """Close the run; waits at most twenty seconds for a store that is away."""
        if self._system is not None:
            self._system.stop()
            self._system = None
        self._send({"kind": "status", "status": status, "time": _now()})
        if not self._outbox.drain(LAST_WAIT_SECONDS):
            logger.warning(
                "the tracking store is still away; %d entries wait in mlruns/.spool and are "
                "delivered by the next bratsml command",
                self._outbox.num_waiting,
            )

    def open(self, tags: Mapping[str, str], *, reopen_finished: bool) -> None:
        """Take the run over: RUNNING, with this process on it and what it holds already known.

        Args:
            tags: Set in the same call.
            reopen_finished: Whether a FINISHED run becomes RUNNING again.
        """
        run = self._look()
        finished = run is not None and run.info.status == "FINISHED" and not reopen_finished
        if finished:
            return
        self.is_continued = run is not None and bool(run.data.metrics)
        entry = {
            "kind": "open",
            "reopen_finished": reopen_finished,
            "values": {**tags, **process_tags()},
        }
        self._send(entry)
        self._start_system_metrics(run)

    def _look(self) -> Run | None:
        """Read what the run holds, after delivering what an earlier process left behind."""
        try:
            self._outbox.drain_here()
            with translated():
                run = self._delivery.find()
        except StoreAwayError:
            return None
        except RefusedError as error:
            raise TrackingError(f"run {self.run_id} cannot be opened: {error}") from error
        if run is not None:
            self._params = dict(run.data.params)
            self._raw_params = set(parse_json(run.data.tags.get(RAW_PARAMS, "[]")))
            self._not_finite = parse_json(run.data.tags.get(NOT_FINITE, "{}"))
            self._delivery.logged = last_steps(run)
            self.last_step = self._delivery.logged.get(CURVE, -1)
        return run

    def _start_system_metrics(self, run: Run | None) -> None:
        steps = last_steps(run) if run is not None else {}
        first = 1 + max((s for name, s in steps.items() if name.startswith(PREFIX)), default=-1)
        self._system = SystemMetrics(self._log_system_metrics, first)
        self._system.start()

    def _log_system_metrics(self, values: dict[str, float], step: int) -> None:
        entry = {"kind": "metrics", "step": step, "time": _now(), "values": values}
        self._outbox.post(self._delivery.tagged(entry))

    def _log_bytes(self, content: bytes, name: str) -> None:
        folder, _, file = name.rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / file
            path.write_bytes(content)
            self.log_file(path, folder)

    def _finite(self, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """The finite values under names MLflow takes; the others are noted in a tag."""
        values, noted = {}, False
        for name, value in metrics.items():
            clean, number = metric_name(name), float(value)
            if math.isfinite(number):
                values[clean] = number
            elif clean not in self._not_finite:
                self._not_finite[clean] = f"{number} first at step {step}"
                noted = True
        if noted:
            self.set_tags({NOT_FINITE: json.dumps(self._not_finite)})
        return values

    def _stamp(self, step: int) -> int:
        """One time per step: MLflow then sees a value recorded twice as the same one."""
        return self._stamps.setdefault(step, _now())

    def _send(self, entry: Entry, file: Path | None = None) -> None:
        self._outbox.send(self._delivery.tagged(entry), file)


def _place(path: Path, folder: Path) -> None:
    """Put a file into a folder without copying its content where links work."""
    if not path.is_file():
        return
    try:
        os.link(path, folder / path.name)
    except OSError:
        shutil.copyfile(path, folder / path.name)


def _now() -> int:
    return int(time.time() * 1000)
