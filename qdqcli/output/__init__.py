"""OUTPUT: placement checks, locks and atomic creation."""
