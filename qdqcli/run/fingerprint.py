"""Fingerprint of a run's input and settings: a run resumes another only if their fingerprints are equal."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from qdqcli import __version__
from qdqcli.escape import escape, escape_name
from qdqcli.plain import Parsed
from qdqcli.recipe.plan import Plan
from qdqcli.run.pipeline import Measuring
from qdqcli.tensors.input_file import FileIdentity

Fingerprint = Parsed
"""JSON values; the settings by name, the files by input and name."""

FORM = 2
"""Version of fingerprints and journals; other versions are not read. 2: sums of float32 terms, see
`docs/exactness.md`.
"""

_NAMES = ("ranges", "ranges_digest", "recipe", "rules")
"""Settings that name files, which may be renamed: only their content counts."""
_AT_ONCE = 1024
"""Decisions hashed by one call: texts of 200 kB, where a file may hold half a million tensors."""


def fingerprint_of(
    plans: Sequence[Plan],
    decisions: Sequence[str],
    settings: Mapping[str, object],
    measuring: Measuring,
) -> Fingerprint:
    """Return everything that the output and the statistics depend on.

    `decisions` are those of `digests_of_decisions`, `settings` the JSON values that a report names.

    Raises:
        InputError: a file cannot be read.
    """
    checkpoints = {id(plan.checkpoint): plan.checkpoint for plan in plans}
    number = {key: i for i, key in enumerate(checkpoints, 1)}
    return {
        "form": FORM,
        "version": __version__,
        "settings": {
            **{name: value for name, value in settings.items() if name not in _NAMES},
            "per_channel": measuring.per_slice,
        },
        "ranges": None if measuring.ranges is None else digest_of_ranges(measuring.ranges),
        "shards": {
            f"{number[id(plan.checkpoint)]}/{plan.shard.name}": {
                **_identity(plan.shard.identity),
                "header": plan.shard.header_digest(),
                "decisions": digest,
            }
            for plan, digest in zip(plans, decisions, strict=True)
        },
        "side_files": {
            f"{number[key]}/{side_file.name}": _identity(side_file.identity())
            for key, checkpoint in checkpoints.items()
            for side_file in checkpoint.side_files
        },
    }


def difference(before: Fingerprint, now: Fingerprint) -> str | None:
    """Return the first difference between two fingerprints, in words; None where they are equal."""
    if before == now:
        return None
    if before.get("version") != now["version"]:
        return f"it was made by qdq {before.get('version')}, this is {now['version']}"
    if before.get("form") != now["form"]:
        return "its statistics were added in another order"
    changed = first_change(before["settings"], now["settings"])
    if changed is not None:
        return changed
    if before["ranges"] != now["ranges"]:
        return "the ranges of --ranges are others"
    return _different_file(before, now) or "it worked on something else"


def first_change(old: Mapping[str, object], new: Mapping[str, object]) -> str | None:
    """Return the first setting that differs, in words; None where they are equal."""
    for name in [*new, *(name for name in old if name not in new)]:
        if old.get(name) != new.get(name):
            return f"{name} was {_shown(old.get(name))} and is {_shown(new.get(name))}"
    return None


def _different_file(before: Fingerprint, now: Fingerprint) -> str | None:
    for kind in ("shards", "side_files"):
        old, new = before[kind], now[kind]
        for name in [*new, *(name for name in old if name not in new)]:
            shown = f"input file '{escape_name(name.partition('/')[2])}'"
            if name not in old:
                return f"{shown} is new"
            if name not in new:
                return f"{shown} is gone"
            if old[name] != new[name]:
                same_file = {**old[name], "decisions": None} == {**new[name], "decisions": None}
                return f"what is done to the tensors of {shown} is another" if same_file else f"{shown} has changed"
    return None


def _shown(value: object) -> str:
    return "not given" if value is None else escape_name(str(value))


def _identity(identity: FileIdentity) -> dict[str, int]:
    return {"size": identity.size, "mtime_ns": identity.mtime_ns}


def digests_of_decisions(plans: Sequence[Plan]) -> list[str]:
    """Return a hash of each plan's decisions. Most tensors share one decision: each is serialized once."""
    digests: list[str] = []
    texts: dict[int, bytes] = {}
    for plan in plans:
        digest = hashlib.sha256()
        for start in range(0, len(plan.resolutions), _AT_ONCE):
            decisions = [found.decision for found in plan.resolutions[start : start + _AT_ONCE]]
            for decision in decisions:
                if id(decision) not in texts:
                    texts[id(decision)] = repr(decision).encode()
            digest.update(b"".join([texts[id(decision)] for decision in decisions]))
        digests.append(digest.hexdigest())
    return digests


def digest_of_ranges(ranges: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> str:
    """Return a hash of the ranges by tensor."""
    digest = hashlib.sha256()
    for name in sorted(ranges):
        digest.update(escape(name).encode())
        for end in ranges[name]:
            values = np.asarray(end)
            digest.update(f"{values.dtype}{values.shape}".encode() + values.tobytes())
    return digest.hexdigest()
