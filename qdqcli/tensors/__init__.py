"""Checkpoint formats: names, dtypes, shapes and bytes of tensors; no value is converted here."""
