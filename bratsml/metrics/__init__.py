"""Scores of one mask against another: arrays in, numbers out."""

METRIC_VERSION = "bratsml-metrics-1 (Dice; HD95 over boundary voxels)"
"""Stored with every score: numbers of different versions are not comparable."""
