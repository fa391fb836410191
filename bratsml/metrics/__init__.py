"""Scores of one mask against another: arrays in, numbers out."""
