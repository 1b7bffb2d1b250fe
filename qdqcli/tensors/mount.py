"""Mount points: folders, and single files in a container, that no rename can replace."""

import os
import re
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(rb"\\([0-7]{3})")


def mount_points(root: Path) -> list[Path]:
    """Return the real paths of mount points at or below `root`; without `/proc` only folders are found."""
    real = os.path.realpath(root)
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        found = [Path(real), *(Path(parent, name) for parent, folders, _ in os.walk(real) for name in folders)]
        return [path for path in found if os.path.ismount(path)]
    # Spaces, tabs, newlines and backslashes are written as `\040` and the like.
    fields = (line.split(b" ")[4] for line in lines)
    listed = (os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field)) for field in fields)
    return [Path(path) for path in listed if f"{path}/".startswith(f"{real.rstrip('/')}/")]
