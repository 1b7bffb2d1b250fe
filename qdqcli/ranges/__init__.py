"""How a range is chosen when none is given."""
