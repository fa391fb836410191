"""Our attention kernels compile for the GPUs that people have; no GPU is needed for that."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bratsml.models.attention.triton_op import TILES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="is about the compiler"),
]
AMPERE, ADA, HOPPER = 80, 89, 90
NUMBERS = {"qkv", "out", "grad_out", "grad_qkv"}
FLOATS = {"table", "logsumexp", "row_sum", "grad_bias", "grad_table"}
WHOLE_NUMBERS = {"place", "side", "border", "token"}
KERNELS = (
    "forward_kernel",
    "query_gradient_kernel",
    "key_gradient_kernel",
    "bias_gradient_kernel",
    "table_gradient_kernel",
)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    ("capability", "kind", "channels", "dropout"),
    [(HOPPER, "bf16", 16, False), (ADA, "fp32", 8, False), (AMPERE, "fp16", 8, True)],
)
def test_compiles_without_spilling_registers(
    name: str, capability: int, kind: str, channels: int, dropout: bool, tmp_path: Path
) -> None:
    tiles = TILES[0]
    queries, keys = tiles.own, tiles.loop
    if name == "key_gradient_kernel":
        queries, keys = keys, queries
    constants = {
        "N": 343, "D": channels, "BLOCK_D": 16, "BLOCK_Q": queries, "BLOCK_K": keys, "BLOCK_T": 32,
        "SHIFTED": True, "DROPOUT": dropout, "PRECISION": "tf32x3" if kind == "fp32" else "tf32",
    }  # fmt: skip
    compiled = compile_for(name, capability, kind, constants, tiles.warps)
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    assert spilled_bytes(cubin) == 0


def compile_for(
    name: str, capability: int, kind: str, constants: dict[str, Any], warps: int
) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from bratsml.models.attention import triton_kernels

    kernel = getattr(triton_kernels, name)
    signature: dict[str, str] = {}
    for argument in kernel.arg_names:
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument in NUMBERS | FLOATS | WHOLE_NUMBERS:
            element = "fp32" if argument in FLOATS else "i32"
            signature[argument] = "*" + (kind if argument in NUMBERS else element)
        else:
            signature[argument] = "fp32" if argument in ("scale", "dropout") else "i32"
    fixed = {
        (place,): constants[argument]
        for place, argument in enumerate(kernel.arg_names)
        if argument in constants
    }
    source = ASTSource(kernel, signature, fixed)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": warps})


def spilled_bytes(cubin: Path) -> int:
    """Stack that a kernel needs because it is out of registers, as the CUDA tools tell."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    told = subprocess.run(
        [tool, "--dump-resource-usage", cubin], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"STACK:(\d+)", told)
    assert found, told
    return int(found[1])
