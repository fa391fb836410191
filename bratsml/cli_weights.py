"""Commands on trained weights; part of the command line of :mod:`bratsml.cli`."""

from __future__ import annotations

from typing import Annotated

import typer

from bratsml.cli_options import Data, Epochs, ExperimentFile, Extra, Model, Overrides, Postprocess

commands = typer.Typer()


@commands.command()
def ensemble(
    run: Annotated[str, typer.Option(help="Id of a cv run; the latest finished if empty.")] = "",
    runs: Annotated[
        str, typer.Option(help="Instead: several cv runs over the same cases, comma-separated.")
    ] = "",
    data: Annotated[str, typer.Option(help="Data of the runs; as recorded if empty.")] = "",
    average: Annotated[
        str, typer.Option(help="With --run: probabilities (if empty) or logits.")
    ] = "",
    combine: Annotated[
        str,
        typer.Option(help="With --runs: probabilities (if empty), logits, fitted or staple."),
    ] = "",
    test: Annotated[
        bool, typer.Option("--test", help="With --runs: also score the shared test split.")
    ] = False,
    postprocess: Postprocess = "",
    seed: Annotated[str, typer.Option(help="With --runs: of the cross-fitting; 0 if empty.")] = "",
) -> None:
    """Average the folds of a cv run over its test split, or combine several cv runs."""
    from bratsml.workflows.ensemble_runs import ensemble_command as work

    work(
        run=run,
        runs=runs,
        data=data,
        average=average,
        combine=combine,
        test=test,
        postprocess=postprocess,
        seed=seed,
    )


@commands.command()
def soup(
    run: Annotated[
        str,
        typer.Option(
            help="A cv, train or study run, or several, comma-separated; the latest finished cv "
            "run if empty."
        ),
    ] = "",
    checkpoints: Annotated[
        str, typer.Option(help="Instead: checkpoint files, comma-separated.")
    ] = "",
    data: Annotated[
        str, typer.Option(help="What they were trained on; as recorded if empty.")
    ] = "",
    fold: Annotated[str, typer.Option(help="One fold of the runs; every one if empty.")] = "",
    kind: Annotated[str, typer.Option(help="greedy (if empty), uniform or learned.")] = "",
    evaluations: Annotated[str, typer.Option(help="Soups that learned may try; 20 if empty.")] = "",
) -> None:
    """Average the weights of a fold's checkpoints; scored on patients that did not choose them."""
    from bratsml.workflows.soup import soup as work

    work(
        runs=[text.strip() for text in run.split(",") if text.strip()],
        checkpoints=[text.strip() for text in checkpoints.split(",") if text.strip()],
        data=data,
        fold=fold,
        kind=kind,
        evaluations=evaluations,
    )


@commands.command()
def finetune(
    checkpoint: Annotated[
        str, typer.Option(help="Checkpoint or state dict, or the id of a run; a cv run: its folds.")
    ] = "",
    model: Model = "",
    experiment: ExperimentFile = "",
    data: Data = "",
    fold: Annotated[str, typer.Option(help="One fold; all of them as cv if empty.")] = "",
    freeze_but_last: Annotated[
        str,
        typer.Option(
            "--freeze-but-last",
            "--freeze_but_last",
            help="Layers that are trained, from the end; all if empty.",
        ),
    ] = "",
    reset_last: Annotated[
        str,
        typer.Option(
            "--reset-last",
            "--reset_last",
            help="Last layers whose convolutions start from fresh weights.",
        ),
    ] = "",
    epochs: Epochs = "",
    extra: Extra = "",
    set_: Overrides = None,
    fork: Annotated[
        bool, typer.Option("--fork", help="Start a new run although an equal one is finished.")
    ] = False,
) -> None:
    """Train on from trained weights: one fold, or all of them as cv."""
    from bratsml.workflows.finetune import finetune as work
    from bratsml.workflows.request import Request

    work(
        Request(model, experiment, data, epochs, set_ or (), fork, extra),
        checkpoint,
        fold=fold,
        freeze_but_last=freeze_but_last,
        reset_last=reset_last,
    )


@commands.command()
def prune(
    run: Annotated[str, typer.Option(help="Id of a cv run; the latest finished if empty.")] = "",
    data: Annotated[str, typer.Option(help="Data of that run; as recorded if empty.")] = "",
    shares: Annotated[str, typer.Option(help="Shares of the weights to take, e.g. 0.5,0.9.")] = "",
    sensitivity: Annotated[
        str, typer.Option(help="Share to take of one layer at a time; 0.8 if empty, 0 for none.")
    ] = "",
    keep: Annotated[
        str, typer.Option(help="Share at which the pruned networks are kept, to go on with.")
    ] = "",
) -> None:
    """Set a cv run's smallest weights to zero: Dice, size and speed; and which layers bear it."""
    from bratsml.workflows.prune import prune as work

    work(run=run, data=data, shares=shares, sensitivity=sensitivity, keep=keep)
