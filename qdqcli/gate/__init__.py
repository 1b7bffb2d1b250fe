"""Quality gate: budgets, baselines and the verdict on a run."""
