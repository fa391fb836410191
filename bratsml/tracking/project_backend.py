"""Makes ``mlflow run . -e cv`` work for this project on a machine without conda.

MLflow builds a project's environment from ``conda.yaml`` and gives up when there is no conda;
``--env-manager`` has no environment variable. This file is loaded by MLflow as a plugin (entry
point ``mlflow.default_experiment_provider`` in pyproject.toml) and puts a thin layer over MLflow's
local backend, for this project alone. It reaches into MLflow's internals, hence the pinned version;
when anything is not as expected it says so in one sentence and leaves everything to MLflow.

It is loaded with every ``import mlflow``, so it imports nothing heavy itself.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.projects.submitted_run import SubmittedRun

FALLBACK = (
    "bratsml: conda is not on this machine and the current environment could not be chosen "
    "({reason}); run 'mlflow run . --env-manager local ...' in an environment with bratsml"
)
EXPERIMENT_FLAGS = ("--experiment-name", "--experiment-id")
EXPERIMENT_VARIABLE = "MLFLOW_EXPERIMENT_NAME"


class CurrentEnvironmentProvider:
    """Tells ``mlflow run`` our experiment, and lays :func:`backend_class` over its local backend.

    Everywhere but in ``mlflow run`` on this project it answers that it does not apply.
    """

    def __init__(self) -> None:
        self.root: Path | None = None
        self.experiment_name = ""
        self.is_installed = False
        try:
            self.root = project_to_run(sys.argv)
            if self.root is not None:
                self._take_experiment_name()
        except Exception as error:
            _say(FALLBACK.format(reason=type(error).__name__))
            self.root = None

    def _take_experiment_name(self) -> None:
        # with the variable set MLflow would not ask this provider; it is asked and uses the name
        self.experiment_name = os.environ.pop(EXPERIMENT_VARIABLE, "")
        flags = {argument.split("=")[0] for argument in sys.argv}
        chosen = flags & set(EXPERIMENT_FLAGS)
        if chosen and "--env-manager" not in flags and not has_conda():
            _say(FALLBACK.format(reason=f"{chosen.pop()} was given"))

    def in_context(self) -> bool:
        """Whether this process is ``mlflow run`` on this project."""
        if self.root is None:
            return False
        try:
            from mlflow.projects.backend import loader

            if not self.is_installed:
                ours = backend_class(loader.MLFLOW_BACKENDS["local"], self.root)
                loader.MLFLOW_BACKENDS["local"] = ours
                self.is_installed = True
        except Exception as error:
            _say(FALLBACK.format(reason=type(error).__name__))
            self.root = None
            return False
        return True

    def get_experiment_id(self) -> str:
        """The experiment of this project's runs, in the project's own store."""
        import mlflow

        from bratsml.tracking.store import EXPERIMENT_NAME, TrackingStore

        store = TrackingStore.locate(self.root)
        mlflow.set_tracking_uri(store.uri)
        return store.experiment_id(self.experiment_name or EXPERIMENT_NAME)


def project_to_run(arguments: list[str]) -> Path | None:
    """This project's folder when the command line is ``mlflow run <folder> ...``, else ``None``."""
    if len(arguments) < 3 or Path(arguments[0]).stem != "mlflow" or "run" not in arguments:
        return None
    from bratsml.tracking.store import is_project

    for argument in arguments[arguments.index("run") + 1 :]:
        folder = Path(argument.removeprefix("file://"))
        if is_project(folder):
            return folder.resolve()
    return None


def has_conda() -> bool:
    """Whether MLflow would find conda, by the rules MLflow uses."""
    if home := os.environ.get("MLFLOW_CONDA_HOME"):
        return (Path(home) / "bin" / "conda").is_file()
    if executable := os.environ.get("CONDA_EXE"):
        return (Path(executable).parent / "conda").is_file()
    return shutil.which("conda") is not None


def backend_class(base: type[Any], root: Path) -> type[Any]:
    """A local backend that treats the project at ``root`` well and any other as ``base`` does.

    For this project it records no folders or user names with the run, marks the run FAILED when it
    cannot be started, hands signals on to it and, without conda, runs it in the environment that
    ``mlflow`` itself runs in.
    """

    class CurrentEnvironmentBackend(base):
        def run(
            self,
            project_uri: str,
            entry_point: str,
            params: Mapping[str, str] | None,
            version: str | None,
            backend_config: dict[str, Any],
            tracking_uri: str,
            experiment_id: str,
        ) -> SubmittedRun:
            run = super().run
            call = (project_uri, entry_point, params, version)
            started = None
            try:
                if Path(str(project_uri).removeprefix("file://")).resolve() == root:
                    started = _prepare(call, backend_config, experiment_id, root)
            except Exception as error:
                if _refuses_request(error):
                    raise
                _say(FALLBACK.format(reason=type(error).__name__))
            if started is None:
                return run(*call, backend_config, tracking_uri, experiment_id)
            with _FailedIfItRaises(started):
                submitted = run(*call, backend_config, tracking_uri, experiment_id)
            _hand_signals_on(submitted)
            _settle_at_exit(submitted, started, root)
            return submitted

    return CurrentEnvironmentBackend


def _prepare(call: tuple[Any, ...], config: dict[str, Any], experiment_id: str, root: Path) -> str:
    """Choose the environment and make the run; returns its id."""
    from mlflow.projects.utils import (
        MLFLOW_LOCAL_BACKEND_RUN_ID_CONFIG,
        PROJECT_ENV_MANAGER,
        fetch_and_validate_project,
    )

    project_uri, entry_point, params, version = call
    # an unknown entry point or a missing parameter is refused before a run exists
    fetch_and_validate_project(project_uri, version, entry_point, params)
    if config.get(PROJECT_ENV_MANAGER) is None and not has_conda():
        config[PROJECT_ENV_MANAGER] = "local"
        _say(
            f"bratsml: no conda here, so this runs in the current environment ({sys.prefix}, "
            f"Python {sys.version.split()[0]}); --env-manager chooses another"
        )
    if config.get(PROJECT_ENV_MANAGER) == "local":
        # mlflow may have been called by its path, without its environment being activated
        folder = str(Path(sys.executable).parent)
        os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])
    given: str | None = config.get(MLFLOW_LOCAL_BACKEND_RUN_ID_CONFIG)
    if given:
        return given
    run_id = _create_run(entry_point, params or {}, experiment_id, root)
    config[MLFLOW_LOCAL_BACKEND_RUN_ID_CONFIG] = run_id
    return run_id


def _create_run(entry_point: str, params: Mapping[str, str], experiment_id: str, root: Path) -> str:
    """A run as MLflow makes it for a project, without user name, folders or raw parameters.

    The raw parameters stand in a tag: as parameters they would clash with the resolved settings.
    """
    from bratsml.tracking.privacy import scrub_paths
    from bratsml.tracking.run_state import process_tags
    from bratsml.tracking.store import PROJECT_NAME, TrackingStore

    given = " ".join(f"{name}={value}" for name, value in sorted(params.items()) if value)
    tags = {
        "mlflow.source.name": f"{PROJECT_NAME} {entry_point}",
        "mlflow.source.type": "PROJECT",
        "mlflow.project.entryPoint": entry_point,
        "bratsml.request": scrub_paths(given, root)[:5000],
        **process_tags(),
    }
    client = TrackingStore.locate(root).client
    return str(client.create_run(experiment_id, tags=tags).info.run_id)


def _refuses_request(error: Exception) -> bool:
    from mlflow.exceptions import ExecutionException

    return isinstance(error, ExecutionException)


class _FailedIfItRaises:
    """Marks the run FAILED when it could not be started; MLflow would leave it RUNNING."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            from mlflow import MlflowClient

            MlflowClient().set_terminated(self.run_id, "FAILED")


def _hand_signals_on(submitted: SubmittedRun) -> None:
    """Pass SIGTERM, SIGHUP and SIGUSR1 on to the entry point, which saves and ends by itself.

    ``mlflow run`` then ends as it does when the entry point fails.
    """
    process = getattr(submitted, "command_proc", None)
    if process is None or threading.current_thread() is not threading.main_thread():
        return

    def hand_on(number: int, _: FrameType | None) -> None:
        if process.poll() is None:
            os.kill(_working_process(process.pid), number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, hand_on)


def _settle_at_exit(submitted: SubmittedRun, run_id: str, root: Path) -> None:
    """Put right what ``mlflow run`` does to the run's status when the entry point has ended.

    It always sets FINISHED or FAILED (it compares the status as text with numbers), also over
    KILLED; and a run that was superseded can only be deleted after that.
    """
    from bratsml.tracking.run_state import SUPERSEDED_BY
    from bratsml.tracking.store import TrackingStore

    client = TrackingStore.locate(root).client
    wait = submitted.wait
    left: dict[str, Any] = {}

    def wait_and_remember() -> bool:
        succeeded: bool = wait()
        with contextlib.suppress(Exception):
            left["info"] = client.get_run(run_id).info
        return succeeded

    def settle() -> None:
        # the work is done and recorded: nothing here may turn it into a failure
        with contextlib.suppress(Exception):
            run = client.get_run(run_id)
            if SUPERSEDED_BY in run.data.tags:
                client.delete_run(run_id)
            elif "info" in left and left["info"].status == "KILLED":
                client.set_terminated(run_id, "KILLED", left["info"].end_time)

    submitted.wait = wait_and_remember  # type: ignore[method-assign]
    atexit.register(settle)


def _working_process(pid: int) -> int:
    """The entry point's process: MLflow starts a shell, which may or may not become it."""
    import psutil

    try:
        process = psutil.Process(pid)
        while process.name() in ("bash", "sh") and len(children := process.children()) == 1:
            process = children[0]
        return int(process.pid)
    except psutil.Error:
        return pid


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
