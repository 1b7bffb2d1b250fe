"""Decisions about every tensor, from headers alone."""
