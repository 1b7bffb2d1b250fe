"""The CPU back end: loops over elements in memory and in files."""
