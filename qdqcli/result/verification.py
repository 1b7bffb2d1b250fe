"""Verification of a written output that was read back, as plain data in a report."""

from collections.abc import Mapping
from dataclasses import dataclass

from qdqcli.plain import Parsed


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Every byte of an output was read back and equals what input and settings give."""

    num_bytes: int
    digests: Mapping[str, str]
    """SHA-256 of each file, by its name in OUTPUT (a single file's own name)."""
    num_opened_by_safetensors: int = 0
    """Number of files in which the safetensors library found the same tensors."""


def verification_to_json(verification: Verification) -> dict[str, object]:
    """Return the key `verification` of a report."""
    return {
        "num_files": len(verification.digests),
        "num_bytes": verification.num_bytes,
        "num_opened_by_safetensors": verification.num_opened_by_safetensors,
        "sha256": dict(verification.digests),
    }


def verification_from_json(data: Parsed) -> Verification:
    """Parse the output of `verification_to_json`; raises `KeyError`, `TypeError` or `ValueError` for other data."""
    digests = {str(name): str(digest) for name, digest in dict(data["sha256"]).items()}
    return Verification(
        num_bytes=int(data["num_bytes"]),
        digests=digests,
        num_opened_by_safetensors=int(data.get("num_opened_by_safetensors", 0)),
    )
