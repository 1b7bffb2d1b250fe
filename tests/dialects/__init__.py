"""Recipes of other tools."""
