"""How a study searches: sampler, pruner, objectives."""

from __future__ import annotations

from typing import Literal

from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from pydantic import Field

from bratsml.config import Config

Objective = Literal["dice", "epoch_seconds", "peak_memory_mb"]
DIRECTIONS: dict[Objective, Literal["maximize", "minimize"]] = {
    "dice": "maximize",
    "epoch_seconds": "minimize",
    "peak_memory_mb": "minimize",
}


class SamplerConfig(Config):
    """How the next point is chosen.

    Attributes:
        kind: ``tpe`` (Bergstra et al. 2011; multivariate, aware of trials still running) or
            ``random``.
        startup_trials: Random points before ``tpe`` begins to model.
    """

    kind: Literal["tpe", "random"] = "tpe"
    startup_trials: int = Field(default=10, ge=1)

    def build(self, seed: int) -> BaseSampler:
        """A sampler; one with the same seed and the same trials behind it chooses the same."""
        if self.kind == "random":
            return RandomSampler(seed=seed)
        return TPESampler(n_startup_trials=self.startup_trials, seed=seed)


class PrunerConfig(Config):
    """Which trials are given up before their end.

    Attributes:
        kind: Within a fold: ``hyperband`` (Li et al. 2018), ``median`` (worse than half of the
            trials at the same epoch) or ``none``.
        startup_trials: Complete trials before ``median`` prunes.
        warmup_epochs: Epochs that no trial is pruned in.
        worse_p: Between folds: a trial ends when its cases are scored worse than the same cases of
            the best trial with a smaller p than this (one-sided Wilcoxon signed-rank test);
            ``None`` for never.
    """

    kind: Literal["hyperband", "median", "none"] = "hyperband"
    startup_trials: int = Field(default=4, ge=0)
    warmup_epochs: int = Field(default=1, ge=0)
    worse_p: float | None = Field(default=0.05, gt=0, lt=0.5)

    def build(self, num_steps: int) -> BasePruner:
        """A pruner for trials that report at most ``num_steps`` times."""
        if self.kind == "hyperband":
            return HyperbandPruner(
                min_resource=min(max(1, self.warmup_epochs), num_steps), max_resource=num_steps
            )
        if self.kind == "median":
            return MedianPruner(
                n_startup_trials=self.startup_trials, n_warmup_steps=self.warmup_epochs
            )
        return NopPruner()
