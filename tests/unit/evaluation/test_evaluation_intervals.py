from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bratsml.evaluation.intervals import bootstrap_mean


def test_agrees_with_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(0).normal(size=30)
    ours = bootstrap_mean(values, seed=1)
    peer = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours == pytest.approx((peer.low, peer.high), abs=0.02)


def test_same_seed_same_interval_and_few_cases_do_not_break_it() -> None:
    values = np.array([0.1, 0.9, 0.4])
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(np.array([0.7]), seed=0) == (0.7, 0.7)
    assert np.isnan(bootstrap_mean(np.array([]), seed=0)).all()
