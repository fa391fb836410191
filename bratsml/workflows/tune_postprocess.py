"""``tune-postprocess``: thresholds and clean-up chosen on out-of-fold probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from rich.progress import track

from bratsml.config import build_config
from bratsml.data.folds import Split
from bratsml.data.store import Store
from bratsml.errors import ConfigError, TrackingError
from bratsml.evaluation.compare import compare
from bratsml.evaluation.evaluate import case_table, score_case, summarize
from bratsml.evaluation.kept import load_probabilities
from bratsml.evaluation.tune_postprocess import (
    CaseScores,
    Metric,
    TuneConfig,
    apply,
    choose,
    cross_fit,
    score_settings,
    steps_of,
)
from bratsml.evaluation.whole_cases import restore_probabilities
from bratsml.experiment import Experiment
from bratsml.figures.curves import table_figure
from bratsml.files import write_text
from bratsml.inference.postprocess import Regions
from bratsml.labels import get_scheme
from bratsml.metrics import METRIC_VERSION
from bratsml.metrics.empty import POLICIES
from bratsml.models.output import Output
from bratsml.tracking.mlflow_tracker import open_run
from bratsml.tracking.runs import (
    RecordedRun,
    find_run,
    latest_run,
    read_artifact,
    read_json_artifact,
)
from bratsml.tracking.store import project_root
from bratsml.tracking.tracker import Tracker
from bratsml.workflows.compare import main_columns, patient_of, print_table, sentence
from bratsml.workflows.console import console, say
from bratsml.workflows.fold import PROBABILITIES_FOLDER
from bratsml.workflows.request import store_of_run
from bratsml.workflows.trained import POSTPROCESS_FILE
from bratsml.workflows.view import say_how_to_view

METRICS: tuple[Metric, ...] = ("dice", "iou")


@dataclass(frozen=True)
class OutOfFold:
    """A finished cross-validation, with the probabilities that each fold kept."""

    source: RecordedRun
    experiment: Experiment
    store: Store
    output: Output
    folds: tuple[tuple[str, ...], ...]
    root: Path

    @classmethod
    def of(cls, run: str, data: str) -> OutOfFold:
        """The named ``cv`` run, or the latest finished one.

        Raises:
            TrackingError: No such run, or it kept no probabilities.
            ConfigError: Its data is not known.
        """
        root = project_root()
        source = find_run(run, root) if run else latest_run("cv", root)
        if not source.children:
            raise TrackingError(f"run {source.run_id} has no folds; name a finished cv run")
        tree = read_artifact(
            source, "experiment.yaml", root, lambda path: yaml.safe_load(path.read_text("utf-8"))
        )
        experiment = build_config(Experiment, tree, "experiment.yaml of the run")
        store = store_of_run(source, data, experiment, root)
        split = Split.from_tree(read_json_artifact(source, "split.json", root))
        output = experiment.output.build(get_scheme(store.label_scheme))
        return cls(source, experiment, store, output, split.folds, root)

    @property
    def regions(self) -> Regions:
        """The regions that are scored."""
        return Regions.of(self.output.scheme, self.output.regions)

    def probabilities(self, fold: int, case_id: str) -> np.ndarray:
        """Per region ``(R, X, Y, Z)`` on the case's own grid."""
        child = next((c for c in self.source.children if c.key == f"fold_{fold}"), None)
        if child is None:
            raise TrackingError(f"run {self.source.run_id} has no fold {fold}; finish it first")
        kept = read_artifact(
            child, f"{PROBABILITIES_FOLDER}/{case_id}.npz", self.root, load_probabilities
        )
        whole = restore_probabilities(kept, self.store.meta(case_id), self.output)
        return self.output.region_probabilities(torch.from_numpy(whole)).numpy()

    def reference(self, case_id: str) -> np.ndarray:
        """Region masks of the case's own label map."""
        label_map = self.store.reference(case_id)
        assert label_map is not None  # a fold was validated on it
        return self.output.scheme.region_stack(label_map, self.output.regions)

    def cases(self, doing: str) -> Iterator[tuple[int, str]]:
        """Fold and id of every case, with a progress bar."""
        pairs = [(fold, case) for fold, cases in enumerate(self.folds) for case in cases]
        yield from track(pairs, doing, console=console)


def tune_postprocess(run: str, data: str, metric: str) -> str:
    """Choose post-processing for a cross-validation and report the cross-fitted gain.

    Returns:
        Id of the run that holds the report and ``postprocess.yaml``.

    Raises:
        ConfigError: Unknown metric.
        TrackingError: As :meth:`OutOfFold.of`.
    """
    config = TuneConfig(metric=_metric(metric or "dice"))
    work = OutOfFold.of(run, data)
    tracker = open_run(
        command="tune-postprocess",
        experiment_name="bratsml",
        run_name=f"post-processing of {work.source.name}",
        fingerprint="",
        root=work.root,
        fork=True,
    )
    try:
        _tune(work, config, tracker)
    except BaseException as error:
        tracker.set_tags({"bratsml.error": str(error)[:500] or type(error).__name__})
        tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    tracker.finish("FINISHED")
    say_how_to_view(work.root, tracker)
    return tracker.run_id


def _tune(work: OutOfFold, config: TuneConfig, tracker: Tracker) -> None:
    tracker.log_params(
        {
            "tune.of": work.source.run_id,
            "tune.metric": config.metric,
            "metric_version": METRIC_VERSION,
        }
    )
    folds: list[list[CaseScores]] = [[] for _ in work.folds]
    policy = POLICIES[work.experiment.evaluation.empty]
    for fold, case_id in work.cases("scoring settings"):
        probabilities = work.probabilities(fold, case_id)
        reference = work.reference(case_id)
        scores = score_settings(case_id, probabilities, reference, work.regions, config, policy)
        folds[fold].append(scores)
    fitted = cross_fit(folds, work.regions, config)
    everything = choose([case for cases in folds for case in cases], work.regions, config)
    untuned, tuned = _score_both(work, fitted)
    table = compare(untuned, tuned, {case: patient_of(case) for case in untuned["case"]})
    print_table(main_columns(table), "Tuned (second, cross-fitted) against untuned (first)")
    sentences = [sentence(row, "untuned", "tuned") for row in table.to_dict("records")]
    for line in sentences:
        say(line)
    steps = [step.model_dump(mode="json") for step in steps_of(everything, work.regions)]
    text = _result_file(work.source.run_id, config.metric, steps)
    path = work.root / "outputs" / f"postprocess-{tracker.run_id[:8]}" / POSTPROCESS_FILE
    write_text(path, text)
    tracker.log_text(text, POSTPROCESS_FILE)
    tracker.log_table(tuned, "scores/cross_fitted")
    tracker.log_table(table, "gain")
    tracker.log_figure(
        table_figure(main_columns(table), "Cross-fitted gain of post-processing"), "gain"
    )
    tracker.log_metrics(summarize(tuned, "cross_fitted"), step=0)
    tracker.log_json([{r: vars(s) for r, s in chosen.items()} for chosen in fitted], "by_fold.json")
    tracker.describe("\n".join([*(f"- {line}" for line in sentences), "", "```", text, "```"]))
    say(f"settings fitted on all folds: {path.relative_to(work.root)}; use them with")
    say(
        f"  bratsml predict --runs {work.source.run_id} --data FOLDER "
        f"--postprocess {path.relative_to(work.root)}"
    )


def _score_both(work: OutOfFold, fitted: Sequence[dict]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Case x region tables without and with the settings that each fold did not choose itself."""
    rows: tuple[list, list] = ([], [])
    for fold, case_id in work.cases("scoring cross-fitted"):
        probabilities, reference = work.probabilities(fold, case_id), work.reference(case_id)
        for place, chosen in enumerate((None, fitted[fold])):
            rows[place].extend(
                score_case(
                    case_id,
                    apply(probabilities, work.regions, chosen),
                    reference,
                    work.output.regions,
                    work.store.meta(case_id).spacing_mm,
                    work.experiment.evaluation,
                )
            )
    return case_table(rows[0]), case_table(rows[1])


def _result_file(run_id: str, metric: str, steps: list[dict]) -> str:
    header = (
        f"# Post-processing fitted on all out-of-fold cases of run {run_id}, for {metric}.\n"
        "# Its honest gain is the cross-fitted one, which that run's report gives.\n"
    )
    return header + yaml.safe_dump({"postprocess": steps}, sort_keys=False)


def _metric(text: str) -> Metric:
    for metric in METRICS:
        if text == metric:
            return metric
    raise ConfigError(f"metric must be one of {', '.join(METRICS)}, received {text!r}")
