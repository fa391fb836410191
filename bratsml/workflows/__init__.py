"""One function per entry point."""
