"""``ensemble --runs``: cross-validations of several architectures, combined out of fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bratsml.ensembling.combine import COMBINATIONS, Combination, Weights
from bratsml.ensembling.ensemble_file import ENSEMBLE_FILE, EnsembleFile
from bratsml.ensembling.pareto import Subset, pareto_table
from bratsml.errors import ConfigError
from bratsml.evaluation.compare import compare
from bratsml.evaluation.evaluate import summarize
from bratsml.evaluation.intervals import bootstrap_mean
from bratsml.figures.curves import table_figure
from bratsml.figures.ensemble import pareto_figure, weights_figure
from bratsml.files import write_text
from bratsml.metrics import METRIC_VERSION
from bratsml.tracking.mlflow_tracker import open_run
from bratsml.tracking.tracker import Tracker
from bratsml.workflows.arguments import whole_number
from bratsml.workflows.compare import file_name, main_columns, print_table, sentence
from bratsml.workflows.console import say
from bratsml.workflows.ensemble import ENSEMBLE, ensemble, with_difference
from bratsml.workflows.ensemble_members import RunsTogether
from bratsml.workflows.ensemble_scores import Fitted, score_out_of_fold, score_test
from bratsml.workflows.view import say_how_to_view


@dataclass(frozen=True)
class Verdict:
    """What the out-of-fold scores say of an ensemble.

    Attributes:
        best: The single run with the highest mean Dice.
        gains: Every combination against it, with ``combination`` (:func:`compare` otherwise).
        mean_gain: Mean over patients of the ensemble's Dice minus the best run's, over regions.
        interval: Of that, 95 % bootstrap over patients.
    """

    best: str
    gains: pd.DataFrame
    mean_gain: float
    interval: tuple[float, float]


def ensemble_command(
    run: str,
    runs: str,
    data: str,
    average: str,
    combine: str,
    test: bool,
    postprocess: str,
    seed: str,
) -> str:
    """The folds of one cross-validation, or several cross-validations; returns the run id.

    Raises:
        ConfigError: Options of the one are given with the other.
        BratsmlError: As :func:`ensemble` and :func:`ensemble_runs`.
    """
    if not runs:
        if combine or test or seed:
            raise ConfigError(
                "combine, test and seed are about several cv runs; name them: --runs RUN,RUN"
            )
        return ensemble(run=run, data=data, average=average, postprocess=postprocess)
    if run or average:
        raise ConfigError(
            "run and average are about the folds of one cv run; with runs=RUN,RUN say combine="
        )
    names = [name.strip() for name in runs.split(",") if name.strip()]
    return ensemble_runs(names, data, combine, test, postprocess, seed)


def ensemble_runs(
    runs: Sequence[str],
    data: str = "",
    combine: str = "",
    test: bool = False,
    postprocess: str = "",
    seed: str = "",
) -> str:
    """Combine cross-validations out of fold, report what that brings, write the ensemble's file.

    Args:
        runs: Ids of finished ``cv`` runs over the same cases.
        data: Of those runs, or ``""`` for where it was then.
        combine: ``probabilities`` (if empty), ``logits``, ``fitted`` or ``staple``.
        test: Also score the test split that all the runs hold out.
        postprocess: File of steps; those that all runs share if empty.
        seed: Of the groups of patients in cross-fitting; 0 if empty.

    Returns:
        Id of the run that holds everything.

    Raises:
        BratsmlError: The runs cannot be combined; says why.
    """
    kind = _combination(combine or "probabilities")
    number = whole_number("seed", seed, 0) if seed else 0
    together = RunsTogether.of(runs, data, postprocess)
    held_out = together.test_cases() if test else ()
    root = together.works[0].root
    tracker = open_run(
        command="ensemble",
        experiment_name="bratsml",
        run_name="ensemble of " + " and ".join(together.names),
        fingerprint="",
        root=root,
        fork=True,
    )
    try:
        _report(together, kind, number, held_out, tracker)
    except BaseException as error:
        tracker.set_tags({"bratsml.error": str(error)[:500] or type(error).__name__})
        tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    tracker.finish("FINISHED")
    say_how_to_view(root, tracker)
    return tracker.run_id


def _report(
    together: RunsTogether,
    kind: Combination,
    seed: int,
    held_out: Sequence[str],
    tracker: Tracker,
) -> None:
    tracker.log_params(
        {
            "ensemble.of": ",".join(work.source.run_id for work in together.works),
            "ensemble.members": len(together.works),
            "ensemble.combine": kind,
            "ensemble.seed": seed,
            "metric_version": METRIC_VERSION,
        }
    )
    seconds = together.seconds_per_case()
    table, subset_table, fitted = score_out_of_fold(together, kind, seed)
    verdict = judge(table, together.names, together.patients, seed)
    tracker.log_table(table, "scores/out_of_fold")
    tracker.log_metrics(summarize(_of(table, ENSEMBLE), "oof"), step=0)
    tracker.log_metrics(
        {
            f"oof/members/{file_name(name)}/dice/mean": mean_dice(_of(table, name))
            for name in together.names
        },
        step=0,
    )
    means = means_table(table, together.regions)
    print_table(means, f"Out-of-fold Dice ({table['case'].nunique()} cases; ensemble: {kind})")
    lines = _say_verdict(verdict, tracker)
    pareto = score_subsets(together, table, subset_table, seconds)
    print_table(pareto, "Dice against models and inference time")
    weights = weights_table(together, fitted)
    tracker.log_table(verdict.gains, "gain")
    tracker.log_table(pareto, "pareto")
    tracker.log_table(weights, "weights")
    figures = [
        pareto_figure(pareto, f"{kind}: Dice against models and inference time"),
        table_figure(pareto, "Dice against models and inference time"),
        table_figure(means, "Mean Dice, out of fold"),
        table_figure(_shown(verdict, kind), f"Ensemble (second) against {verdict.best} (first)"),
        weights_figure(weights),
    ]
    tracker.log_figure(figures, "ensemble")
    text = ensemble_file(together, kind, fitted.weights).text(_header(verdict, tracker))
    path = together.works[0].root / "outputs" / f"ensemble-{tracker.run_id[:8]}" / ENSEMBLE_FILE
    write_text(path, text)
    tracker.log_text(text, ENSEMBLE_FILE)
    if held_out:
        lines += _report_test(together, kind, fitted, held_out, verdict.best, tracker)
    tracker.describe(_description(means, lines, text))
    say(f"the ensemble for new cases: {path.relative_to(together.works[0].root)}; use it with")
    say(f"  bratsml predict --ensemble {tracker.run_id} --data FOLDER")


def judge(
    table: pd.DataFrame, names: Sequence[str], patients: Mapping[str, str], seed: int
) -> Verdict:
    """Every combination against the best single run, on the same cases.

    The best run is chosen on these very cases, which favours it and not the ensemble.

    Args:
        table: Case x region rows with ``model``.
        names: Of the runs; of equals the first is the best.
    """
    best = max(names, key=lambda name: mean_dice(_of(table, name)))
    single = _of(table, best)
    combined = [str(name) for name in dict.fromkeys(table["model"]) if name not in names]
    gains = pd.concat(
        [
            compare(single, _of(table, name), patients, seed=seed, num_pairs=len(combined)).assign(
                combination=name
            )
            for name in combined
        ],
        ignore_index=True,
    )
    gain = _per_patient(_of(table, ENSEMBLE), patients) - _per_patient(single, patients)
    known = gain.dropna().to_numpy()
    return Verdict(best, gains, float(np.mean(known)), bootstrap_mean(known, seed))


def score_subsets(
    together: RunsTogether,
    table: pd.DataFrame,
    subset_table: pd.DataFrame,
    seconds: Sequence[float],
) -> pd.DataFrame:
    """The Pareto table: single runs, the subsets that were scored, and all runs together.

    Args:
        seconds: Of inference per case, of every run.
    """
    subsets: list[Subset] = [(member,) for member in range(len(together.works))]
    dice = [mean_dice(_of(table, name)) for name in together.names]
    if len(subset_table):
        for subset, part in subset_table.groupby("subset", sort=False):
            subsets.append(tuple(int(member) for member in subset))
            dice.append(mean_dice(part))
    subsets.append(tuple(range(len(together.works))))
    dice.append(mean_dice(_of(table, ENSEMBLE)))
    networks = [len(work.folds) for work in together.works]
    return pareto_table(subsets, together.names, dice, seconds, networks)


def ensemble_file(together: RunsTogether, kind: Combination, weights: Weights) -> EnsembleFile:
    """How the runs are combined for new cases."""
    used = weights if kind == "fitted" else np.full(weights.shape, 1 / len(weights))
    run_ids = [work.source.run_id for work in together.works]
    return EnsembleFile(
        combine=kind,
        label_scheme=together.works[0].output.scheme.name,
        regions=together.regions,
        postprocess=together.steps,
        members=EnsembleFile.members_of(run_ids, together.names, together.regions, used),
    )


def weights_table(together: RunsTogether, fitted: Fitted) -> pd.DataFrame:
    """Weight by model, region and group; ``all`` is fitted on every case."""
    everyone: Subset = tuple(range(len(together.works)))
    found = {"all": fitted.weights}
    found |= {f"without group {g}": w for g, w in fitted.by_group[everyone].items()}
    return pd.DataFrame(
        [
            {"group": group, "model": name, "region": region, "weight": weights[m, r]}
            for group, weights in found.items()
            for m, name in enumerate(together.names)
            for r, region in enumerate(together.regions)
        ]
    )


def means_table(table: pd.DataFrame, regions: Sequence[str]) -> pd.DataFrame:
    """Mean Dice over cases of every model, by region and over regions."""
    rows = []
    for name, part in table.groupby("model", sort=False):
        by_region = part.groupby("region")["dice"].mean()
        means = {region: float(by_region[region]) for region in regions}
        rows.append({"model": str(name), **means, "mean": mean_dice(part)})
    return pd.DataFrame(rows)


def mean_dice(table: pd.DataFrame) -> float:
    """Mean over regions of the mean over cases; NaN without any score."""
    return float(table.groupby("region")["dice"].mean().mean())


def _say_verdict(verdict: Verdict, tracker: Tracker) -> list[str]:
    low, high = verdict.interval
    tracker.log_metrics(
        {
            "gain/dice/mean": verdict.mean_gain,
            "gain/dice/mean_low95": low,
            "gain/dice/mean_high95": high,
        },
        step=0,
    )
    lines = [
        f"ensemble minus best single run ({verdict.best}): {verdict.mean_gain:+.4f} Dice over "
        f"regions (95 % bootstrap interval over patients {low:+.4f} to {high:+.4f})"
    ]
    chosen = verdict.gains[verdict.gains["combination"] == ENSEMBLE]
    lines += [sentence(row, verdict.best, ENSEMBLE) for row in chosen.to_dict("records")]
    for line in lines:
        say(line)
    return lines


def _shown(verdict: Verdict, kind: Combination) -> pd.DataFrame:
    """The comparisons of all combinations, those of the chosen one first."""
    parts = []
    order = sorted(verdict.gains["combination"].unique(), key=lambda name: name != ENSEMBLE)
    for name in order:
        part = main_columns(verdict.gains[verdict.gains["combination"] == name])
        label = kind if name == ENSEMBLE else str(name).split("(")[-1].rstrip(")")
        part.insert(0, "combination", label)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _report_test(
    together: RunsTogether,
    kind: Combination,
    fitted: Fitted,
    held_out: Sequence[str],
    best: str,
    tracker: Tracker,
) -> list[str]:
    """Score the test split with what was settled before it was opened."""
    table = with_difference(score_test(together, held_out, kind, fitted.weights))
    tracker.log_table(table, "scores/test")
    tracker.log_metrics(summarize(_of(table, ENSEMBLE), "test"), step=0)
    print_table(means_table(table, together.regions), f"Test split ({len(held_out)} cases)")
    gain = _of(table, best).groupby("case")["dice_gain"].mean().dropna().to_numpy()
    line = (
        f"on the test split, ensemble minus {best} (the best out of fold): {gain.mean():+.4f} Dice"
    )
    if len(gain) > 1:
        low, high = bootstrap_mean(gain, seed=0)
        line += f" (95 % bootstrap interval over {len(gain)} cases {low:+.4f} to {high:+.4f})"
    else:
        line += "; one case decides nothing"
    say(line)
    return [line]


def _header(verdict: Verdict, tracker: Tracker) -> str:
    low, high = verdict.interval
    return (
        f"Written by run {tracker.run_id}; weights are fitted on all out-of-fold cases.\n"
        f"Cross-fitted Dice minus that of {verdict.best}: {verdict.mean_gain:+.4f} "
        f"({low:+.4f} to {high:+.4f})."
    )


def _description(means: pd.DataFrame, lines: Sequence[str], text: str) -> str:
    header = [str(name) for name in means.columns]
    rows = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for row in means.itertuples(index=False):
        cells = (f"{v:.4f}" if isinstance(v, float) else str(v) for v in row)
        rows.append(f"| {' | '.join(cells)} |")
    notes = (
        "Each case is predicted by networks that have not seen its patient, and combined with "
        "weights fitted without it. The folds' checkpoints were chosen on these cases, so all "
        f"numbers lean to the good side alike. Metrics: {METRIC_VERSION}."
    )
    return "\n".join([*rows, "", *(f"- {x}" for x in lines), "", notes, "", "```", text, "```"])


def _combination(text: str) -> Combination:
    for known in COMBINATIONS:
        if text == known:
            return known
    raise ConfigError(f"combine must be one of {', '.join(COMBINATIONS)}, received {text!r}")


def _of(table: pd.DataFrame, model: str) -> pd.DataFrame:
    return table[table["model"] == model]


def _per_patient(table: pd.DataFrame, patients: Mapping[str, str]) -> pd.Series:
    """Mean Dice over regions by case, then by patient."""
    by_case = table.groupby("case")["dice"].mean()
    return by_case.groupby(lambda case: patients[case]).mean()
