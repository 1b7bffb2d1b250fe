"""May it pass: budgets, baselines and the verdict on a run."""
