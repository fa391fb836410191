"""Which attention kernel really ran, written on the run."""

from __future__ import annotations

from torch import nn

from bratsml.errors import ConfigError
from bratsml.models.attention.swin import describe_attention
from bratsml.tracking.tracker import Tracker
from bratsml.training.hooks import Hook


class AttentionNote(Hook):
    """Logs it as parameters after the first epochs, once training and validation have run."""

    def __init__(self, model: nn.Module, tracker: Tracker) -> None:
        self.model, self.tracker = model, tracker
        self.logged: set[str] = set()

    def on_epoch_end(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        """Log what has become known since the last epoch."""
        for name, kernel in describe_attention(self.model).items():
            if name not in self.logged:
                self.logged.add(name)
                self._log(name, kernel)

    def _log(self, name: str, kernel: str) -> None:
        try:
            self.tracker.log_params({name: kernel})
        except ConfigError:
            # Resumed on other hardware; parameters cannot change, and it is no reason to stop.
            self.tracker.set_tags({f"bratsml.{name}.resumed": kernel})
