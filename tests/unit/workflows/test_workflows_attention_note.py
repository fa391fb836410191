"""The note on a run of which attention kernel ran."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from bratsml.errors import ConfigError
from bratsml.tracking.tracker import NullTracker
from bratsml.workflows import attention_note
from bratsml.workflows.attention_note import AttentionNote


class Noted(NullTracker):
    """Keeps parameters as a store does, which never changes one."""

    def __init__(self, params: dict[str, object] | None = None) -> None:
        super().__init__()
        self.params: dict[str, object] = params or {}
        self.tags: dict[str, str] = {}

    def log_params(self, params: Mapping[str, object]) -> None:
        for name, value in params.items():
            if self.params.setdefault(name, value) != value:
                raise ConfigError(f"{name} was recorded with another value")

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self.tags.update(tags)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the network says has run."""
    found: dict[str, str] = {"attention.training": "sdpa (math)"}
    monkeypatch.setattr(attention_note, "describe_attention", lambda _: dict(found))
    return found


def note(tracker: Any) -> AttentionNote:
    return AttentionNote(model=None, tracker=tracker)  # type: ignore[arg-type]


def test_logs_each_as_it_becomes_known(told: dict[str, str]) -> None:
    tracker = Noted()
    hook = note(tracker)
    hook.on_epoch_end(0, 2, {})
    told["attention.inference"] = "triton 64x32x4"
    hook.on_epoch_end(1, 2, {})
    assert tracker.params == told
    assert tracker.tags == {}


def test_a_run_resumed_on_other_hardware_gets_a_tag_and_goes_on(told: dict[str, str]) -> None:
    tracker = Noted({"attention.training": "triton 64x32x4"})
    note(tracker).on_epoch_end(3, 9, {})
    assert tracker.params == {"attention.training": "triton 64x32x4"}
    assert tracker.tags == {"bratsml.attention.training.resumed": "sdpa (math)"}
