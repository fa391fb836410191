"""A trained network as an MLflow model: ``mlflow.pyfunc.load_model`` gives something that segments.

The model is code plus weights, never a pickle: a state dict read with ``weights_only=True``, the
experiment it came from, and a copy of this package. It loads with
``MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from bratsml.errors import CheckpointError, DataError
from bratsml.files import read_yaml_file, write_text
from bratsml.tracking.environment import package_versions
from bratsml.tracking.runs import BEST
from bratsml.tracking.tracker import Tracker

PACKAGE = Path(__file__).resolve().parents[1]
WEIGHTS = "weights"
NOT_NEEDED = {"bratsml", "mlflow", "optuna", "schedulefree", "typer"}
"""Packages that training needs and a loaded model does not."""


class SegmentationModel:
    """Sliding-window inference with one trained network; ``served_model`` hands it to MLflow."""

    def load_context(self, context: Any) -> None:
        """Build the network and read its weights.

        Raises:
            CheckpointError: The weights are damaged, or are not ours.
        """
        from bratsml.compute.device import autocast_of, choose_device
        from bratsml.config import build_config
        from bratsml.evaluation.whole_cases import Predictor
        from bratsml.experiment import Experiment
        from bratsml.labels import get_scheme
        from bratsml.training.checkpoint import load_checkpoint

        state = load_checkpoint(Path(context.artifacts[WEIGHTS]))
        if "experiment" not in state.get("config", {}):
            raise CheckpointError("the model's weights hold no experiment; log the model again")
        experiment = build_config(Experiment, state["config"]["experiment"], source=WEIGHTS)
        output = experiment.output.build(get_scheme(experiment.data.label_scheme))
        network = experiment.build_model(output.num_channels)
        network.load_state_dict(state["model"])
        device = choose_device(experiment.compute)
        network.to(device).eval()
        self.predictor = Predictor(
            network,
            output,
            experiment.window,
            experiment.inference,
            partial(autocast_of, experiment.compute, device),
            experiment.data.modalities,
        )

    def predict(  # type: ignore[no-untyped-def]  # a hint would have MLflow expect lists of cases
        self, context, model_input, params=None
    ) -> dict[str, npt.NDArray[Any]]:
        """Segment preprocessed images.

        Args:
            context: MLflow's; unused once loaded.
            model_input: Array of shape ``(4, X, Y, Z)`` or ``(N, 4, X, Y, Z)``, the modalities
                t1n, t1c, t2w, t2f as preprocessing makes them.
            params: Unused.

        Returns:
            ``label_map`` ``(X, Y, Z)`` uint8 in the values of the training data's label scheme,
            and ``probabilities`` ``(C, X, Y, Z)`` float32; both with N in front when it was given.

        Raises:
            DataError: Another shape, or values that are not finite.
        """
        images = np.asarray(model_input, dtype=np.float32)
        if images.ndim not in (4, 5) or images.shape[-4] != 4:
            raise DataError(
                "input",
                "",
                f"has the shape {images.shape}",
                "give (4, X, Y, Z) or (N, 4, X, Y, Z) with modalities t1n, t1c, t2w, t2f",
            )
        if not np.isfinite(images).all():
            raise DataError("input", "", "holds NaN or infinity", "preprocess it again")
        batch = images if images.ndim == 5 else images[None]
        found = [self.predictor.stored_grid(image) for image in batch]
        label_maps = np.stack([self.predictor.output.label_map(each) for each in found])
        probabilities = np.stack([each.numpy() for each in found])
        if images.ndim == 4:
            label_maps, probabilities = label_maps[0], probabilities[0]
        return {"label_map": label_maps, "probabilities": probabilities}


def log_segmentation_model(
    tracker: Tracker, checkpoint: Path, step: int, metrics: Mapping[str, float], name: str = BEST
) -> None:
    """Log a checkpoint's network as the run's loadable model ``name``, with its metrics.

    Optimizer and schedule are left behind (of an Adam checkpoint two thirds); the EMA weights are
    taken where there are some. ``best_checkpoint`` finds the file within.

    Raises:
        CheckpointError: The checkpoint is damaged or missing.
    """
    with tempfile.TemporaryDirectory(dir=checkpoint.parent, prefix=".logging.") as temporary:
        folder = Path(temporary) / "model"
        save_model(checkpoint, folder)
        tracker.log_checkpoint(folder, name, step, metrics)


def save_model(checkpoint: Path, folder: Path) -> None:
    """Write a checkpoint's network as an MLflow model into a new folder."""
    import mlflow.pyfunc

    from bratsml.training.checkpoint import load_checkpoint, save_checkpoint

    state = load_checkpoint(checkpoint)
    slim = {
        "config": state["config"],
        "model": state.get("ema") or state["model"],
        "ema": None,
        "position": state.get("position"),
        "best": state.get("best"),
    }
    versions = package_versions()
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        weights = Path(temporary) / "weights.pt"
        save_checkpoint(weights, slim)
        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(PACKAGE / "tracking" / "served_model.py"),
            artifacts={WEIGHTS: str(weights), "sha256": f"{weights}.sha256"},
            code_paths=[str(PACKAGE)],
            pip_requirements=[
                # without the local part: 2.13.0+cpu is not to be had everywhere
                f"{name}=={version.split('+')[0]}"
                for name, version in versions.items()
                if name not in NOT_NEEDED
            ],
        )
    _leave_out_folders(folder / "MLmodel")


def _leave_out_folders(description: Path) -> None:
    """Take out where the parts lay on this machine; MLflow needs only their place in the model."""
    tree = read_yaml_file(description)
    flavor = tree["flavors"]["python_function"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    write_text(description, yaml.safe_dump(tree, sort_keys=False))
