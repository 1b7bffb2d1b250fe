"""What measures speed and memory; no tests."""
