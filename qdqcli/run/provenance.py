"""Provenance: the files and settings that an output was made from. The text of `qdq.json`.

Two runs on the same input give the same bytes: nothing here names a time, a machine or a folder above the input.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from numpy.typing import ArrayLike

from qdqcli import __version__
from qdqcli.errors import UsageError
from qdqcli.escape import show_path
from qdqcli.measure.workers import Workers
from qdqcli.output.marker import listed, read_marker
from qdqcli.output.tree import OutputTree, entry_name
from qdqcli.plain import JsonObject
from qdqcli.result.result import SCHEMA_VERSION
from qdqcli.run.digest import FileDigest, digest_input, digest_output
from qdqcli.run.distribute import Distribution
from qdqcli.run.fingerprint import digest_of_ranges, first_change
from qdqcli.run.shard import OnBytes
from qdqcli.tensors.checkpoint import Checkpoint

_RECIPE = ("recipe", "presets", "rules")
_FILES = ("recipe", "ranges")
"""Settings that are paths: only the file name is kept, the folders are private to the user."""
Digests = Mapping[Path, FileDigest]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Facts known before the work. `inputs` may hold more than the plans' inputs."""

    command: str
    inputs: Sequence[Checkpoint]
    decisions: Sequence[str]
    """Hash of the decisions on each shard, see `digests_of_decisions`."""
    settings: Mapping[str, object]
    """Settings as in a report."""
    ranges: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None
    """Ranges from `--ranges`."""
    distribution: Distribution | None = None
    """Where files are hashed; None: here."""

    def text(
        self,
        output: OutputTree,
        digests: Digests,
        summary: Mapping[str, object],
        workers: Workers,
        on_bytes: OnBytes = lambda _: None,
    ) -> str:
        """Return ASCII JSON that records how the output, whose files have these digests, was made.

        Raises:
            InputError: an input cannot be read.
        """
        made = {"inputs": self._inputs(workers, on_bytes), "outputs": _outputs(output, digests)}
        return json.dumps(self._head() | made | {"summary": dict(summary)}, indent=1, allow_nan=False) + "\n"

    def recognises(self, output: OutputTree, workers: Workers) -> bool:
        """Tell whether OUTPUT is the result of this run, to the last byte of every file, judged by its provenance file.

        Raises:
            InputError: an input cannot be read.
            VerificationError: OUTPUT cannot be read.
        """
        found = read_marker(output.provenance_path)
        if found is None or any(found.get(key) != value for key, value in self._head().items()):
            return False
        if found.get("inputs") != self._inputs(workers):
            return False
        outputs = _outputs(output, digest_output(output.output, output.names, workers, distribution=self.distribution))
        return bool(found["outputs"] == outputs)

    def check_settings(self, output: OutputTree) -> None:
        """Check that an OUTPUT whose provenance file is there was made with these settings.

        Raises:
            UsageError: it was not; names the first that differs.
        """
        found = read_marker(output.provenance_path)
        head = self._head()
        if found is None or found.get("decisions_sha256") == head["decisions_sha256"]:
            return
        changed = first_change(found.get("settings") or {}, head["settings"])
        raise UsageError(
            f"{show_path(output.output)}: was made with other settings: {changed or 'its rules are others'}; choose "
            "another OUTPUT, or pass --overwrite to replace it"
        )

    def _head(self) -> JsonObject:
        """Return everything that is known without reading whole files."""
        settings = {name: _shown(name, value) for name, value in self.settings.items() if name != "ranges_digest"}
        recipe = {name: settings.pop(name) for name in _RECIPE if name in settings}
        return {
            "schema_version": SCHEMA_VERSION,
            "tool": {"name": "qdq", "version": __version__},
            "command": self.command,
            "simulated": self.command != "decode",
            "settings": settings,
            "recipe": recipe or None,
            "ranges_sha256": None if self.ranges is None else digest_of_ranges(self.ranges),
            "decisions_sha256": hashlib.sha256("".join(self.decisions).encode()).hexdigest(),
        }

    def _inputs(self, workers: Workers, on_bytes: OnBytes = lambda _: None) -> list[dict[str, object]]:
        return [
            {
                "name": listed(Path(entry_name(checkpoint))),
                "files": {
                    listed(name): digest._asdict()
                    for name, digest in digest_input(checkpoint, workers, on_bytes, self.distribution).items()
                },
            }
            for checkpoint in self.inputs
        ]


def _shown(setting: str, value: object) -> object:
    """Return a JSON value: a file by its name, non-finite numbers as null."""
    if setting in _FILES and value is not None:
        return listed(Path(Path(str(value)).name))
    return None if isinstance(value, float) and not isfinite(value) else value


def _outputs(output: OutputTree, digests: Digests) -> dict[str, object]:
    return {
        listed(name if output.is_folder else Path(output.output.name)): digest._asdict()
        for name, digest in digests.items()
    }
