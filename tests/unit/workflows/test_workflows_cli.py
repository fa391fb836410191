"""The command line as a user meets it, as far as no training is needed."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from bratsml import cli

COMMANDS = [
    "preprocess",
    "train",
    "cv",
    "ensemble",
    "predict",
    "compare",
    "tune-postprocess",
    "missing-modalities",
    "soup",
    "sweep",
    "memory",
    "phantom",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command: str) -> None:
    code = (
        f"import sys; sys.argv = ['bratsml', '{command}', '--help']\n"
        "from bratsml import cli\n"
        "try: cli.main()\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "heavy = {'torch', 'mlflow', 'monai', 'pandas', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 10  # only a hang fails this: speed is not tested here


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cv", "--model", "unett"], "did you mean 'unet'"),
        (["cv", "--model", "unet", "--folds", "two"], "folds must be a whole number"),
        (["cv", "--set", "optim.lrr=1"], "unknown setting 'optim.lrr'; did you mean 'optim.lr'"),
        (["train", "--set", "train.epochs=many"], "train.epochs"),
        (["train", "--model", "unet", "--experiment", "experiments/unet.yaml"], "not both"),
        (["cv", "--set", "optim.lr='1e-3; cmd'"], "optim.lr"),
        (["predict"], "data=FOLDER"),
        (["memory", "--budget", "much"], "budget must be an amount of memory such as 8GB"),
        (["memory", "--model", "unett"], "did you mean 'unet'"),
        (["memory", "--model", "swinunetr", "--set", "loader.patch=[80,96,96]"], "multiples of 32"),
        (["compare", "abc"], "two different runs or more"),
    ],
)
def test_what_a_user_can_cause_is_one_sentence(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["bratsml", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1


def test_a_process_ends_with_the_sentence_and_exit_code_1() -> None:
    command = [sys.executable, "-m", "bratsml.cli", "cv", "--model", "unett"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "did you mean 'unet'" in done.stderr
    assert "Traceback" not in done.stderr
