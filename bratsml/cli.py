"""The command line: arguments in, one workflow called, one-line errors out; no logic.

Nothing heavy is imported before a command really runs, so that ``--help`` answers at once. An empty
value means "not given": MLproject passes every parameter, set or not.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from bratsml.cli_options import Data, Epochs, ExperimentFile, Extra, Model, Overrides, Postprocess
from bratsml.cli_weights import commands as weights_commands

app = typer.Typer(
    help="Experiments in 3-D brain-tumour segmentation on BraTS MRI.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def preprocess(
    data: Data = "",
    out: Annotated[str, typer.Option(help="Folder of the store to make.")] = "",
    recipe: Annotated[str, typer.Option(help="native or resize128.")] = "native",
    scheme: Annotated[str, typer.Option(help="Label scheme; told by the names if auto.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes; 0 for one per core.")] = 0,
    allow_rejected: Annotated[
        bool, typer.Option("--allow-rejected", help="Exit 0 although cases were rejected.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend headers that can be mended, and log it.")
    ] = False,
    no_labels: Annotated[
        bool, typer.Option("--no-labels", help="Take cases without label map too, for predict.")
    ] = False,
    manifest: Annotated[str, typer.Option(help="SHA256SUMS file to check the files by.")] = "",
) -> None:
    """Check, orient, crop and normalise raw cases into a store of arrays."""
    from bratsml.workflows.preprocess import preprocess as work

    work(
        data=data,
        out=out,
        recipe=recipe or "native",
        label_scheme=None if scheme in ("", "auto") else scheme,
        workers=workers or None,
        need_labels=not no_labels,
        allow_rejected=allow_rejected,
        repair=repair,
        manifest=Path(manifest) if manifest else None,
    )


@app.command()
def train(
    model: Model = "",
    experiment: ExperimentFile = "",
    data: Data = "",
    split: Annotated[
        str, typer.Option(help="Fold to validate on, a split file, or FILE:FOLD.")
    ] = "",
    epochs: Epochs = "",
    extra: Extra = "",
    set_: Overrides = None,
    fork: Annotated[
        bool, typer.Option("--fork", help="Start a new run although an equal one is finished.")
    ] = False,
) -> None:
    """Train one model, validated on one fold."""
    from bratsml.workflows.request import Request
    from bratsml.workflows.train import train as work

    work(Request(model, experiment, data, epochs, set_ or (), fork, extra), split=split)


@app.command()
def cv(
    model: Model = "",
    experiment: ExperimentFile = "",
    data: Data = "",
    folds: Annotated[str, typer.Option(help="Shorthand for --set split.folds=N.")] = "",
    epochs: Epochs = "",
    extra: Extra = "",
    set_: Overrides = None,
    fork: Annotated[
        bool, typer.Option("--fork", help="Start a new run although an equal one is finished.")
    ] = False,
) -> None:
    """Cross-validate a model: one run per fold under one parent."""
    from bratsml.workflows.cv import cross_validate as work
    from bratsml.workflows.request import Request

    work(Request(model, experiment, data, epochs, set_ or (), fork, extra), folds=folds)


@app.command()
def sweep(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXPERIMENT [NAME=VALUE,VALUE]...",
            help="Experiment file or name; further settings of the grid.",
        ),
    ] = None,
    experiment: Annotated[str, typer.Option(help="The same, as an option.")] = "",
    grid: Annotated[
        list[str] | None,
        typer.Option(
            help="Settings and their values: 'optim.lr=1e-3,3e-4 model.kind=unet,mednext'"
        ),
    ] = None,
    data: Data = "",
    folds: Annotated[str, typer.Option(help="Shorthand for --set split.folds=N.")] = "",
    epochs: Epochs = "",
    command: Annotated[str, typer.Option(help="What each is: cv, or train on fold 0.")] = "cv",
    workers: Annotated[str, typer.Option(help="Combinations at a time.")] = "1",
    retries: Annotated[str, typer.Option(help="Further attempts after a failure.")] = "2",
    timeout_hours: Annotated[
        str,
        typer.Option(
            "--timeout-hours", "--timeout_hours", help="Longest attempt; no limit if empty."
        ),
    ] = "",
    launcher: Annotated[str, typer.Option(help="processes or inline.")] = "processes",
    set_: Overrides = None,
) -> None:
    """Run every combination of a grid of settings; the same command goes on with it."""
    from bratsml.workflows.sweep import run_sweep as work
    from bratsml.workflows.sweep_plan import SweepOptions, split_arguments

    named, more = split_arguments(arguments or (), experiment)
    work(
        SweepOptions(
            experiment=named,
            grid=(*(grid or ()), *more),
            overrides=set_ or (),
            data=data,
            folds=folds,
            epochs=epochs,
            command=command,
            workers=workers,
            retries=retries,
            timeout_hours=timeout_hours,
            launcher=launcher,
        )
    )


app.add_typer(weights_commands)


@app.command()
def predict(
    runs: Annotated[str, typer.Option(help="Run ids, comma-separated; a cv run: its folds.")] = "",
    checkpoint: Annotated[str, typer.Option(help="Checkpoint files, comma-separated.")] = "",
    data: Annotated[str, typer.Option(help="Folder of raw cases; labels are not needed.")] = "",
    out: Annotated[str, typer.Option(help="Folder for one label map per case.")] = "predictions",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Predict again what is already there.")
    ] = False,
    postprocess: Postprocess = "",
    ensemble: Annotated[
        str, typer.Option(help="Run of ensemble --runs, or its ensemble.yaml.")
    ] = "",
) -> None:
    """Segment cases with one model, the mean of several, or an ensemble of runs."""
    from bratsml.workflows.predict import predict as work

    work(
        runs=runs,
        checkpoint=checkpoint,
        data=data,
        out=out or "predictions",
        overwrite=overwrite,
        postprocess=postprocess,
        ensemble=ensemble,
    )


@app.command()
def evaluate(
    predictions: Annotated[str, typer.Option(help="Folder of predicted label maps.")] = "",
    references: Annotated[str, typer.Option(help="Folder of cases, or of label maps.")] = "",
    rule: Annotated[str, typer.Option(help="Lesion-wise rule, e.g. brats2023-gli.")] = "",
    scheme: Annotated[str, typer.Option(help="Label scheme; told by the names if empty.")] = "",
    regions: Annotated[str, typer.Option(help="Comma-separated; ET,TC,WT if empty.")] = "",
    reference_map: Annotated[str, typer.Option(help="Values to change on reading: 4=3.")] = "",
    prediction_map: Annotated[str, typer.Option(help="Values to change on reading: 4=3.")] = "",
    compare_by_index: Annotated[
        bool, typer.Option("--compare-by-index", help="Compare though the affines differ.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes; 0 for one per core.")] = 0,
    run: Annotated[str, typer.Option(help="A finished cv run instead: out of fold.")] = "",
    programs: Annotated[str, typer.Option(help="Folder of the organisers' 2026 programs.")] = "",
) -> None:
    """Score label maps against references, whole regions and lesion by lesion."""
    from bratsml.workflows.evaluate import evaluate as work

    work(
        predictions,
        references,
        rule=rule,
        scheme=scheme,
        regions=regions,
        reference_map=reference_map,
        prediction_map=prediction_map,
        compare_by_index=compare_by_index,
        workers=workers or None,
        run=run,
        programs=programs,
    )


@app.command("tune-postprocess")
def tune_postprocess(
    run: Annotated[str, typer.Option(help="Id of a cv run; the latest finished if empty.")] = "",
    data: Annotated[str, typer.Option(help="Data of that run; as recorded if empty.")] = "",
    metric: Annotated[str, typer.Option(help="dice, iou or lesion_dice.")] = "dice",
) -> None:
    """Choose thresholds and clean-up on out-of-fold probabilities, cross-fitted."""
    from bratsml.workflows.tune_postprocess import tune_postprocess as work

    work(run=run, data=data, metric=metric)


@app.command("missing-modalities")
def missing_modalities(
    run: Annotated[str, typer.Option(help="Id of a cv run; the latest finished if empty.")] = "",
    data: Annotated[str, typer.Option(help="Data of that run; as recorded if empty.")] = "",
) -> None:
    """Score a cv run's networks with modalities taken away: all 15 subsets."""
    from bratsml.workflows.missing_modalities import missing_modalities as work

    work(run=run, data=data)


@app.command()
def memory(
    model: Model = "",
    experiment: ExperimentFile = "",
    budget: Annotated[str, typer.Option(help="Device memory: 8GB, 7.5GiB, 8000MB.")] = "",
    data: Annotated[
        str, typer.Option(help="Cases to price it on; the phantom set if not given.")
    ] = "",
    set_: Overrides = None,
    price: Annotated[
        bool, typer.Option("--price", help="Train 20 steps: time, disk and host memory.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also measure on this machine's GPU.")
    ] = False,
) -> None:
    """Predict GPU memory, and what would fit into a budget; exit code 3 if this does not."""
    from bratsml.workflows.memory import memory as work
    from bratsml.workflows.request import Request

    request = Request(model, experiment, data, overrides=set_ or ())
    if not work(request, budget=budget, price=price, measure=measure):
        raise typer.Exit(3)


@app.command()
def compare(
    run: Annotated[list[str] | None, typer.Argument(help="Ids of two runs or more.")] = None,
    runs: Annotated[str, typer.Option(help="The same, separated by commas.")] = "",
) -> None:
    """Compare results patient by patient, with their uncertainty."""
    from bratsml.workflows.compare import compare_runs as work

    work([*(run or ()), *(part.strip() for part in runs.split(",") if part.strip())])


@app.command()
def phantom(
    out: Annotated[str, typer.Option(help="Folder to write.")] = "data/phantom",
    cases: Annotated[int, typer.Option(help="Number of cases; 0 for the default set.")] = 0,
    layout: Annotated[str, typer.Option(help="brats2021, brats2023 or decathlon.")] = "",
    shape: Annotated[str, typer.Option(help="Voxels as X,Y,Z.")] = "",
    seed: Annotated[int, typer.Option(help="Another seed, other patients.")] = 0,
) -> None:
    """Write synthetic patients as NIfTI files in a BraTS layout."""
    from bratsml.workflows.phantom import phantom as work

    work(out=out, cases=cases, layout=layout, shape=shape, seed=seed)


def main() -> None:
    """Run the command line; whatever goes wrong ends in one sentence and an exit code."""
    # nothing this project reads back is a pickle, so MLflow must not open one either
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    try:
        app()
    except KeyboardInterrupt:
        print("bratsml: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        from bratsml.workflows.ending import tell

        sys.exit(tell(error))


if __name__ == "__main__":
    main()
