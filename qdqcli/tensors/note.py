"""Notes on an input for its user, as data: the kinds and their message texts."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from textwrap import wrap
from typing import NamedTuple, Self

from qdqcli.escape import escape_name

MAX_NAMES = 10
"""Maximum number of names stored in a note; `num_names` counts all."""

_NAMES_SHOWN = 3
_NAME_LIMIT = 60
_PROSE_WIDTH, _PROSE_LINES = 100, 8


class NoteKind(StrEnum):
    """Kinds of notes."""

    LEFT_OUT = "left-out"
    """A folder that is not part of a checkpoint; not copied."""
    UNREAD = "unread"
    """A weight file whose format or location is not read: copied unchanged."""
    UNLISTED = "unlisted"
    """A weight file that the index beside it does not list: processed like the others."""
    UNINDEXED = "unindexed"
    """Tensors (`names`) of a shard that the index does not list: processed like the others."""
    SUPERSEDED = "superseded"
    """Tensors (`names`) of a shard that the index assigns to another shard (`other`): copied unchanged."""
    STALE = "stale"
    """A second complete checkpoint beside the listed shards (`other`: their index, or the first of them)."""
    INCOMPLETE = "incomplete"
    """A shard whose sibling shards (`names`) are missing, with no index to explain it."""
    LINK = "link"
    """A followed link that leaves the checkpoint, to `other`."""
    SIMULATED = "simulated"
    """The `qdq.json` of an earlier run's output: not copied, OUTPUT gets its own."""
    FAILED = "failed"
    """An input of a batch that failed, for the reason `other`; the others were worked on."""
    NOT_PACKED = "not-packed"
    """A folder whose configuration declares a quantization (`other`) of which no weight is stored."""
    UNNAMED_DTYPE = "unnamed-dtype"
    """Arrays (`names`) of unnamed 2-byte elements, or of 16-bit integers only, which may be bfloat16."""


class Note(NamedTuple):
    """A note on one file or folder of an input."""

    kind: NoteKind
    file: str
    """Path as the user knows it: INPUT and the name in it."""
    names: tuple[str, ...] = ()
    """The first `MAX_NAMES` tensors or files concerned, if not `file` itself."""
    num_names: int = 0
    """Total number of names."""
    other: str | None = None
    """The file that `file` is compared with."""

    @classmethod
    def of(cls, kind: NoteKind, file: str, names: Sequence[str] = (), other: str | None = None) -> Self:
        """Create the note on all of `names`."""
        return cls(kind, file, tuple(names[:MAX_NAMES]), len(names), other)

    @property
    def is_warning(self) -> bool:
        """True if the figures or the output may not be those of the intended checkpoint."""
        return self.kind in (NoteKind.STALE, NoteKind.INCOMPLETE, NoteKind.FAILED, NoteKind.NOT_PACKED)

    def text(self, quote: Callable[[str], str] = lambda name: f"'{escape_name(name, _NAME_LIMIT)}'") -> str:
        """Return the message without the file's name; `quote` formats the names."""
        names = ", ".join(map(quote, self.names[:_NAMES_SHOWN]))
        if self.num_names > _NAMES_SHOWN:
            names += f" and {self.num_names - _NAMES_SHOWN:,} more"
        return _SENTENCES[self.kind].format(
            names=names,
            tensors=_counted(self.num_names, "tensor"),
            shards=_counted(self.num_names, "shard"),
            arrays=_counted(self.num_names, "array"),
            other=quote(self.other or ""),
            reason=quoted_prose(self.other or "", quote),
        )


_SENTENCES = {
    NoteKind.LEFT_OUT: "not copied: not part of a checkpoint",
    NoteKind.UNREAD: "copied as it is, tensors in it are not quantized",
    NoteKind.UNLISTED: "not named by the index; its tensors are processed like the others",
    NoteKind.UNINDEXED: "{tensors} not named by the index, processed like the others: {names}",
    NoteKind.SUPERSEDED: "{tensors} not quantized, which the index takes from {other}: {names}",
    NoteKind.STALE: "a whole checkpoint beside shards ({other}): transformers loads this file, loaders that go by "
    "the index (vLLM, diffusers) load the shards; both are processed; remove the one that is not meant",
    NoteKind.INCOMPLETE: "{shards} of the same checkpoint missing: {names}; no index lists them, so the download may "
    "be incomplete",
    NoteKind.LINK: "a link leads out of the checkpoint, to {other}; followed",
    NoteKind.SIMULATED: "not copied: the input was written by qdq run, its values are quantized already",
    NoteKind.FAILED: "failed: {reason}",
    NoteKind.NOT_PACKED: "its configuration declares {other}, but no weight is packed; loaders may refuse it "
    "or find no scales",
    NoteKind.UNNAMED_DTYPE: "copied as they are: {arrays} of unnamed or integer 2-byte elements (|V2, U16, I16); "
    "bfloat16 is stored like this: pass --dtype bf16 if they are",
}


def quoted_prose(text: str, quote: Callable[[str], str]) -> str:
    """Quote a sentence piece by piece, at most some 800 characters: `quote` would shorten it in the middle."""
    return " ".join(map(quote, wrap(text, _PROSE_WIDTH, max_lines=_PROSE_LINES, placeholder=" ...")))


def note_to_json(note: Note) -> dict[str, object]:
    """One entry of `notes` in a report."""
    return {
        "kind": str(note.kind),
        "severity": "warning" if note.is_warning else "note",
        "file": note.file,
        **({"names": list(note.names), "num_names": note.num_names} if note.names else {}),
        **({} if note.other is None else {"other": note.other}),
        "message": note.text(),
    }


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + "s" * (number != 1)
