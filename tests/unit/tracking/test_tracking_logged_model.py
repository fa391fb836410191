from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import yaml
from mlflow.exceptions import MlflowException

from bratsml.config import build_config
from bratsml.errors import CheckpointError, DataError
from bratsml.evaluation.whole_cases import Predictor
from bratsml.experiment import Experiment
from bratsml.labels import get_scheme
from bratsml.tracking.delivery import models_of
from bratsml.tracking.logged_model import SegmentationModel, log_segmentation_model, save_model
from bratsml.tracking.mlflow_tracker import open_run
from bratsml.tracking.runs import best_checkpoint, find_run
from bratsml.training.checkpoint import load_checkpoint, save_checkpoint

TREE = {
    "data": {"label_scheme": "brats2021"},
    "loader": {"patch": [8, 8, 8]},
    "model": {"kind": "unet", "channels": [2, 4], "strides": [2], "res_units": 1},
}


@pytest.fixture
def predictor() -> Predictor:
    experiment = build_config(Experiment, TREE)
    output = experiment.output.build(get_scheme("brats2021"))
    torch.manual_seed(0)
    network = experiment.model.build(4, output.num_channels).eval()
    return Predictor(network, output, experiment.window, experiment.inference)


@pytest.fixture
def checkpoint(predictor: Predictor, tmp_path: Path) -> Path:
    path = tmp_path / "checkpoints" / "best.pt"
    state: dict[str, Any] = {
        "config": {"experiment": build_config(Experiment, TREE).what_decides_the_result()},
        "model": predictor.model.state_dict(),
        "ema": None,
        "optimizer": {"exp_avg": torch.zeros(1000)},
    }
    save_checkpoint(path, state)
    return path


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(4, 10, 9, 8)).astype(np.float32)


@pytest.mark.slow
def test_a_loaded_model_predicts_what_the_network_does(
    shared_project: Path,
    checkpoint: Path,
    predictor: Predictor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    tracker = open_run(command="train", experiment_name="bratsml", run_name="r", fingerprint="")
    log_segmentation_model(tracker, checkpoint, 3, {"val/dice/mean": 0.5})
    tracker.finish("FINISHED")
    run = find_run(tracker.run_id)
    (model,) = models_of(tracker.store, run.experiment_id, run.run_id, "best")
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", tracker.store.uri)
        loaded = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    found = loaded.predict(np.stack([image(0), image(1)]))
    expected = predictor.stored_grid(image(1))
    assert found["label_map"].shape == (2, 10, 9, 8)
    np.testing.assert_array_equal(found["probabilities"][1], expected.numpy())
    np.testing.assert_array_equal(found["label_map"][1], predictor.output.label_map(expected))
    # the same file serves ensemble and predict, without the optimizer
    kept = load_checkpoint(best_checkpoint(run))
    assert "optimizer" not in kept
    assert kept["config"]["experiment"]["model"]["channels"] == [2, 4]
    assert [path.name for path in checkpoint.parent.iterdir()].count("best.pt") == 1


@pytest.mark.parametrize(("precision", "is_mixed"), [("32", False), ("bf16", True)])
def test_it_segments_in_the_precision_of_its_training(
    predictor: Predictor, tmp_path: Path, precision: str, is_mixed: bool
) -> None:
    experiment = {**TREE, "compute": {"precision": precision, "device": "cpu"}}
    state = {"config": {"experiment": experiment}, "model": predictor.model.state_dict()}
    save_checkpoint(tmp_path / "weights.pt", state)
    model = SegmentationModel()
    model.load_context(SimpleNamespace(artifacts={"weights": str(tmp_path / "weights.pt")}))
    with model.predictor.autocast():
        assert torch.is_autocast_enabled("cpu") is is_mixed


@pytest.mark.slow
def test_the_model_names_no_folder_of_this_machine(checkpoint: Path, tmp_path: Path) -> None:
    save_model(checkpoint, tmp_path / "model")
    text = (tmp_path / "model" / "MLmodel").read_text()
    assert str(tmp_path) not in text
    assert str(Path(__file__).parents[3]) not in text
    assert yaml.safe_load(text)["flavors"]["python_function"]["model_code_path"]
    assert not list((tmp_path / "model").rglob("*.pkl"))


@pytest.mark.slow
def test_a_pickled_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Anything(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return model_input

    mlflow.pyfunc.save_model(tmp_path / "m", python_model=Anything(), pip_requirements=[])
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    with pytest.raises(MlflowException, match="pickle is disallowed"):
        mlflow.pyfunc.load_model(str(tmp_path / "m"))


class Context:
    """What MLflow hands to a model."""

    def __init__(self, weights: Path) -> None:
        self.artifacts = {"weights": str(weights)}


def test_one_case_or_several(checkpoint: Path, predictor: Predictor) -> None:
    model = SegmentationModel()
    model.load_context(Context(checkpoint))
    one = model.predict(None, image())
    several = model.predict(None, image()[None])
    assert one["label_map"].shape == (10, 9, 8)
    assert one["label_map"].dtype == np.uint8
    assert one["probabilities"].shape == (3, 10, 9, 8)
    np.testing.assert_array_equal(several["label_map"][0], one["label_map"])


@pytest.mark.parametrize("shape", [(10, 9, 8), (3, 10, 9, 8), (1, 3, 8, 8, 8)])
def test_another_shape_is_refused(checkpoint: Path, shape: tuple[int, ...]) -> None:
    model = SegmentationModel()
    model.load_context(Context(checkpoint))
    with pytest.raises(DataError, match="has the shape"):
        model.predict(None, np.zeros(shape))


def test_nan_is_refused(checkpoint: Path) -> None:
    model = SegmentationModel()
    model.load_context(Context(checkpoint))
    spoiled = image()
    spoiled[0, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="NaN or infinity"):
        model.predict(None, spoiled)


def test_damaged_weights_are_refused(checkpoint: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError, match="changed or damaged"):
        SegmentationModel().load_context(Context(checkpoint))
