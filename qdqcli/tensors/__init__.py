"""Checkpoints as names, dtypes, shapes and bytes; nothing here converts a value."""
