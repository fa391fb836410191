"""Searching settings: spaces, studies, and what fits into memory. The one door to optuna."""
