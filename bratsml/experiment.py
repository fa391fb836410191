"""One experiment: every choice that makes a result, composed from the Configs of its parts.

An experiment comes from a YAML file that names only what differs from the defaults, takes overrides
(``optim.lr=3e-4``) and flows out again as the resolved YAML in every run and checkpoint.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator
from torch import nn

from bratsml.compute.device import ComputeConfig
from bratsml.compute.launcher import LauncherConfig
from bratsml.config import Config, Tree, build_config, merge, read_yaml
from bratsml.data.cases import MODALITIES
from bratsml.data.folds import SplitConfig
from bratsml.data.loader import LoaderConfig
from bratsml.data.modalities import Modalities
from bratsml.data.recipes import NativeRecipe, RecipeConfig
from bratsml.errors import ConfigError
from bratsml.evaluation.evaluate import EvaluationConfig
from bratsml.inference.postprocess import Step, require_known_regions
from bratsml.inference.window import InferenceConfig
from bratsml.labels import SCHEMES
from bratsml.losses.registry import DiceCrossEntropyConfig, LossConfig
from bratsml.models.output import OutputConfig
from bratsml.models.registry import ModelConfig, window_of
from bratsml.models.unet import UNetConfig
from bratsml.training.optim import OptimConfig
from bratsml.training.schedule import ScheduleConfig
from bratsml.training.settings import TrainConfig
from bratsml.training.transfer import TransferConfig

EXPERIMENTS_FOLDER = "experiments"
PHANTOM_PROFILE = "phantom_profile"
"""Name of the file whose sections shrink an experiment to the phantom set, by model kind."""


class DataConfig(Config):
    """How raw cases become the arrays that training reads.

    Attributes:
        recipe: Preprocessing recipe.
        label_scheme: A name in :data:`bratsml.labels.SCHEMES`, or ``auto``: told by the case names.
        allow_rejected: Go on without the cases that cannot be used (listed in ``rejected.csv``)
            instead of stopping before training.
        extra: Folder or store of further cases, which every fold trains on and which are never
            validated on ("fold -1"); empty for none.
        modalities: What the network reads; cases need all four all the same.
    """

    recipe: RecipeConfig = NativeRecipe()
    label_scheme: str = "auto"
    allow_rejected: bool = False
    extra: str = ""
    modalities: Modalities = MODALITIES  # type: ignore[assignment]

    @model_validator(mode="after")
    def _known_scheme(self) -> DataConfig:
        if self.label_scheme != "auto" and self.label_scheme not in SCHEMES:
            raise ValueError(f"use auto or one of {', '.join(SCHEMES)}")
        return self


class Experiment(Config):
    """Everything that a run needs to be made again, apart from the data itself."""

    name: str = Field(default="unnamed", pattern=r"^[A-Za-z0-9][\w.-]*$")
    seed: int = Field(default=0, ge=0, lt=2**31)
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    loader: LoaderConfig = LoaderConfig()
    model: ModelConfig = UNetConfig()
    output: OutputConfig = OutputConfig()
    loss: LossConfig = DiceCrossEntropyConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    transfer: TransferConfig = TransferConfig()
    inference: InferenceConfig = InferenceConfig()
    postprocess: tuple[Step, ...] = ()
    evaluation: EvaluationConfig = EvaluationConfig()
    compute: ComputeConfig = ComputeConfig()
    launcher: LauncherConfig = LauncherConfig()

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Experiment:
        try:
            self.model.check_patch(self.loader.patch)
            if self.inference.window is not None:
                self.model.check_patch(self.inference.window)
            require_known_regions(self.postprocess, self.output.regions)
            self.optim.check_beside(self.schedule, self.train)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def window(self) -> tuple[int, int, int]:
        """Voxels of one inference window: the training patch unless set otherwise.

        0 along Z for networks on slices, which always see a case's whole depth.
        """
        return window_of(self.model, self.inference.window or self.loader.patch)

    def build_model(self, out_channels: int) -> nn.Module:
        """The network, untrained: one channel in for each of ``data.modalities``."""
        return self.model.build(len(self.data.modalities), out_channels)

    def what_decides_the_result(self) -> Tree:
        """The tree without what only says where the work runs; the base of fingerprints."""
        tree = self.tree()
        del tree["launcher"]
        tree["loader"].pop("workers", None)
        tree["loader"].pop("augment_on", None)
        tree["train"].pop("profile", None)
        tree["compute"].pop("vram_gb", None)
        if not self.train.keep_checkpoints:  # runs from before there was such a setting stay found
            del tree["train"]["keep_checkpoints"]
        if not self.transfer.is_used:
            del tree["transfer"]
        tree["data"].pop("allow_rejected")  # the dataset's hash tells which cases were used
        tree["data"].pop("extra")  # and so does the hash of these
        return tree


def experiments_folder(root: Path) -> Path:
    """The folder of experiment files of a project."""
    return root / EXPERIMENTS_FOLDER


def find_experiment_file(root: Path, model: str = "", experiment: str = "") -> Path:
    """The YAML file that ``model=unet`` or ``experiment=experiments/x.yaml`` means.

    With neither, it is ``unet``.

    Raises:
        ConfigError: Both are given, or there is no such file; names the nearest one.
    """
    if model and experiment:
        raise ConfigError("give either model or experiment, not both: the file names its model")
    if experiment:
        candidates = [Path(experiment), root / experiment]
        for path in candidates:
            if path.is_file():
                return path
        wanted = Path(experiment).stem
    else:
        wanted = model or "unet"
        path = experiments_folder(root) / f"{wanted}.yaml"
        if path.is_file() and wanted != PHANTOM_PROFILE:
            return path
    known = sorted(
        p.stem for p in experiments_folder(root).glob("*.yaml") if p.stem != PHANTOM_PROFILE
    )
    nearest = difflib.get_close_matches(wanted, known, n=1, cutoff=0.3)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ConfigError(
        f"experiment {wanted!r} is not in {EXPERIMENTS_FOLDER}/ "
        f"(there are {', '.join(known)}){hint}"
    )


def read_experiment_tree(path: Path) -> Tree:
    """The tree of an experiment file laid over that of its ``base``, if it names one.

    The experiment takes the file's name unless it gives another.
    """
    return _read_over_bases(path, seen=())


def load_experiment(path: Path, *changes: Mapping[str, Any]) -> Experiment:
    """Read a file, lay the changes over it in order, validate.

    Raises:
        ConfigError: See :func:`bratsml.config.build_config`.
    """
    tree = read_experiment_tree(path)
    for change in changes:
        tree = merge(tree, change)
    return build_config(Experiment, tree, source=path.name)


def phantom_profile(root: Path, model_kind: str) -> Tree:
    """What shrinks an experiment with that kind of model to the phantom set."""
    sections = read_yaml(experiments_folder(root) / f"{PHANTOM_PROFILE}.yaml")
    return merge(sections.get("every_model", {}), sections.get(model_kind, {}))


def _read_over_bases(path: Path, seen: tuple[Path, ...]) -> Tree:
    if path in seen:
        raise ConfigError(f"{path.name} is its own base; remove one 'base' line")
    tree = read_yaml(path)
    base = tree.pop("base", None)
    tree.setdefault("name", path.stem)
    if base is None:
        return tree
    base_path = path.parent / f"{base}.yaml"
    if not base_path.is_file():
        raise ConfigError(f"{path.name} names the base {base!r}, but {base_path.name} is not there")
    return merge(_read_over_bases(base_path, (*seen, path)), tree)
