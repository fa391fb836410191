"""Each entry point as a user runs it, on six small phantoms."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import nibabel
import numpy as np
import pandas as pd
import pytest
from end_to_end_support import TINY, environment

pytestmark = pytest.mark.slow
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def client(project: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")


def runs(project: Path) -> list:
    store = client(project)
    experiments = [e.experiment_id for e in store.search_experiments()]
    return store.search_runs(experiments, order_by=["attributes.start_time ASC"])


def run_id_in(output: str) -> str:
    found = re.search(r"run ([0-9a-f]{32})", output)
    assert found, output
    return found[1]


@pytest.fixture(scope="module")
def cv_run(project: Path, run: Run, raw_cases: Path) -> str:
    """A finished cross-validation made by the very command of the README."""
    command = ["mlflow", "run", ".", "-e", "cv", "-P", "model=unet", "-P", f"data={raw_cases}"]
    command += ["-P", f"set={TINY} {PROFILE}"]
    done = subprocess.run(
        command, cwd=project, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return run_id_in(done.stdout)


PROFILE = "loader.patch=[16,16,16] inference.window=[32,32,32] inference.overlap=0"


def test_cv_leaves_a_parent_and_a_finished_run_per_fold(project: Path, cv_run: str) -> None:
    store = client(project)
    parent = store.get_run(cv_run)
    children = [r for r in runs(project) if r.data.tags.get("mlflow.parentRunId") == cv_run]
    assert parent.info.status == "FINISHED"
    assert [child.info.status for child in children] == ["FINISHED", "FINISHED"]
    assert len(runs(project)) == 3
    assert parent.data.params["optim.lr"] == "0.0001"
    for name in ("oof/dice/mean", "oof/dice/ET", "val/dice/mean", "train/loss"):
        assert name in parent.data.metrics, name
    for name in ("train/loss", "lr", "val/hd95/WT", "val/loss", "epoch_seconds", "best/dice/mean"):
        assert name in children[0].data.metrics, name
    for tag in ("bratsml.fingerprint", "mlflow.note.content"):
        assert parent.data.tags[tag]


def test_fold_mean_curves_are_the_mean_of_the_folds(project: Path, cv_run: str) -> None:
    store = client(project)
    children = [r for r in runs(project) if r.data.tags.get("mlflow.parentRunId") == cv_run]
    for name in ("train/loss", "val/dice/mean"):
        curves = [
            {m.step: m.value for m in store.get_metric_history(child.info.run_id, name)}
            for child in children
        ]
        parent = {m.step: m.value for m in store.get_metric_history(cv_run, name)}
        assert parent.keys() == {0, 1}
        for step, value in parent.items():
            assert value == pytest.approx(np.mean([curve[step] for curve in curves]))


def test_every_fold_keeps_trace_pictures_table_and_checkpoint(project: Path, cv_run: str) -> None:
    store = client(project)
    for child in runs(project):
        if child.data.tags.get("mlflow.parentRunId") != cv_run:
            continue
        folders = {a.path for a in store.list_artifacts(child.info.run_id)}
        assert {"profiler", "overlays", "scores", "experiment.yaml", "split.json"} <= folders
        traces = {a.path for a in store.list_artifacts(child.info.run_id, "profiler")}
        assert traces == {"profiler/trace.json.gz", "profiler/table.html"}
        overlays = [a.path for a in store.list_artifacts(child.info.run_id, "overlays")]
        assert len(overlays) == min(3, int(child.data.params["num_validation"]))
        models = store.search_logged_models(
            [child.info.experiment_id], f"source_run_id = '{child.info.run_id}'"
        )
        assert models


def test_no_patient_is_in_two_folds_and_every_case_is_scored_once(
    project: Path, cv_run: str
) -> None:
    table = artifact(project, cv_run, "scores/out_of_fold.csv", pd.read_csv)
    split = artifact(project, cv_run, "split.json", lambda p: json.loads(Path(p).read_text()))
    assert len(split["test"]) == 1
    assert sorted(table["case"].unique()) == sorted(c for fold in split["folds"] for c in fold)
    assert table.groupby(["case", "region"]).size().eq(1).all()


def artifact(project: Path, run_id: str, name: str, read: Callable):
    uri = f"sqlite:///{project / 'mlflow.db'}"
    return read(mlflow.artifacts.download_artifacts(f"runs:/{run_id}/{name}", tracking_uri=uri))


def test_the_same_command_again_says_that_it_is_done(
    project: Path, run: Run, cv_run: str, raw_cases: Path
) -> None:
    before = len(runs(project))
    done = run("cv", "--model", "unet", "--data", str(raw_cases), "--set", f"{TINY} {PROFILE}")
    assert f"already done: run {cv_run}" in done.stdout
    assert len(runs(project)) == before


def test_ensemble_scores_the_test_split_with_every_fold_and_the_mean(
    project: Path, run: Run, cv_run: str, raw_cases: Path
) -> None:
    done = run("ensemble", "--run", cv_run)
    table = artifact(project, run_id_in(done.stdout), "scores/test.csv", pd.read_csv)
    assert table["model"].nunique() == 3
    assert table["case"].nunique() == 1
    mean = table[table["model"] == "ensemble"]
    assert (mean["dice_gain"] == 0).all()
    assert "one case decides nothing" in done.stdout


def test_predict_writes_label_maps_on_the_cases_own_grid(
    project: Path, run: Run, cv_run: str, raw_cases: Path
) -> None:
    run("predict", "--runs", cv_run, "--data", str(raw_cases), "--out", "predicted")
    for case in sorted(raw_cases.iterdir()):
        if not case.is_dir():
            continue
        predicted = nibabel.load(project / "predicted" / f"{case.name}.nii.gz")
        reference = nibabel.load(case / f"{case.name}_seg.nii.gz")
        assert predicted.shape == reference.shape
        assert np.array_equal(predicted.affine, reference.affine)
        assert set(np.unique(predicted.dataobj)) <= {0, 1, 2, 4}
    again = run("predict", "--runs", cv_run, "--data", str(raw_cases), "--out", "predicted")
    assert "0 label maps written" in again.stdout


def test_predict_from_a_checkpoint_file_equals_its_run(
    project: Path, run: Run, cv_run: str, raw_cases: Path
) -> None:
    child = next(r for r in runs(project) if r.data.tags.get("mlflow.parentRunId") == cv_run)
    best = next((project / "outputs").glob(f"cv-*-{cv_run[:8]}/fold_0/checkpoints/best.pt"))
    assert child.data.params["fold"] in "01"
    run("predict", "--checkpoint", str(best), "--data", str(raw_cases), "--out", "from_file")
    assert len(list((project / "from_file").glob("*.nii.gz"))) == 6


def test_sigterm_saves_marks_killed_and_the_same_command_goes_on(
    project: Path, run: Run, raw_cases: Path
) -> None:
    settings = f"{TINY} {PROFILE} train.epochs=60 seed=5"
    arguments = ["train", "--model", "unet", "--data", str(raw_cases), "--set", settings]
    process = subprocess.Popen(
        [sys.executable, "-m", "bratsml.cli", *arguments],
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "epoch 3/60" in line:
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stdout.read()
    assert process.wait(timeout=60) != 0
    assert "the same command goes on" in rest, rest
    stopped = runs(project)[-1]
    assert stopped.info.status == "KILLED"
    done = run(*arguments)
    resumed = client(project).get_run(run_id_in(done.stdout))
    assert resumed.info.run_id == stopped.info.run_id
    assert resumed.info.status == "FINISHED"
    history = client(project).get_metric_history(resumed.info.run_id, "train/loss")
    assert sorted(m.step for m in history) == list(range(60))


def test_kill_9_of_cv_loses_no_finished_epoch_and_leaves_nothing_running(
    project: Path, run: Run, raw_cases: Path
) -> None:
    settings = f"{TINY} {PROFILE} train.epochs=40 seed=6"
    arguments = ["cv", "--model", "unet", "--data", str(raw_cases), "--set", settings]
    process = subprocess.Popen(
        [sys.executable, "-m", "bratsml.cli", *arguments],
        cwd=project,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    progress: list[Path] = []
    deadline = time.monotonic() + 120
    while not progress and time.monotonic() < deadline:
        time.sleep(0.2)
        progress = list((project / "outputs").glob("cv-*/fold_*/progress.json"))
        progress = [p for p in progress if json.loads(p.read_text())["epochs"] == 40]
    assert progress
    process.kill()
    process.wait()
    epoch = json.loads(progress[0].read_text())["epoch"]
    done = run(*arguments)
    parent = run_id_in(done.stdout)
    children = [r for r in runs(project) if r.data.tags.get("mlflow.parentRunId") == parent]
    assert len(children) == 2
    assert epoch >= 1
    assert {r.info.status for r in runs(project)} <= {"FINISHED", "KILLED", "FAILED"}
    for child in children:
        history = client(project).get_metric_history(child.info.run_id, "train/loss")
        assert sorted(m.step for m in history) == list(range(40))


def test_evaluate_scores_predictions_and_the_out_of_fold_cases(
    project: Path, run: Run, cv_run: str, raw_cases: Path
) -> None:
    rule = ["--rule", "brats2023-gli"]
    run("predict", "--runs", cv_run, "--data", str(raw_cases), "--out", "for_scores")
    (project / "for_scores" / "rejected.csv").unlink(missing_ok=True)
    first = sorted((project / "for_scores").glob("*.nii.gz"))[0]
    first.write_bytes(first.read_bytes()[:100])
    done = run("evaluate", "--predictions", "for_scores", "--references", str(raw_cases), *rule)
    assert f"warning: {first.name.split('.')[0]}" in done.stdout
    assert "1 of 6 cases are scored as missing" in done.stdout
    table = artifact(project, run_id_in(done.stdout), "scores/evaluation.csv", pd.read_csv)
    assert table["case"].nunique() == 6
    assert table[table["missing"]]["dice"].eq(0).all()

    done = run("evaluate", "--run", cv_run, *rule)
    scored = artifact(project, run_id_in(done.stdout), "scores/evaluation.csv", pd.read_csv)
    logged = artifact(project, cv_run, "scores/out_of_fold.csv", pd.read_csv)
    both = scored.merge(logged, on=["case", "region"], validate="one_to_one")
    assert len(both) == len(logged)
    np.testing.assert_allclose(both["dice_x"], both["dice_y"])


def test_tuned_post_processing_is_used_by_predict(
    project: Path, run: Run, cv_run: str, raw_cases: Path
) -> None:
    done = run("tune-postprocess", "--run", cv_run)
    assert "tuned minus untuned" in done.stdout
    found = re.search(r"outputs/postprocess-\w+/postprocess.yaml", done.stdout)
    assert found
    nothing = project / "nothing.yaml"
    nothing.write_text("postprocess: [{kind: drop_if_small, region: WT, voxels: 100000000}]")
    for path, out in ((found[0], "tuned"), (nothing.name, "emptied")):
        options = ["--data", str(raw_cases), "--out", out, "--postprocess", path]
        run("predict", "--runs", cv_run, *options)
    written = sorted((project / "emptied").glob("*.nii.gz"))
    assert len(written) == 6
    assert not any(np.asarray(nibabel.load(path).dataobj).any() for path in written)


def test_compare_two_cross_validations(
    project: Path, run: Run, cv_run: str, raw_cases: Path
) -> None:
    settings = f"{TINY} {PROFILE} optim.lr=1e-2"
    other = run("cv", "--model", "unet", "--data", str(raw_cases), "--set", settings)
    done = run("compare", cv_run, run_id_in(other.stdout))
    assert "too few patients to tell" in done.stdout
    report = run_id_in(done.stdout)
    content = artifact(
        project, report, "comparison.json", lambda p: json.loads(Path(p).read_text())
    )
    assert len(content["configurations"]) == 2
    names = {a.path for a in client(project).list_artifacts(report)}
    assert "comparison.html" in names


def test_data_changed_since_is_not_taken_for_the_same(project: Path, run: Run, cv_run: str) -> None:
    run("phantom", "--out", "other", "--cases", "6", "--shape", "32,32,32", "--seed", "9")
    done = run("ensemble", "--run", cv_run, "--data", "other", code=1)
    assert "not what the cross-validation was trained on" in done.stderr
