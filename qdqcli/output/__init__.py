"""OUTPUT: where it may be written, how it appears, who may write it."""
