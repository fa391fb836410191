"""Reliability by hand."""

from __future__ import annotations

import numpy as np
import pytest

from bratsml.metrics.calibration import NUM_BINS, Reliability


def test_two_bins_by_hand():
    reliability = Reliability()
    # four voxels at .8 of which three are right, two at .2 of which none is
    reliability.add(np.array([0.81, 0.81, 0.81, 0.81]), np.array([True, True, True, False]))
    reliability.add(np.array([0.21, 0.21]), np.array([False, False]))
    upper, lower = int(0.81 * NUM_BINS), int(0.21 * NUM_BINS)
    assert reliability.accuracy[upper] == pytest.approx(0.75)
    assert reliability.confidence[upper] == pytest.approx(0.81)
    assert reliability.accuracy[lower] == 0
    assert np.isnan(reliability.accuracy[0])
    assert reliability.error() == pytest.approx((4 * 0.06 + 2 * 0.21) / 6)
    assert reliability.error(first_bin=lower + 1) == pytest.approx(0.06)


def test_a_calibrated_network_has_no_error():
    rng = np.random.default_rng(0)
    probabilities = rng.random(400_000)
    reliability = Reliability()
    reliability.add(probabilities, rng.random(400_000) < probabilities)
    assert reliability.error() < 0.01


def test_certainty_is_in_the_last_bin_and_nothing_is_nan():
    reliability = Reliability()
    reliability.add(np.ones((2, 2)), np.ones((2, 2), bool))
    assert reliability.counts[-1] == 4
    assert reliability.error() == 0
    assert np.isnan(Reliability().error())


def test_what_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        Reliability().add(np.array([1.5]), np.array([True]))
    with pytest.raises(ValueError, match="between 0 and 1"):
        Reliability().add(np.array([np.nan]), np.array([True]))
    with pytest.raises(ValueError, match="differ"):
        Reliability().add(np.zeros(2), np.zeros(3, bool))
