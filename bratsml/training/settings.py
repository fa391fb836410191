"""Settings of the training loop."""

from __future__ import annotations

from pydantic import Field

from bratsml.config import Config
from bratsml.training.profile import ProfileConfig


class TrainConfig(Config):
    """How long and how carefully a network is trained.

    Attributes:
        epochs: Passes of ``loader.samples_per_epoch`` patches.
        accumulate: Batches per optimizer step.
        clip_norm: Largest gradient norm; ``None`` does not clip.
        ema_decay: Decay of an exponential moving average of the weights, which is then what is
            validated and kept as best; ``None`` for none.
        validate_every: Epochs between validations; the last epoch is always validated.
        patience: Epochs without a better score before training ends; ``None`` for never.
        time_limit_hours: Ends training after the epoch that passes it, over all resumed sessions.
        keep_checkpoints: Weights of as many best-scoring epochs are kept beside best and last, for
            ``bratsml soup``; without the optimizer, so each takes as much disk as the network.
        nan_steps_allowed: Steps in a row whose loss or gradient is not finite and that are skipped
            before training goes back to the last checkpoint.
    """

    epochs: int = Field(default=100, ge=1)
    accumulate: int = Field(default=1, ge=1)
    clip_norm: float | None = Field(default=12.0, gt=0)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    validate_every: int = Field(default=1, ge=1)
    patience: int | None = Field(default=None, ge=1)
    time_limit_hours: float | None = Field(default=None, gt=0)
    keep_checkpoints: int = Field(default=0, ge=0, le=1000)
    nan_steps_allowed: int = Field(default=5, ge=1)
    profile: ProfileConfig = ProfileConfig()
