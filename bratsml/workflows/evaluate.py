"""``evaluate``: a folder of predicted label maps against references, by a rule or plain."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.progress import Progress

from bratsml.data.cases import discover_cases
from bratsml.data.label_files import find_label_files
from bratsml.data.nifti import read_volume
from bratsml.data.pool import run_each, usable_cores
from bratsml.data.prepare import prepare_case
from bratsml.data.recipes import NativeRecipe
from bratsml.data.rejected import write_rejected
from bratsml.errors import BratsmlError, ConfigError, DataError
from bratsml.evaluation.evaluate import case_table, dice_by_region, summarize
from bratsml.evaluation.predictions import (
    Pair,
    Scored,
    ScoringConfig,
    mapped,
    score_label_maps,
    score_pair,
)
from bratsml.evaluation.rule_2026 import CHALLENGES, score_by_rule_2026
from bratsml.evaluation.summary import (
    lost_by_kind,
    metric_columns,
    summary_table,
    worst_cases,
)
from bratsml.figures.curves import table_figure
from bratsml.figures.evaluation import distribution_figure, lost_figure, volume_figure
from bratsml.figures.overlay import overlay_figure
from bratsml.files import write_text
from bratsml.labels import DEFAULT_REGIONS, LabelScheme, get_scheme
from bratsml.metrics import METRIC_VERSION
from bratsml.metrics.rules import get_rule
from bratsml.tracking.mlflow_tracker import open_run
from bratsml.tracking.render import Picture
from bratsml.tracking.store import project_root
from bratsml.tracking.tracker import Tracker
from bratsml.workflows.compare import print_table
from bratsml.workflows.console import console, say, warn
from bratsml.workflows.out_of_fold import OutOfFold
from bratsml.workflows.view import say_how_to_view

SHOWN_PROBLEMS = 10
NUM_OVERLAYS = 3
SHOWN_METRICS = ("dice", "hd95_mm", "lesion_dice", "lesion_hd95_mm")


def evaluate(
    predictions: str,
    references: str,
    *,
    rule: str = "",
    scheme: str = "",
    regions: str = "",
    reference_map: str = "",
    prediction_map: str = "",
    compare_by_index: bool = False,
    workers: int | None = None,
    run: str = "",
    programs: str = "",
) -> str:
    """Score every case of ``references``; returns the id of the run that holds the report.

    Args:
        run: A finished ``cv`` run instead of folders: its out-of-fold predictions are scored.
        predictions: Folder of label maps; cases without one are scored as missing, and so are those
            whose file cannot be used.
        references: Folder of cases or of label maps alone.
        rule: Lesion-wise rule, e.g. ``brats2023-gli``; whole regions are scored in any case.
        scheme: Label scheme of both after mapping; by default what the reference's names imply.
        regions: Separated by commas; by default the rule's, or ET, TC, WT.
        reference_map, prediction_map: Values to change on reading, as ``4=3,2=1``.
        compare_by_index: Compare by voxel although the affines differ.
        workers: Processes; one per core by default.
        programs: Folder of the organisers' programs, for the rules of 2026.

    Raises:
        ConfigError: An unknown rule, scheme or region; or the rule needs regions the scheme lacks.
        DataError: A folder holds nothing, or no case has a prediction.
    """
    if run:
        if predictions or references:
            raise ConfigError(
                "evaluate takes either run=ID or predictions and references, not both"
            )
        return _evaluate_run(run, rule, regions, reference_map)
    if not predictions or not references:
        raise ConfigError("evaluate needs predictions=FOLDER and references=FOLDER, or run=ID")
    if rule in CHALLENGES:
        return _evaluate_by_2026(Path(predictions), Path(references), rule, programs)
    files = find_label_files(Path(references))
    predicted = find_label_files(Path(predictions))
    config = _scoring(
        Path(references), rule, scheme, regions, reference_map, prediction_map, compare_by_index
    )
    if not files.keys() & predicted.keys():
        raise DataError(
            predictions, "", "no prediction has the name of a case", f"e.g. {next(iter(files))}"
        )
    for extra in sorted(predicted.keys() - files.keys())[:SHOWN_PROBLEMS]:
        warn(f"{extra} is predicted but has no reference; it is not scored")
    pairs = [Pair(case, path, predicted.get(case), config) for case, path in files.items()]
    scored = _score_all(pairs, workers or usable_cores())

    def overlays(table: pd.DataFrame, worst: pd.DataFrame) -> list[Picture]:
        return _overlays(pairs, config, Path(references), table, worst)

    return _log_evaluation(f"evaluate {Path(predictions).name}", scored, config, overlays)


def _evaluate_run(run: str, rule: str, regions: str, label_map: str) -> str:
    """Score the out-of-fold predictions of a cross-validation, from its kept probabilities."""
    work = OutOfFold.of(run, "")
    mapping = _mapping("reference-map", label_map)
    labels = get_scheme(get_rule(rule).label_scheme) if mapping and rule else work.output.scheme
    config = _scoring_of(labels, rule, regions)
    scored = []
    for fold, case_id in work.cases("cases"):
        reference = work.store.reference(case_id)
        assert reference is not None  # a fold was validated on it
        ours, theirs = (mapped(m, mapping) for m in (work.label_map(fold, case_id), reference))
        spacing_mm = work.store.meta(case_id).spacing_mm
        rows = score_label_maps(case_id, ours, theirs, spacing_mm, config)
        scored.append(Scored(case_id, tuple(rows)))
    return _log_evaluation(f"evaluate {work.source.name}", scored, config)


def _evaluate_by_2026(predictions: Path, references: Path, rule: str, programs: str) -> str:
    """Score two folders by the organisers' own programs; returns the id of the run."""
    with tempfile.TemporaryDirectory() as temporary:
        found = score_by_rule_2026(
            _linked(predictions, Path(temporary, "predictions")),
            _linked(references, Path(temporary, "references")),
            rule,
            Path(programs) if programs else None,
        )
    summary, worst = summary_table(found), worst_cases(found)
    print_table(summary, f"{found['case'].nunique()} cases by the organisers' programs, {rule}")
    root = project_root()
    tracker = open_run(
        command="evaluate",
        experiment_name="bratsml",
        run_name=f"evaluate {predictions.name}",
        fingerprint="",
        root=root,
        fork=True,
    )
    tracker.log_params({"evaluate.rule": rule, "metric_version": rule})
    tracker.log_metrics(summarize(found, "eval"), step=0)
    tracker.log_table(found, "scores/evaluation")
    tracker.log_table(summary, "scores/summary")
    figures = [distribution_figure(found, name, name) for name in metric_columns(found)]
    tables = [table_figure(summary, "Summary over cases"), table_figure(worst, "Worst cases")]
    tracker.log_figure([*figures, *tables], "evaluation")
    tracker.finish("FINISHED")
    say_how_to_view(root, tracker)
    return tracker.run_id


def _linked(source: Path, folder: Path) -> Path:
    """A flat folder of links named by case, as the organisers' programs want it."""
    folder.mkdir()
    for case_id, path in find_label_files(source).items():
        suffix = ".nii.gz" if path.name.endswith(".gz") else ".nii"
        (folder / f"{case_id}{suffix}").symlink_to(path.resolve())
    return folder


def _log_evaluation(
    name: str,
    scored: Sequence[Scored],
    config: ScoringConfig,
    overlays: Callable[[pd.DataFrame, pd.DataFrame], list[Picture]] | None = None,
) -> str:
    """Print and log what came out, as a run of its own; returns its id."""
    root = project_root()
    tracker = open_run(
        command="evaluate",
        experiment_name="bratsml",
        run_name=name,
        fingerprint="",
        root=root,
        fork=True,
    )
    try:
        _log_scores(scored, config, tracker, root, overlays)
    except BaseException as error:
        tracker.set_tags({"bratsml.error": str(error)[:500] or type(error).__name__})
        tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    tracker.finish("FINISHED")
    say_how_to_view(root, tracker)
    return tracker.run_id


def _scoring(
    references: Path,
    rule: str,
    scheme: str,
    regions: str,
    reference_map: str,
    prediction_map: str,
    compare_by_index: bool,
) -> ScoringConfig:
    name = scheme or (get_rule(rule).label_scheme if reference_map and rule else "")
    labels = get_scheme(name) if name else _implied_scheme(references)
    return _scoring_of(
        labels,
        rule,
        regions,
        reference_map=_mapping("reference-map", reference_map),
        prediction_map=_mapping("prediction-map", prediction_map),
        compare_by_index=compare_by_index,
    )


def _scoring_of(labels: LabelScheme, rule: str, regions: str, **more: Any) -> ScoringConfig:
    wanted = tuple(part.strip() for part in regions.split(",") if part.strip())
    chosen = get_rule(rule).regions if rule else wanted or _default_regions(labels)
    missing = sorted({*chosen} - labels.regions.keys())
    if missing:
        what = f"rule {rule}" if rule else "the evaluation"
        raise ConfigError(
            f"{what} needs region {missing[0]}, which label scheme {labels.name} does not define "
            f"({', '.join(labels.regions)}); map the values with --reference-map and "
            "--prediction-map, or use another rule"
        )
    return ScoringConfig(scheme=labels.name, regions=chosen, rule=rule, **more)


def _implied_scheme(references: Path) -> LabelScheme:
    try:
        return discover_cases(references, need_labels=False).scheme()
    except DataError as error:
        raise ConfigError(
            f"the meaning of the labels in {references.name} is not told by case names; "
            "give scheme=NAME, e.g. brats2023"
        ) from error


def _default_regions(scheme: LabelScheme) -> tuple[str, ...]:
    return (
        DEFAULT_REGIONS if set(DEFAULT_REGIONS) <= scheme.regions.keys() else tuple(scheme.regions)
    )


def _mapping(name: str, text: str) -> dict[int, int]:
    """``4=3,2=1`` as a mapping."""
    try:
        pairs = [part.split("=") for part in text.replace(" ", "").split(",") if part]
        return {int(old): int(new) for old, new in pairs}
    except ValueError:
        raise ConfigError(f"{name} must look like 4=3,2=1, received {text!r}") from None


def _log_scores(
    scored: Sequence[Scored],
    config: ScoringConfig,
    tracker: Tracker,
    root: Path,
    overlays: Callable[[pd.DataFrame, pd.DataFrame], list[Picture]] | None,
) -> None:
    """Print and log tables and report."""
    tracker.log_params(
        {
            "evaluate.rule": config.rule or "none",
            "evaluate.label_scheme": config.scheme,
            "evaluate.compare_by_index": config.compare_by_index,
            "evaluate.empty": config.evaluation.empty,
            "metric_version": METRIC_VERSION,
            "num_cases": len(scored),
        }
    )
    problems = [one.problem for one in scored if one.problem is not None]
    _tell_problems(problems)
    rows = [row for one in scored for row in one.rows]
    if not rows:
        raise DataError("references", "", "none could be read", "see the warnings above")
    table = case_table(rows)
    summary = summary_table(table)
    print_table(
        summary[summary["metric"].isin(SHOWN_METRICS)],
        f"{table['case'].nunique()} cases, rule {config.rule or 'none'}, metrics {METRIC_VERSION}",
    )
    worst = worst_cases(table)
    print_table(worst, "Worst cases by mean Dice over regions")
    num_missing = int(table.drop_duplicates("case")["missing"].sum())
    if num_missing:
        say(f"{num_missing} of {table['case'].nunique()} cases are scored as missing")
    tracker.log_metrics(summarize(table, "eval") | _lesion_means(table), step=0)
    tracker.log_table(table, "scores/evaluation")
    tracker.log_table(summary, "scores/summary")
    _log_problems(problems, tracker, root)
    pictures = overlays(table, worst) if overlays is not None else []
    tracker.log_figure([*_report(table, summary, worst), *pictures], "evaluation")
    tracker.describe(_description(summary, config, num_missing))


def _score_all(pairs: list[Pair], workers: int) -> list[Scored]:
    """Every case scored, in the order of the pairs; a broken file does not stop the others."""
    found: dict[str, Scored] = {}
    with Progress(console=console) as progress:
        task = progress.add_task("cases", total=len(pairs))
        for scored in run_each(score_pair, pairs, min(workers, len(pairs)), lambda p: p.case_id):
            found[scored.case_id] = scored
            progress.advance(task)
    return [found[pair.case_id] for pair in pairs]


def _tell_problems(problems: list[DataError]) -> None:
    for problem in problems[:SHOWN_PROBLEMS]:
        warn(str(problem))
    if len(problems) > SHOWN_PROBLEMS:
        warn(f"and {len(problems) - SHOWN_PROBLEMS} more, all in problems.csv")


def _log_problems(problems: list[DataError], tracker: Tracker, root: Path) -> None:
    if problems:
        path = root / "outputs" / f"evaluate-{tracker.run_id[:8]}" / "problems.csv"
        write_text(path, "")
        write_rejected(path, problems)
        tracker.log_file(path)


def _lesion_means(table: pd.DataFrame) -> dict[str, float]:
    """Means of the rule's columns for the run: ``eval/lesion_dice/ET`` and so on."""
    names = [name for name in table.columns if name.startswith(("lesion_", "rule_", "num_"))]
    return {
        f"eval/{name}/{region}": float(mean)
        for name in names
        for region, mean in table.groupby("region", sort=False)[name].mean().items()
    }


def _report(table: pd.DataFrame, summary: pd.DataFrame, worst: pd.DataFrame) -> list[object]:
    figures: list[object] = [
        distribution_figure(table, metric, metric)
        for metric in ("dice", "hd95_mm", "lesion_dice")
        if metric in table
    ]
    figures += [volume_figure(table), lost_figure(lost_by_kind(table))]
    figures += [
        table_figure(summary, "Summary over cases"),
        table_figure(worst, "Worst cases by mean Dice over regions"),
    ]
    return figures


def _overlays(
    pairs: list[Pair],
    config: ScoringConfig,
    references: Path,
    table: pd.DataFrame,
    worst: pd.DataFrame,
) -> list[Picture]:
    """Pictures of the worst predicted cases, where the references come with images."""
    try:
        cases = {case.id: case for case in discover_cases(references, need_labels=True).cases}
    except DataError:
        return []
    scheme = get_scheme(config.scheme)
    pictures = []
    by_id = {pair.case_id: pair for pair in pairs}
    predicted = [c for c in worst["case"] if c in cases and by_id[c].prediction is not None]
    for place, case_id in enumerate(predicted[:NUM_OVERLAYS], start=1):
        path = by_id[case_id].prediction
        assert path is not None
        try:
            prepared = prepare_case(cases[case_id], NativeRecipe(), scheme)
            label_map = np.asarray(read_volume(path, case_id).data).astype(np.uint8)
        except BratsmlError:
            continue  # told already, when it was scored
        meta = prepared.meta
        if meta.resampled_shape is not None or prepared.label is None:
            continue  # the picture needs the prediction voxel by voxel
        turned = meta.crop_box.crop(meta.reorientation.apply(label_map))
        reference = scheme.region_stack(np.asarray(prepared.label), config.regions)
        ours = scheme.region_stack(turned.astype(np.uint8), config.regions)
        figure = overlay_figure(
            np.asarray(prepared.image, dtype=np.float32),
            reference,
            ours,
            config.regions,
            f"{place}. worst: {case_id}",
            dice_by_region(table, case_id),
            meta.stored_spacing_mm,
        )
        pictures.append(Picture(figure))
    return pictures


def _description(summary: pd.DataFrame, config: ScoringConfig, num_missing: int) -> str:
    lines = [
        f"Rule: {config.rule or 'none (whole regions)'}; labels: {config.scheme}; "
        f"metrics: {METRIC_VERSION}; {num_missing} cases scored as missing.",
        "",
        "| metric | region | cases | mean | 95 % interval | median |",
        "|---|---|---|---|---|---|",
    ]
    for row in summary[summary["metric"].isin(SHOWN_METRICS)].to_dict("records"):
        lines.append(
            f"| {row['metric']} | {row['region']} | {row['cases']} | {row['mean']:.4f} | "
            f"{row['low95']:.4f} to {row['high95']:.4f} | {row['median']:.4f} |"
        )
    return "\n".join(lines)
