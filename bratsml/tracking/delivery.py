"""Handing entries to MLflow so that delivering one twice records it once.

MLflow keeps one metric value per (name, time, step, value), so a repeated entry with its own time
adds nothing. Steps recorded by an earlier process of the run are left out altogether.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bratsml.tracking.outbox import RefusedError, StoreAwayError
from bratsml.tracking.run_state import KEY, PARENT, child_of, process_tags
from bratsml.tracking.spool import Entry
from bratsml.tracking.store import TrackingStore, first_line

if TYPE_CHECKING:
    from mlflow.entities import Run

FINAL = {
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "NOT_FOUND",
    "PERMISSION_DENIED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
"""Error codes with which MLflow says that trying again is useless."""
MOST_METRICS, MOST_PARAMS, MOST_TAGS = 1000, 100, 100
"""What MLflow takes in one batch."""


@dataclass
class RunIdentity:
    """How a run is found, or made: by its id, or as the child of ``parent`` known by ``key``."""

    run_id: str = ""
    parent: str = ""
    key: str = ""
    name: str = ""

    @property
    def folder_name(self) -> str:
        """Name of its spool folder; for a child the same before and after the run is made."""
        text = f"{self.parent}-{self.key}" if self.parent else self.run_id
        return "".join(c if c.isalnum() or c in "-_" else "_" for c in text)


class RunDelivery:
    """Delivers entries of one run; the run may still have to be made."""

    def __init__(self, store: TrackingStore, identity: RunIdentity) -> None:
        self.store, self.identity = store, identity
        self.logged: dict[str, int] = {}
        self._experiment_id = ""

    def deliver(self, entry: Entry, folder: Path) -> None:
        """Hand over one entry; ``folder`` is where its kept file lies.

        Raises:
            StoreAwayError: It may be taken later.
            RefusedError: It never will.
        """
        with translated():
            getattr(self, f"_deliver_{entry['kind']}")(entry, folder)

    def is_store_there(self) -> bool:
        """Whether the store answers."""
        try:
            self.store.client.search_experiments(max_results=1)
        except Exception:
            return False
        return True

    def find(self) -> Run | None:
        """The run as the store has it now, or ``None`` for a child not yet made."""
        client = self.store.client
        if self.identity.run_id:
            return client.get_run(self.identity.run_id)
        run = child_of(client, self._experiment(), self.identity.parent, self.identity.key)
        if run is not None:
            self.identity.run_id = run.info.run_id
        return run

    def tagged(self, entry: Entry) -> Entry:
        """The entry with what another process needs to deliver it."""
        return {**entry, "run": asdict(self.identity), "process": process_tags()}

    def _run_id(self) -> str:
        if not self.identity.run_id and self.find() is None:
            run = self.store.client.create_run(
                self._experiment(),
                tags={PARENT: self.identity.parent, KEY: self.identity.key},
                run_name=self.identity.name,
            )
            self.identity.run_id = run.info.run_id
        return self.identity.run_id

    def _experiment(self) -> str:
        if not self._experiment_id:
            known = self.identity.run_id or self.identity.parent
            self._experiment_id = self.store.client.get_run(known).info.experiment_id
        return self._experiment_id

    def _deliver_open(self, entry: Entry, _: Path) -> None:
        client, run_id = self.store.client, self._run_id()
        run = client.get_run(run_id)
        self.logged = last_steps(run)
        if run.info.status == "FINISHED" and not entry["reopen_finished"]:
            return
        if run.info.status != "RUNNING":
            client.update_run(run_id, status="RUNNING")
        self._deliver_tags(entry, Path())

    def _deliver_metrics(self, entry: Entry, _: Path) -> None:
        from mlflow.entities import Metric

        step, time = entry["step"], entry["time"]
        fresh = [
            Metric(name, value, time, step)
            for name, value in entry["values"].items()
            if step > self.logged.get(name, -1)
        ]
        for start in range(0, len(fresh), MOST_METRICS):
            batch = fresh[start : start + MOST_METRICS]
            self.store.client.log_batch(self._run_id(), metrics=batch)

    def _deliver_params(self, entry: Entry, _: Path) -> None:
        from mlflow.entities import Param

        params = [Param(name, value) for name, value in entry["values"].items()]
        for start in range(0, len(params), MOST_PARAMS):
            batch = params[start : start + MOST_PARAMS]
            self.store.client.log_batch(self._run_id(), params=batch)

    def _deliver_tags(self, entry: Entry, _: Path) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(name, value) for name, value in entry["values"].items()]
        for start in range(0, len(tags), MOST_TAGS):
            self.store.client.log_batch(self._run_id(), tags=tags[start : start + MOST_TAGS])

    def _deliver_file(self, entry: Entry, folder: Path) -> None:
        path = folder / entry["kept"]
        self.store.client.log_artifact(self._run_id(), str(path), entry["folder"] or None)

    def _deliver_status(self, entry: Entry, _: Path) -> None:
        self.store.client.set_terminated(self._run_id(), entry["status"], entry["time"])

    def _deliver_model(self, entry: Entry, folder: Path) -> None:
        """A logged model with its metrics; an older one of the same name goes once it is there."""
        client, run_id = self.store.client, self._run_id()
        model = client.create_logged_model(
            self._experiment(),
            name=entry["name"],
            source_run_id=run_id,
            tags={"bratsml.step": str(entry["step"])},
            model_type=entry["model_type"],
        )
        # a folder: its content becomes the root of the model
        client.log_model_artifacts(model.model_id, str(folder / entry["kept"]))
        client.finalize_logged_model(model.model_id, "READY")
        metrics = [
            self._model_metric(name, value, entry, model.model_id)
            for name, value in entry["values"].items()
        ]
        if metrics:
            client.log_batch(run_id, metrics=metrics)
        self._drop_older_models(entry["name"], model.model_id)

    def _model_metric(self, name: str, value: float, entry: Entry, model_id: str) -> Any:
        """The metric as the run already has it, so that the run does not get it twice."""
        from mlflow.entities import Metric

        step, time = entry["step"], entry["time"]
        if step <= self.logged.get(name, -1):
            history = self.store.client.get_metric_history(self.identity.run_id, name)
            for known in history:
                if known.step == step:
                    value, time = known.value, known.timestamp
        return Metric(name, value, time, step, model_id=model_id, run_id=self.identity.run_id)

    def _drop_older_models(self, name: str, keep: str) -> None:
        client = self.store.client
        for model in models_of(self.store, self._experiment(), self.identity.run_id, name):
            if model.model_id != keep:
                client.delete_logged_model(model.model_id)
                _delete_files(model.artifact_location)


def models_of(store: TrackingStore, experiment_id: str, run_id: str, name: str = "") -> list[Any]:
    """Logged models of one run, with that name if one is given, newest first."""
    wanted = f"source_run_id = '{run_id}'" + (f" AND name = '{name}'" if name else "")
    found: list[Any] = []
    page = store.client.search_logged_models([experiment_id], filter_string=wanted)
    while True:
        found += page
        if not page.token:
            break
        page = store.client.search_logged_models(
            [experiment_id], filter_string=wanted, page_token=page.token
        )
    return sorted(found, key=lambda model: -model.creation_timestamp)


def last_steps(run: Run) -> dict[str, int]:
    """The last recorded step of every metric of a run."""
    # the step beside each latest value has no public name; asking every history would cost a query
    # per metric
    return {metric.key: metric.step for metric in run.data._metric_objs or ()}


def _delete_files(location: str) -> None:
    """Free the disk a dropped model took; MLflow only hides it."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    # what cannot be deleted (a server may forbid it) is only disk not freed
    with contextlib.suppress(Exception):
        get_artifact_repository(location).delete_artifacts()


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Sort MLflow's errors into those that pass and those that stay."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    try:
        yield
    except MlflowException as error:
        if error.error_code in FINAL:
            raise RefusedError(first_line(error)) from error
        raise StoreAwayError(first_line(error)) from error
    except FileNotFoundError as error:
        raise RefusedError(f"{Path(error.filename or 'a file').name} is no longer there") from error
    except (OSError, RequestException) as error:
        raise StoreAwayError(first_line(error)) from error
