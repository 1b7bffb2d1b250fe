"""Questions asked of many settings: sweep, plan, diagnose."""
