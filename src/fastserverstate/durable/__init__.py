"""State that survives restarts, in a file on this machine."""
