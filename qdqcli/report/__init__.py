"""Results as text. Nothing here computes."""
