"""These tests are for `python -m tests.simulator`; everywhere else they are not collected."""

import os

collect_ignore_glob = [] if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1" else ["test_*.py"]
