"""Studies over many settings: sweep, plan, diagnose."""
