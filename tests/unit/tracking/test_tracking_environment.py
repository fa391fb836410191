from __future__ import annotations

import getpass
import json
import platform
import socket
import time
from pathlib import Path

from bratsml.tracking import environment
from bratsml.tracking.environment import describe_environment, git_state
from bratsml.tracking.run_state import process_tags
from bratsml.tracking.system_metrics import SystemMetrics


def test_tags_and_json_say_code_packages_and_machine() -> None:
    tags, full = describe_environment()
    assert tags["version.python"] == platform.python_version()
    assert tags["version.torch"].startswith("2.13")
    assert int(tags["hardware.cores"]) >= 1
    assert float(tags["hardware.ram_gb"]) > 0
    assert full["packages"]["mlflow"] == tags["version.mlflow"]
    assert "pytest" not in full["packages"]
    assert json.loads(json.dumps(full)) == full
    assert all(isinstance(value, str) and value for value in tags.values())


def test_no_user_host_or_folder_names() -> None:
    text = json.dumps([describe_environment(), process_tags()])
    assert str(Path.home()) + "/" not in text
    assert socket.gethostname() not in text
    if len(getpass.getuser()) > 4:  # 'root' is in many words
        assert getpass.getuser() not in text


def test_without_git_the_commit_is_left_out(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_state() == {"commit": None, "dirty": None}
    assert "mlflow.source.git.commit" not in describe_environment()[0]


def test_changed_files_make_the_state_dirty(monkeypatch) -> None:
    answers = {"rev-parse": "abc", "status": " M bratsml/cli.py"}
    monkeypatch.setattr(environment, "_git", lambda *arguments: answers[arguments[0]])
    assert git_state() == {"commit": "abc", "dirty": True}
    answers["status"] = ""
    assert git_state() == {"commit": "abc", "dirty": False}


def test_system_metrics_are_sampled_and_go_on_from_a_step() -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    metrics = SystemMetrics(lambda values, step: seen.append((step, values)), 7, 0.02)
    metrics.start()
    time.sleep(0.15)
    metrics.stop()
    steps = [step for step, _ in seen]
    assert steps == list(range(7, 7 + len(seen)))
    assert len(seen) >= 2
    values = seen[-1][1]
    assert 0 <= values["system/cpu_utilization_percentage"] <= 100
    assert 0 < values["system/system_memory_usage_percentage"] <= 100
    assert values["system/process_memory_usage_megabytes"] > 1
    metrics.stop()  # again does nothing
