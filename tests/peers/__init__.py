"""What the libraries themselves compute and read, in an environment made for it."""
