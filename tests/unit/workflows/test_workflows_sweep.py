"""A sweep before and after its runs: the grid, its checks, the board, the results, the verdict."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from bratsml.compute.launcher import MISTAKE_EXIT_CODE, STOPPED_EXIT_CODE
from bratsml.compute.queue import Entry, QueuePolicy
from bratsml.compute.submit import Word
from bratsml.data.folds import Split
from bratsml.errors import ConfigError, ResourceError, TrackingError
from bratsml.experiment import Experiment
from bratsml.files import write_json
from bratsml.tracking.runs import RecordedRun
from bratsml.workflows import sweep_job, sweep_plan, sweep_report
from bratsml.workflows.cv import Stopped
from bratsml.workflows.request import Prepared
from bratsml.workflows.sweep_board import Progress, SweepBoard, count
from bratsml.workflows.sweep_job import JobRun, SweepJob
from bratsml.workflows.sweep_plan import (
    Combination,
    Sweep,
    SweepOptions,
    label_of,
    parse_grid,
    set_up,
    split_arguments,
)
from bratsml.workflows.sweep_report import SweepReport

# --------------------------------------------------------------------- the grid


@pytest.mark.parametrize(
    ("texts", "grid"),
    [
        (["optim.lr=1e-3,3e-4"], {"optim.lr": [1e-3, 3e-4]}),
        (
            ["optim.lr=1e-3, 3e-4 model.kind=unet,mednext"],
            {"optim.lr": [1e-3, 3e-4], "model.kind": ["unet", "mednext"]},
        ),
        (["seed=1", "train.ema_decay=null,0.99"], {"seed": [1], "train.ema_decay": [None, 0.99]}),
        (
            ["loader.patch=[64,64,64],[96,96,96]"],
            {"loader.patch": [[64, 64, 64], [96, 96, 96]]},
        ),
        (["loader.patch=[64, 64, 64]"], {"loader.patch": [[64, 64, 64]]}),
        (["a.b={kind: flip},{kind: none}"], {"a.b": [{"kind": "flip"}, {"kind": "none"}]}),
    ],
)
def test_a_grid_is_names_with_values_that_may_be_lists(
    texts: list[str], grid: dict[str, Any]
) -> None:
    assert parse_grid(texts) == grid
    assert list(parse_grid(texts)) == list(grid)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "a sweep needs a grid"),
        (["optim.lr"], "not of the form name=value,value"),
        (["optim.lr="], "gives no values for optim.lr"),
        (["optim.lr=1,,2"], "not of the form"),
        (["optim.lr=1],[2"], "not of the form"),
        (["optim.lr=1; rm=2"], "not of the form|twice|combination"),
        (["optim.lr=1,2", "optim.lr=3"], "names optim.lr twice"),
    ],
)
def test_what_is_no_grid_is_said_in_one_sentence(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        set_up(SweepOptions(experiment="unet", grid=texts, data="nowhere"))
    assert "\n" not in str(caught.value)


def test_arguments_without_an_option_are_the_experiment_and_more_of_the_grid() -> None:
    assert split_arguments(["x.yaml", "a=1,2", "b=3,4"], "") == ("x.yaml", ["a=1,2", "b=3,4"])
    assert split_arguments([], "x.yaml") == ("x.yaml", [])
    with pytest.raises(ConfigError, match=r"of one experiment, received x\.yaml and y"):
        split_arguments(["y"], "x.yaml")


def test_a_label_reads_as_one_types_it() -> None:
    values = {"optim.lr": 1e-3, "model.kind": "unet", "loader.patch": [64, 64, 64]}
    assert label_of(values) == "optim.lr=0.001 model.kind=unet loader.patch=[64,64,64]"


# --------------------------------------------------- checked whole, before any work


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("work began before the grid was checked")

    monkeypatch.setattr(sweep_plan, "prepare_experiment", refuse)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": ["optim.lr=1e-3,-1"]}, r"combination optim\.lr=-1: unet\.yaml: .*optim\.lr"),
        ({"grid": ["optim.lrr=1,2"]}, "did you mean 'optim.lr'"),
        (
            {"grid": ["model.kind=mednext,unet model.kernel=3,5"]},
            r"combination model\.kind=unet model\.kernel=3: .*'model\.kernel' for this kind",
        ),
        ({"grid": ["loader.patch=[64,64,64],[60,64,64]"]}, r"combination loader\.patch=\[60,"),
        ({"experiment": "unett"}, "did you mean 'unet'"),
        ({"experiment": "mednext_finetune"}, r"combination optim\.lr=0\.001: .*finetune"),
        ({"experiment": "experiments/nothing.yaml"}, "is not in experiments/"),
        ({"workers": "none"}, "workers must be a whole number"),
        ({"retries": "-1"}, "retries must be a whole number of at least 0"),
        ({"timeout_hours": "soon"}, "timeout-hours must be a number above 0"),
        ({"timeout_hours": "1", "launcher": "inline"}, "inline launcher cannot end"),
        ({"workers": "2", "launcher": "inline"}, "one combination at a time"),
        ({"launcher": "slurm"}, "launcher must be one of processes, inline"),
        ({"command": "predict"}, "command must be one of cv, train"),
        ({"command": "train", "folds": "3"}, "folds belongs to"),
        ({"folds": "1"}, "folds must be a whole number of at least 2"),
    ],
)
def test_what_is_wrong_is_said_before_work(options: dict[str, Any], message: str) -> None:
    given = {"experiment": "unet", "grid": ["optim.lr=1e-3,3e-4"], "data": "x", **options}
    with pytest.raises(ConfigError, match=message) as caught:
        set_up(SweepOptions(**given))
    assert "\n" not in str(caught.value)


METAS = {
    f"BraTS2021_{number:05d}": SimpleNamespace(
        id=f"BraTS2021_{number:05d}",
        patient=f"BraTS2021_{number:05d}",
        cohort="brats2021",
        volume_ml={"ET": 1.0 + number, "TC": 2.0 + number, "WT": 3.0 + number},
    )
    for number in range(8)
}
STORE: Any = SimpleNamespace(
    case_ids=tuple(METAS),
    meta=METAS.get,
    metas=lambda: list(METAS.values()),
    dataset_hash="d" * 64,
    path="store",
)


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[Experiment]:
    """The experiments for which data was prepared."""
    asked: list[Experiment] = []

    def prepare(experiment: Experiment, data: str) -> Prepared:
        asked.append(experiment)
        return Prepared(Path(), experiment, STORE, is_phantom=not data)

    monkeypatch.setattr(sweep_plan, "prepare_experiment", prepare)
    return asked


def plan(*grid: str, **more: Any) -> Sweep:
    settings = {"overrides": ["split.test_fraction=0"], "data": "x", "folds": "2", **more}
    return set_up(SweepOptions(experiment="unet", grid=grid, **settings))


def test_every_combination_in_the_order_of_the_grid(prepared: list[Experiment]) -> None:
    sweep = plan("optim.lr=1e-3,3e-4 seed=1,2", timeout_hours="1.5", retries="0", workers="3")
    assert [c.label for c in sweep.combinations] == [
        "optim.lr=0.001 seed=1",
        "optim.lr=0.001 seed=2",
        "optim.lr=0.0003 seed=1",
        "optim.lr=0.0003 seed=2",
    ]
    assert [(c.experiment.optim.lr, c.experiment.seed) for c in sweep.combinations] == [
        (1e-3, 1), (1e-3, 2), (3e-4, 1), (3e-4, 2),
    ]  # fmt: skip
    assert {len(c.split.folds) for c in sweep.combinations} == {2}
    assert (sweep.policy, sweep.workers) == (QueuePolicy(retries=0, timeout_hours=1.5), 3)
    assert len(prepared) == 1  # one store for all


@pytest.mark.usefixtures("prepared")
def test_settings_of_another_kind_do_not_leak() -> None:
    sweep = plan("model.kind=unet,mednext", overrides=["split.test_fraction=0 model.dropout=0.3"])
    unet, mednext = (c.experiment.model for c in sweep.combinations)
    assert (unet.kind, unet.tree()["dropout"]) == ("unet", 0.3)
    assert mednext == plan("model.kind=mednext").base.experiment.model


@pytest.mark.usefixtures("prepared")
def test_a_combination_is_the_very_run_that_cv_would_make() -> None:
    from bratsml.workflows.fold import fingerprint

    sweep = plan("optim.lr=1e-3,3e-4")
    for c in sweep.combinations:
        assert c.fingerprint == fingerprint("cv", c.experiment, STORE, c.split)
    training = plan("optim.lr=1e-3,3e-4", folds="", command="train").base
    assert training.fingerprint == fingerprint(
        "train", training.experiment, STORE, training.split, 0
    )


def test_another_recipe_gets_a_store_of_its_own(prepared: list[Experiment]) -> None:
    plan("data.recipe.margin_voxels=1,2 seed=0,1")
    assert [e.data.recipe.tree()["margin_voxels"] for e in prepared] == [1, 2]


@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("grid", ["seed=0,0", "loader.workers=0,1", "launcher.parallel=1,2"])
def test_two_combinations_of_one_result_are_refused(grid: str) -> None:
    with pytest.raises(ConfigError, match="would give the same result"):
        plan(grid)


@pytest.mark.usefixtures("prepared")
def test_a_split_that_cannot_be_made_names_the_combination() -> None:
    with pytest.raises(ConfigError, match=r"combination split\.folds=50: "):
        plan("split.folds=2,50", folds="")


@pytest.mark.usefixtures("prepared")
def test_the_fingerprint_knows_runs_and_their_order() -> None:
    first = plan("optim.lr=1e-3,3e-4").fingerprint
    assert plan("optim.lr=0.001,0.0003", workers="2").fingerprint == first
    assert plan("optim.lr=3e-4,1e-3").fingerprint != first  # another base


# ------------------------------------------------------------------------ one job


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("wrong"), MISTAKE_EXIT_CODE),
        (ResourceError("no space"), 1),
        (TrackingError("1 of 2 folds failed"), 1),
        (Stopped("saved"), STOPPED_EXIT_CODE),
        (KeyboardInterrupt(), STOPPED_EXIT_CODE),
        (ValueError("a bug"), 1),
    ],
)
def test_how_a_job_ends_decides_whether_it_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def fail(*_: object) -> str:
        raise error

    monkeypatch.setattr(sweep_job, "_run", fail)
    word = sweep_job.work(None, tmp_path)  # type: ignore[arg-type]
    assert word.exit_code == code
    assert word.reason


def test_a_run_that_was_finished_before_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_job, "_run", lambda *_: "abc")
    assert sweep_job.work(None, tmp_path) == Word(exit_code=0)  # type: ignore[arg-type]
    assert JobRun.of(tmp_path) == JobRun("abc", "")


def test_a_record_says_everything(tmp_path: Path) -> None:
    job = SweepJob("cv", "n", {"seed": 1}, "store", True, "root", "parent", 2, 7)
    job.save(tmp_path / "job.json")
    assert SweepJob.load(tmp_path / "job.json") == job


# ---------------------------------------------------------------------- the board


def test_progress_is_summed_over_folds(tmp_path: Path) -> None:
    for fold, epoch, dice in ((0, 4, 0.6), (1, 3, 0.8), (2, 1, None)):
        state = {"epoch": epoch, "epochs": 10, "dice": dice}
        write_json(tmp_path / f"fold_{fold}" / "progress.json", state)
    (tmp_path / "fold_1" / "result.json").write_text("{}")  # ended early: all of its epochs
    assert Progress.of(tmp_path, 10, 4) == Progress(15, 40, pytest.approx(0.7))
    assert Progress.of(None, 10, 4) == Progress(0, 40, None)


def test_the_board_tells_what_is_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], prepared: list[Experiment]
) -> None:
    sweep = plan("seed=0,1")
    before = [Entry(key="a", state="finished", attempts=1), Entry(key="b")]
    board = SweepBoard(sweep, [tmp_path] * 2, before)
    now = [before[0], Entry(key="b", state="running", attempts=1)]
    board.update(now)
    board.update(now)
    pause = Entry(key="b", attempts=1, seconds=5, reason="no space", not_before=time.time() + 60.5)
    board.update([before[0], pause])
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "combination 1 (seed=1): attempt 1 began",
        "combination 1 (seed=1): waiting after 5 s: again in 60 s: no space",
    ]


def test_the_table_shows_state_attempt_progress_and_score(
    tmp_path: Path, prepared: list[Experiment]
) -> None:
    sweep = plan("optim.lr=1e-3,3e-4", epochs="5")
    JobRun("abc", str(tmp_path)).save(tmp_path / "job")
    write_json(tmp_path / "fold_0" / "progress.json", {"epoch": 3, "dice": 0.51})
    folders = [tmp_path / "job", tmp_path / "none"]
    entries = [
        Entry(key="a", state="running", attempts=2, seconds=30, began=time.time() - 20),
        Entry(key="b"),
    ]
    console = Console(width=120, record=True)
    console.print(SweepBoard(sweep, folders, entries).table(entries))
    text = console.export_text()
    assert "1 waiting, 1 running" in text
    row = next(line for line in text.splitlines() if "optim.lr=0.001" in line)
    for cell in ("running", " 2 ", "50 s", "3/10", "0.510"):
        assert cell in row
    assert count(entries)["failed"] == 0


# ------------------------------------------------------------- results and verdict


def scores(shift: float, cases: int = 8) -> pd.DataFrame:
    """Dice rising from case to case; the shift differs a little between cases."""
    rows = [
        {"case": case, "region": region, "dice": 0.5 + 0.02 * n + shift * (1 + 0.1 * n)}
        for n, case in enumerate(list(METAS)[:cases])
        for region in ("ET", "WT")
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Builds a report on combinations with those score tables (``None``: not finished)."""
    from bratsml.tracking.tracker import NullTracker

    def make(*tables: pd.DataFrame | None, splits: dict[int, str] | None = None):
        experiment = Experiment()
        split = Split.from_tree({"test": [], "folds": [list(METAS)[:4], list(METAS)[4:]]})
        prepared = Prepared(tmp_path, experiment, STORE, is_phantom=False)
        combinations = tuple(
            Combination(n, {"seed": n}, prepared, split, str(n)) for n in range(len(tables))
        )
        grid = {"seed": list(range(len(tables)))}
        sweep = Sweep(combinations, grid, "cv", "processes", 1, QueuePolicy(), tmp_path)
        folders = [tmp_path / str(n) for n in range(len(tables))]
        for number, folder in enumerate(folders):
            JobRun(str(number)).save(folder)

        def find(run_id: str, _: Path) -> RecordedRun:
            params = {"split.hash": (splits or {}).get(int(run_id), "same")}
            tags = {"bratsml.command": "cv"}
            return RecordedRun(run_id, run_id, "FINISHED", "1", "", params, tags)

        monkeypatch.setattr(sweep_report, "find_run", find)
        monkeypatch.setattr(
            sweep_report, "read_table_artifact", lambda run, *_: tables[int(run.run_id)]
        )
        entries = [
            Entry(key=str(n), state="failed" if table is None else "finished", reason="")
            for n, table in enumerate(tables)
        ]
        return SweepReport(sweep, folders, NullTracker()), entries

    return make


def test_results_hold_every_combination_with_means_and_intervals(report) -> None:
    made, entries = report(scores(0.0), None)
    table = made.results(entries)
    assert list(table["state"]) == ["finished", "failed"]
    # 0.5 + 0.02 n over n = 0..7
    assert table["dice_mean"][0] == pytest.approx(0.57)
    assert table["dice_ET"][0] == pytest.approx(0.57)
    assert table["dice_mean_low95"][0] < 0.57 < table["dice_mean_high95"][0]
    assert np.isnan(table["dice_mean"][1])
    assert table.columns[-1] == "reason"
    assert json.loads(table.to_json(orient="records"))[1]["run_id"] == "1"


def test_the_best_other_combination_is_compared_with_the_first(report) -> None:
    made, entries = report(scores(0.0), scores(0.02), scores(0.1))
    verdict = made.judge(entries)
    assert verdict.top == 2
    assert verdict.sentence.startswith("seed=2 is better than the base (seed=0) by 0.1350")
    assert "95 % interval" in verdict.sentence
    assert "picked from 2" in verdict.sentence


def test_noise_is_a_tie_and_not_an_improvement(report) -> None:
    noisy = scores(0.0)
    noisy["dice"] += np.repeat([0.02, -0.02, 0.02, -0.02, 0.02, -0.02, 0.03, -0.02], 2)
    made, entries = report(scores(0.0), noisy)
    assert made.judge(entries).sentence.startswith("a tie: seed=1 minus the base (seed=0)")


def test_few_patients_tell_nothing(report) -> None:
    made, entries = report(scores(0.0, cases=5), scores(0.2, cases=5))
    assert made.judge(entries).sentence.startswith("too few patients to tell")


def test_without_the_base_or_another_there_is_no_verdict(report) -> None:
    made, entries = report(None, scores(0.1))
    assert made.judge(entries).sentence == "no verdict: the base (seed=0) is failed"
    made, entries = report(scores(0.1), None)
    assert "no other combination has finished" in made.judge(entries).sentence


def test_results_on_other_folds_are_not_compared(report) -> None:
    made, entries = report(scores(0.0), scores(0.2), scores(0.01), splits={1: "other"})
    verdict = made.judge(entries)
    assert verdict.top == 2
    assert "differ in split.hash" in verdict.sentence


def test_the_end_logs_results_figures_and_a_description(report) -> None:
    made, entries = report(scores(0.0), scores(0.1), None)
    logged: dict[str, Any] = {}
    made.tracker = SimpleNamespace(
        log_table=lambda table, name: logged.update({name: table}),
        log_figure=lambda figure, name: logged.update({name: figure}),
        log_metrics=lambda metrics, step: logged.update(metrics),
        set_tags=logged.update,
        describe=lambda text: logged.update(text=text),
    )
    made.update(entries)
    assert (logged["sweep/finished"], logged["sweep/failed"]) == (2.0, 1.0)
    verdict = made.finish(entries)
    assert {"sweep/results", "sweep/top_against_base"} <= logged.keys()
    bars, parallel, *_ = logged["sweep/figures"]
    assert [bar.name for bar in bars.data] == ["ET", "WT", "mean"]
    assert [d.label for d in parallel.data[0].dimensions] == ["seed", "dice mean"]
    assert logged["bratsml.verdict"] == verdict.sentence
    assert "| 2 | `seed=2` | failed |  | 2 |" in logged["text"]


def test_nothing_finished_is_still_reported(report) -> None:
    made, entries = report(None, None)
    assert made.finish(entries).top is None


def test_dataclass_options_are_all_text() -> None:
    assert {f.type for f in dataclasses.fields(SweepOptions)} == {"str", "Iterable[str]"}
