"""Averaging probabilities of several trained networks."""
