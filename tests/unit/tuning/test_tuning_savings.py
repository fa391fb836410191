"""What could be changed to need less memory."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from bratsml.config import Tree, build_config
from bratsml.experiment import Experiment
from bratsml.tuning.savings import (
    apply,
    as_text,
    inference_savings,
    patch_chain,
    patches,
    savings,
    side_steps,
)


def experiment(**sections: Tree) -> Experiment:
    return build_config(Experiment, {"name": "x", **sections})


def options(found: Experiment, name: str) -> list[dict[str, Any]]:
    return [dict(o) for s in savings(found) if s.name == name for o in s.options]


def test_the_text_is_what_a_user_can_paste() -> None:
    change = {
        "loader.patch": [96, 96, 64],
        "model.checkpointing": True,
        "compute.precision": "bf16",
    }
    text = "loader.patch=[96,96,64] model.checkpointing=true compute.precision=bf16"
    assert as_text(change) == text
    changed = apply(experiment(), change)
    assert changed.loader.patch == (96, 96, 64)
    assert changed.model.checkpointing
    assert changed.compute.precision == "bf16"


def test_batches_keep_the_effective_batch() -> None:
    found = experiment(loader={"batch_size": 6}, train={"accumulate": 2})
    # divisors of 12 below 6
    assert [tuple(o.values()) for o in options(found, "smaller batches, accumulated")] == [
        (4, 3),
        (3, 4),
        (2, 6),
        (1, 12),
    ]


@pytest.mark.parametrize(
    ("model", "patch", "steps"),
    [
        ({"kind": "unet"}, [128, 64, 32], (16, 16, 16)),
        ({"kind": "swinunetr"}, [96, 96, 96], (32, 32, 32)),
        ({"kind": "unet", "channels": [4, 8], "strides": [3]}, [9, 12, 15], (3, 3, 3)),
        # five halvings of 128, five of 160, four of 112
        ({"kind": "dynunet"}, [128, 160, 112], (32, 32, 16)),
        ({"kind": "segresnet", "blocks": [1, 1, 1]}, [8, 8, 8], (4, 4, 4)),
    ],
)
def test_steps_are_found_by_asking_the_network(model: Tree, patch: list[int], steps: Any) -> None:
    found = experiment(model=model, loader={"patch": patch})
    assert side_steps(found.model.check_patch, found.loader.patch) == steps


def test_a_chain_keeps_proportions_and_never_shrinks_a_side() -> None:
    chain = patch_chain((128, 160, 112), (32, 32, 16), longest=256)
    assert (128, 160, 112) in chain
    assert len(chain) == len(set(chain))
    for smaller, larger in itertools.pairwise(chain):
        assert all(a <= b for a, b in zip(smaller, larger, strict=True))
    assert max(chain[-1]) <= 256
    for x, y, _ in chain:  # each side is at most half a step from its exact proportion
        assert abs(y - x * 160 / 128) <= 16 + 16 * 160 / 128


def test_a_cube_stays_a_cube() -> None:
    assert patch_chain((96, 96, 96), (32, 32, 32), longest=160) == [
        (32, 32, 32),
        (64, 64, 64),
        (96, 96, 96),
        (128, 128, 128),
        (160, 160, 160),
    ]


def test_patches_are_those_the_network_takes() -> None:
    found = experiment(model={"kind": "swinunetr"}, loader={"patch": [96, 96, 96]})
    # 32 cubed leaves one voxel at the deepest stage
    assert patches(found)[0] == {"loader.patch": [64, 64, 64]}
    assert options(found, "smaller patch") == [{"loader.patch": [64, 64, 64]}]


def test_a_side_that_cannot_change_stays() -> None:
    assert patch_chain((32, 32, 1), (16, 16, 0), longest=64) == [
        (16, 16, 1),
        (32, 32, 1),
        (48, 48, 1),
        (64, 64, 1),
    ]


def test_widths_by_kind_of_network() -> None:
    swin = experiment(
        model={"kind": "swinunetr", "feature_size": 36}, loader={"patch": [64, 64, 64]}
    )
    assert [o["model.feature_size"] for o in options(swin, "narrower network")] == [24, 12]
    unet = experiment(
        model={"kind": "unet", "channels": [8, 16], "strides": [2]}, loader={"patch": [8, 8, 8]}
    )
    assert [o["model.channels"] for o in options(unet, "narrower network")] == [
        [6, 12],
        [4, 8],
        [3, 6],
        [2, 4],
    ]
    mednext = experiment(model={"kind": "mednext", "width": 32}, loader={"patch": [32, 32, 32]})
    assert [o["model.width"] for o in options(mednext, "narrower network")] == [24, 16, 12, 8]


def test_what_is_saved_already_is_not_offered() -> None:
    found = experiment(
        model={"kind": "swinunetr", "checkpointing": True, "attention": "sdpa"},
        loader={"patch": [64, 64, 64]},
        compute={"precision": "bf16", "device": "cpu"},
    )
    assert [saving.name for saving in savings(found)] == ["narrower network"]


@pytest.mark.parametrize(
    ("now", "device", "offered"),
    [
        ("reference", "auto", ["sdpa", "triton"]),
        ("reference", "cpu", ["sdpa"]),
        ("auto", "auto", ["triton"]),
        ("sdpa", "auto", ["triton"]),
        ("triton", "auto", []),
        ("flex", "auto", []),
        ("auto", "cpu", []),
    ],
)
def test_leaner_attention(now: str, device: str, offered: list[str]) -> None:
    found = experiment(
        model={"kind": "swinunetr", "attention": now},
        loader={"patch": [64, 64, 64]},
        compute={"device": device},
    )
    names = [o["model.attention"] for o in options(found, "another attention backend")]
    assert names == [name for name in offered if name != now]


def test_inference_is_saved_by_fewer_and_smaller_windows() -> None:
    found = experiment(
        loader={"patch": [32, 32, 32]},
        inference={"window": [48, 48, 48], "window_batch": 3},
    )
    fewer, smaller = inference_savings(found)
    assert [o["inference.window_batch"] for o in fewer.options] == [2, 1]
    assert [o["inference.window"] for o in smaller.options] == [[32, 32, 32], [16, 16, 16]]


def test_every_option_is_an_experiment() -> None:
    for model in ("unet", "swinunetr", "mednext", "dynunet", "segresnet"):
        found = experiment(model={"kind": model}, loader={"patch": [64, 64, 64], "batch_size": 2})
        for saving in savings(found):
            for option in saving.options:
                assert apply(found, option) != found
