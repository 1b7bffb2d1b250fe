"""Benchmarks of speed and memory; not tests."""
