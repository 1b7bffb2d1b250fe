"""Error statistics: what was lost, as sums that merge and metrics made of them."""
