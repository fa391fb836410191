"""Where runs are kept: ``mlflow.db`` and ``mlruns/`` in the project folder, or a server.

``MLFLOW_TRACKING_URI`` is respected. A local store is made once under a file lock: several
processes that start together on a new SQLite store break it.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bratsml.errors import TrackingError
from bratsml.files import read_text

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

PROJECT_FILE = "MLproject"
PROJECT_NAME = "bratsml"
EXPERIMENT_NAME = "bratsml"
"""MLflow experiment of every run, so that any two can be compared."""
ARTIFACTS_FOLDER = "mlruns"
SPOOL_FOLDER = ".spool"
DATABASE_FILE = "mlflow.db"
LOCK_SECONDS = 180.0
"""How long a process waits for another that makes the store; making it takes seconds."""
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Has the MLflow pages show training runs first where they honour it (``ui_address`` for the rest).
"""
SHORT_WAITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
"""MLflow waits minutes for a server that is gone; what cannot be sent at once is spooled."""


def project_root(start: Path | None = None) -> Path:
    """The project folder: the nearest one upward with our MLproject, else ``start`` itself.

    Args:
        start: Where to look from; the working folder if not given.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if is_project(folder):
            return folder
    return start


def is_project(folder: Path) -> bool:
    """Whether the folder holds this project's MLproject."""
    try:
        text = read_text(folder / PROJECT_FILE)
    except (OSError, UnicodeDecodeError):
        return False
    return bool(re.search(rf"^name:\s*['\"]?{PROJECT_NAME}['\"]?\s*(#.*)?$", text, re.MULTILINE))


@dataclass(frozen=True)
class TrackingStore:
    """One tracking store.

    Attributes:
        root: Project folder; what cannot be delivered waits in its ``mlruns/.spool``.
        uri: MLflow tracking URI.
    """

    root: Path
    uri: str

    @classmethod
    def locate(cls, root: Path | None = None) -> TrackingStore:
        """The store in use; nothing is opened or made.

        Raises:
            TrackingError: The URI names a folder, which MLflow no longer writes to.
        """
        root = (root or project_root()).resolve()
        uri = os.environ.get("MLFLOW_TRACKING_URI", "") or f"sqlite:///{root / DATABASE_FILE}"
        if uri.startswith("file:") or "://" not in uri:
            raise TrackingError(
                "MLFLOW_TRACKING_URI names a folder, which MLflow cannot track in any more; "
                "unset it or give sqlite:///... or http://..."
            )
        return cls(root, uri)

    @property
    def is_remote(self) -> bool:
        """Whether a server answers for the store."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def artifacts(self) -> Path:
        """Folder of artifacts of a store without a server: beside an SQLite file."""
        return (self._database.parent if self._database else self.root) / ARTIFACTS_FOLDER

    @property
    def spool(self) -> Path:
        """Folder where entries wait that the store could not take."""
        return self.root / ARTIFACTS_FOLDER / SPOOL_FOLDER

    @property
    def _database(self) -> Path | None:
        return Path(self.uri[len("sqlite:///") :]) if self.uri.startswith("sqlite:///") else None

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client for this store (importing MLflow takes a second or two)."""
        for name, value in SHORT_WAITS.items():
            os.environ.setdefault(name, value)
        # nothing this project reads back is a pickle
        os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        # patients' data is worked on here: no usage reports leave the machine unasked
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        _quieten_mlflow()
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def experiment_id(self, name: str = EXPERIMENT_NAME) -> str:
        """Id of the experiment of that name; store and experiment are made when missing.

        Raises:
            TrackingError: The store cannot be reached, or the experiment was deleted.
        """
        from mlflow.exceptions import MlflowException

        try:
            experiment = self._find_or_create(name)
        except (MlflowException, OSError) as error:
            raise TrackingError(
                f"the tracking store {_shown(self.uri)} cannot be used ({first_line(error)}); "
                "start it, or unset MLFLOW_TRACKING_URI to keep runs in the project folder"
            ) from error
        if experiment.lifecycle_stage != "active":
            raise TrackingError(
                f"experiment {name!r} was deleted; restore it with "
                f"'mlflow experiments restore -x {experiment.experiment_id}'"
            )
        return str(experiment.experiment_id)

    def _find_or_create(self, name: str) -> Experiment:
        if self.is_remote:
            return self._get_experiment(name) or self._create_experiment(name, None)
        from filelock import FileLock, Timeout

        try:
            self.artifacts.mkdir(parents=True, exist_ok=True)
            with FileLock(self.artifacts / ".store.lock", timeout=LOCK_SECONDS):
                location = (self.artifacts / _folder_name(name)).as_uri()
                return self._get_experiment(name) or self._create_experiment(name, location)
        except Timeout as error:
            raise TrackingError(
                f"another process has held {ARTIFACTS_FOLDER}/.store.lock for "
                f"{LOCK_SECONDS:.0f} s; end it and try again"
            ) from error

    def _get_experiment(self, name: str) -> Experiment | None:
        return self.client.get_experiment_by_name(name)

    def _create_experiment(self, name: str, location: str | None) -> Experiment:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS)
        except MlflowException:
            # a server may have been asked by two of us at once
            if self._get_experiment(name) is None:
                raise
        experiment = self._get_experiment(name)
        assert experiment is not None
        return experiment


def ui_command(root: Path | None = None) -> str:
    """The command that opens the runs; ``""`` when a server shows them already."""
    return "" if TrackingStore.locate(root).is_remote else "mlflow ui"


def ui_address(root: Path | None = None, run_id: str = "") -> str:
    """Where a browser finds the run, or the list of runs, once ``mlflow ui`` is up.

    The query opens MLflow's pages for training runs; without it they open for language models.
    """
    store = TrackingStore.locate(root)
    base = store.uri.rstrip("/") if store.is_remote else "http://127.0.0.1:5000"
    query = "?workflowType=machine_learning"
    try:
        if run_id:
            experiment = store.client.get_run(run_id).info.experiment_id
            return f"{base}/#/experiments/{experiment}/runs/{run_id}{query}"
        return f"{base}/#/experiments/{store.experiment_id()}/runs{query}"
    except Exception:
        # an address is a courtesy: a server that is gone must not end a finished command
        return f"{base}/#/experiments{query}"


def first_line(error: BaseException) -> str:
    """What an error of another library says: one line, 160 characters at most, no credentials."""
    text = _without_credentials((str(error).strip() or type(error).__name__).splitlines()[0])
    return text if len(text) <= 160 else text[:157] + "..."


def _shown(uri: str) -> str:
    """The URI without credentials or folders."""
    if uri.startswith("sqlite:///"):
        return Path(uri).name
    return _without_credentials(uri)


def _without_credentials(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)


def _folder_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name) or "_"


def _quieten_mlflow() -> None:
    """Leave it to our one sentence to say that the store is gone: no tracebacks, no retry lines."""
    for name in ("mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name in ("mlflow.store.db", "alembic", "mlflow.tracking"):
        logging.getLogger(name).setLevel(logging.WARNING)
