"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[str, typer.Option(help="Picks experiments/MODEL.yaml, e.g. unet.")]
ExperimentFile = Annotated[str, typer.Option(help="Experiment file, instead of a model.")]
Data = Annotated[
    str,
    typer.Option(help="Folder of raw cases or a preprocessed store; the phantom set if not given."),
]
Extra = Annotated[
    str, typer.Option(help="Folder or store of further cases, trained on and never validated on.")
]
Epochs = Annotated[str, typer.Option(help="Shorthand for --set train.epochs=N.")]
Postprocess = Annotated[
    str, typer.Option(help="postprocess.yaml of tune-postprocess; the experiment's if empty.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Overrides of any setting: 'optim.lr=3e-4 train.epochs=50'."),
]
