"""Learning-rate schedules: a factor between 0 and 1 for every optimizer step."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field

from bratsml.config import Config


class ScheduleConfig(Config):
    """How the learning rate moves over the training.

    Attributes:
        kind: ``constant``; ``cosine`` (Loshchilov & Hutter 2017, without restarts); ``polynomial``
            (``(1 - progress) ** power``); ``plateau``: times ``factor`` after ``patience``
            validations without a better score; ``warm_restarts``: a cosine that starts anew, first
            after ``restart_epochs``, each cycle ``restart_growth`` times as long as the one before.
        warmup_epochs: Linear rise from 0 before anything else, in epochs.
        floor: Factor that none of the falling ones falls below.
    """

    kind: Literal["constant", "cosine", "polynomial", "plateau", "warm_restarts"] = "constant"
    warmup_epochs: float = Field(default=0.0, ge=0)
    floor: float = Field(default=0.0, ge=0, lt=1)
    power: float = Field(default=0.9, gt=0)
    factor: float = Field(default=0.5, gt=0, lt=1)
    patience: int = Field(default=5, ge=1)
    restart_epochs: float = Field(default=10.0, gt=0)
    restart_growth: float = Field(default=2.0, ge=1)

    def build(self, steps_per_epoch: int, epochs: int) -> Schedule:
        """The schedule for a training of that length."""
        return Schedule(self, steps_per_epoch, epochs)


class Schedule:
    """Factor of the learning rate at each optimizer step; only ``plateau`` has a state."""

    def __init__(self, config: ScheduleConfig, steps_per_epoch: int, epochs: int) -> None:
        self.config = config
        self.warmup_steps = round(config.warmup_epochs * steps_per_epoch)
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = steps_per_epoch * epochs
        self._factor = 1.0
        self._best = -math.inf
        self._worse = 0

    def factor(self, step: int) -> float:
        """Factor for the optimizer step with that number, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        floor = self.config.floor
        match self.config.kind:
            case "cosine":
                return _half_cosine(min(progress, 1.0), floor)
            case "warm_restarts":
                return _half_cosine(self._progress_of_cycle(step - self.warmup_steps), floor)
            case "polynomial":
                return max(floor, (1 - min(progress, 1.0)) ** self.config.power)
            case "plateau":
                return max(floor, self._factor)
            case _:
                return 1.0

    def _progress_of_cycle(self, step: int) -> float:
        """How much of its cycle is done, 0 to 1 without 1."""
        length = max(1.0, self.config.restart_epochs * self.steps_per_epoch)
        left = float(step)
        while left >= length:
            left -= length
            length *= self.config.restart_growth
        return left / length

    def validated(self, score: float) -> None:
        """Hear a validation score; a plateau lowers the factor."""
        if score > self._best:
            self._best, self._worse = score, 0
            return
        self._worse += 1
        if self._worse > self.config.patience:
            self._factor, self._worse = self._factor * self.config.factor, 0

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"factor": self._factor, "best": self._best, "worse": self._worse}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._factor, self._best, self._worse = state["factor"], state["best"], state["worse"]


def _half_cosine(progress: float, floor: float) -> float:
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
