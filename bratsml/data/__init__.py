"""From a folder of cases to augmented training patches."""
