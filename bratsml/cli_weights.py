"""Commands on trained weights; part of the command line of :mod:`bratsml.cli`."""

from __future__ import annotations

from typing import Annotated

import typer

from bratsml.cli_options import Postprocess

commands = typer.Typer()


@commands.command()
def ensemble(
    run: Annotated[str, typer.Option(help="Id of a cv run; the latest finished if empty.")] = "",
    data: Annotated[str, typer.Option(help="Data of that run; as recorded if empty.")] = "",
    average: Annotated[str, typer.Option(help="probabilities or logits.")] = "probabilities",
    postprocess: Postprocess = "",
) -> None:
    """Average the folds of a cv run over its held-out test split."""
    from bratsml.workflows.ensemble import ensemble as work

    work(run=run, data=data, average=average, postprocess=postprocess)
