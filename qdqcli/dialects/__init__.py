"""Recipes of other tools: written from a recipe, and read as one."""
