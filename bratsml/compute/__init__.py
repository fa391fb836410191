"""Where the work runs: device, precision, and the launchers of folds."""
