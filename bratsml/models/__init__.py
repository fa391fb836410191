"""The networks, one architecture per file with its Config."""
