from __future__ import annotations

import pytest
import torch

from bratsml.ensembling.ensemble import average


def test_mean_of_probabilities_by_hand() -> None:
    members = [torch.full((1, 1, 1, 1), p) for p in (0.2, 0.5, 0.8)]
    assert average(members, "probabilities", exclusive=False).item() == pytest.approx(0.5)


def test_mean_of_logits_by_hand() -> None:
    # logit(0.5) = 0 and logit(0.8) = ln 4; sigmoid(ln 2) = 2 / 3
    members = [torch.full((1, 1, 1, 1), p) for p in (0.5, 0.8)]
    assert average(members, "logits", exclusive=False).item() == pytest.approx(2 / 3)


def test_mean_of_class_logits_is_the_normalised_geometric_mean() -> None:
    a, b = torch.tensor([0.9, 0.1]), torch.tensor([0.5, 0.5])
    # sqrt(.9 * .5) : sqrt(.1 * .5) = 3 : 1
    mean = average([x.reshape(2, 1, 1, 1) for x in (a, b)], "logits", exclusive=True)
    assert mean.ravel().tolist() == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize("kind", ["probabilities", "logits"])
@pytest.mark.parametrize("exclusive", [True, False])
def test_equal_members_give_themselves(kind, exclusive: bool) -> None:
    one = torch.rand((3, 2, 2, 2), generator=torch.Generator().manual_seed(0)).softmax(0)
    assert torch.allclose(average([one, one, one], kind, exclusive), one, atol=1e-5)


def test_members_are_not_changed_and_must_have_one_shape() -> None:
    one, other = torch.zeros((1, 1, 1, 1)), torch.ones((1, 1, 1, 1))
    average([one, other], "probabilities", exclusive=False)
    assert one.item() == 0
    with pytest.raises(ValueError, match="differ in shape"):
        average([one, torch.ones((1, 1, 1, 2))], "probabilities", exclusive=False)
    with pytest.raises(ValueError, match="nothing"):
        average([], "probabilities", exclusive=False)
