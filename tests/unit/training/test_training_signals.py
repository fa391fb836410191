"""Signals to a real process: it saves, says so, and goes on as if never stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from bratsml.training.signals import listening

PROGRAM = """
import sys, time
from pathlib import Path
import torch
from torch import nn
from tiny_training import NumberedLoader, RecordingTracker, TinyNet, score_of
from bratsml.compute.device import ComputeConfig
from bratsml.training.checkpoint import CheckpointFolder
from bratsml.training.hooks import Hook
from bratsml.training.loop import fit
from bratsml.training.optim import OptimConfig
from bratsml.training.schedule import ScheduleConfig
from bratsml.training.settings import TrainConfig

folder, out, slow = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "slow"

class Slow(Hook):
    def on_step(self, step, loss):
        print("step", flush=True)
        time.sleep(0.5 if slow else 0)

torch.manual_seed(0)
model = TinyNet()
result = fit(model=model, loss=nn.BCEWithLogitsLoss(), target_of=lambda label: label.float(),
    loader=NumberedLoader(), validate=score_of, optim=OptimConfig(lr=0.01),
    schedule=ScheduleConfig(), config=TrainConfig(epochs=2, profile={"active": 0}),
    compute=ComputeConfig(device="cpu"), checkpoints=CheckpointFolder(folder),
    tracker=RecordingTracker(), hooks=[Slow()], config_tree={})
torch.save(model.state_dict(), out)
print(result.stopped_by, flush=True)
"""


def start(folder: Path, out: Path, speed: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(out), speed],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_stopped_process_goes_on_bit_for_bit(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path / "parts", tmp_path / "parts.pt", "slow")
    for _ in range(3):
        assert process.stdout.readline() == "step\n"
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert output.splitlines()[-1] == "signal"
    assert process.returncode == 0
    for name in ("parts", "whole"):
        done, _ = start(tmp_path / name, tmp_path / f"{name}.pt", "fast").communicate(timeout=60)
        assert done.splitlines()[-1] == "epochs"
    parts, whole = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("parts", "whole"))
    assert all(torch.equal(parts[name], whole[name]) for name in whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_becomes_a_request_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with listening() as request:
        assert not request.asked
        os.kill(os.getpid(), number)
        assert request.asked
    assert signal.getsignal(number) is before


def test_the_second_interrupt_aborts() -> None:
    with listening() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_main_thread_nothing_is_heard_and_nothing_breaks() -> None:
    heard: list[bool] = []

    def work() -> None:
        with listening() as request:
            heard.append(request.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [False]
