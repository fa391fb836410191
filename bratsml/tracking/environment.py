"""What a result was made with: code version, packages, machine. No user, host or folder names."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from bratsml.data.pool import usable_cores
from bratsml.files import read_end, read_text

GIT_SECONDS = 10.0
PACKAGES_IN_TAGS = ("torch", "monai", "mlflow", "numpy", "lightning-fabric")


def describe_environment() -> tuple[dict[str, str], dict[str, Any]]:
    """Tags for a run, and the same in full for ``environment.json``.

    Unknown things are left out of the tags and ``None`` in the JSON.
    """
    git, machine, versions = git_state(), hardware(), package_versions()
    tags = {
        "mlflow.source.git.commit": git["commit"],
        "bratsml.git_dirty": None if git["dirty"] is None else str(git["dirty"]).lower(),
        "version.bratsml": versions.get("bratsml"),
        "version.python": platform.python_version(),
        **{f"version.{name}": versions.get(name) for name in PACKAGES_IN_TAGS},
        "hardware.cpu": machine["cpu"],
        "hardware.cores": str(machine["cores"]),
        "hardware.ram_gb": str(machine["ram_gb"]),
        "hardware.gpu": ", ".join(machine["gpus"]) or "none",
        "hardware.gpu_driver": machine["gpu_driver"],
    }
    environment = {
        "git": git,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "hardware": machine,
        "packages": versions,
    }
    return {name: value for name, value in tags.items() if value}, environment


def git_state() -> dict[str, Any]:
    """Commit of the code in use, and whether tracked files differ from it (``None``: no git)."""
    commit = _git("rev-parse", "HEAD")
    changes = None if commit is None else _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


@lru_cache(maxsize=1)
def package_versions() -> dict[str, str]:
    """Installed version of this package and of each one it asks for."""
    names = {"bratsml", *PACKAGES_IN_TAGS}
    try:
        required = importlib.metadata.requires("bratsml") or []
        needed = [line for line in required if "extra ==" not in line]
        names |= {re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in needed}
    except importlib.metadata.PackageNotFoundError:
        pass  # the code runs from its folder without being installed
    versions = {}
    for name in sorted(names):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, memory, GPUs and their driver."""
    import psutil

    return {
        "cpu": processor(),
        "cores": usable_cores(),
        "ram_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _gpu_names(),
        "gpu_driver": _gpu_driver(),
    }


@lru_cache(maxsize=1)
def processor() -> str:
    """Model name of the processor, or the machine type where it is not told."""
    try:
        text = read_end(Path("/proc/cpuinfo"))
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _gpu_names() -> list[str]:
    # only asked of a torch that is in use anyway: importing it takes seconds
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _gpu_driver() -> str | None:
    try:
        text = read_text(Path("/proc/driver/nvidia/version"))
    except OSError:
        return None
    found = re.search(r"Kernel Module(?: for \S+)?\s+([\d.]+)", text)
    return found[1] if found else None


def _git(*arguments: str) -> str | None:
    folder = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
