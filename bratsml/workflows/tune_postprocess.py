"""``tune-postprocess``: thresholds and clean-up chosen on out-of-fold probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import yaml

from bratsml.errors import ConfigError
from bratsml.evaluation.compare import compare
from bratsml.evaluation.evaluate import case_table, score_case, summarize
from bratsml.evaluation.tune_postprocess import (
    CaseScores,
    Metric,
    TuneConfig,
    apply,
    choose,
    cross_fit,
    lesion_score,
    score_settings,
    steps_of,
)
from bratsml.figures.curves import table_figure
from bratsml.files import write_text
from bratsml.metrics import METRIC_VERSION
from bratsml.metrics.empty import POLICIES
from bratsml.tracking.mlflow_tracker import open_run
from bratsml.tracking.tracker import Tracker
from bratsml.workflows.compare import main_columns, patient_of, print_table, sentence
from bratsml.workflows.console import say
from bratsml.workflows.out_of_fold import OutOfFold
from bratsml.workflows.trained import POSTPROCESS_FILE
from bratsml.workflows.view import say_how_to_view

METRICS: tuple[Metric, ...] = ("dice", "iou", "lesion_dice")


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
        spacing_mm = work.store.meta(case_id).spacing_mm
        scores = score_settings(
            case_id, probabilities, reference, work.regions, config, policy, spacing_mm
        )
        folds[fold].append(scores)
    fitted = cross_fit(folds, work.regions, config)
    everything = choose([case for cases in folds for case in cases], work.regions, config)
    untuned, tuned = _score_both(work, config, fitted)
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


def _score_both(
    work: OutOfFold, config: TuneConfig, fitted: Sequence[dict]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Case x region tables without and with the settings that each fold did not choose itself."""
    rows: tuple[list, list] = ([], [])
    for fold, case_id in work.cases("scoring cross-fitted"):
        probabilities, reference = work.probabilities(fold, case_id), work.reference(case_id)
        for place, chosen in enumerate((None, fitted[fold])):
            masks = apply(probabilities, work.regions, chosen)
            rows[place].extend(_score_case(work, config, case_id, masks, reference))
    return case_table(rows[0]), case_table(rows[1])


def _score_case(
    work: OutOfFold, config: TuneConfig, case_id: str, masks: np.ndarray, reference: np.ndarray
) -> list[dict[str, Any]]:
    """Rows of one case; with lesion-wise columns where these are what is tuned."""
    spacing_mm, names = work.store.meta(case_id).spacing_mm, work.output.regions
    rows = score_case(case_id, masks, reference, names, spacing_mm, work.experiment.evaluation)
    if config.metric == "lesion_dice":
        for row, mask, truth in zip(rows, masks, reference, strict=True):
            score = lesion_score(row["region"], mask, truth, spacing_mm, config)
            row |= {"lesion_dice": score.lesion_dice, "lesion_hd95_mm": score.lesion_hd95_mm}
    return rows


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
