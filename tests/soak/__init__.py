"""The soak: the daemon on a real host for hours, under whatever brings services back. Run by `scripts/soak`."""
