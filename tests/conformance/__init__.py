"""A small, self-contained part of the golden vectors."""
