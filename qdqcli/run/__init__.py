"""Runs: from a checkpoint and a recipe to results."""
