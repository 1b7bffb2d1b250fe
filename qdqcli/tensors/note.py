"""Remarks on an input that its user should know of, as data: the kinds, and the sentence of each."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Self

from qdqcli.escape import escape_name

MAX_NAMES = 10
"""Names that a note holds; it counts all."""

_NAMES_SHOWN = 3
_NAME_LIMIT = 60


class NoteKind(StrEnum):
    """What was noticed."""

    LEFT_OUT = "left-out"
    """A folder that is not part of a checkpoint and not copied."""
    UNREAD = "unread"
    """A file of weights in a format, or in a place, that is not read: copied as it is."""
    UNLISTED = "unlisted"
    """A file of weights beside an index that does not name it: processed like the others."""
    UNINDEXED = "unindexed"
    """Tensors (`names`) of a shard that the index does not name: processed like the others."""
    SUPERSEDED = "superseded"
    """Tensors (`names`) of a shard that the index takes from another one (`other`): copied as they are."""
    STALE = "stale"
    """A whole checkpoint beside the shards of one (`other`: their index, or the first of them)."""
    INCOMPLETE = "incomplete"
    """A shard whose siblings (`names`) are not there, and no index says that they need not be."""
    LINK = "link"
    """A link that leaves the checkpoint, to `other`, and was followed."""
    SIMULATED = "simulated"
    """The `qdq.json` of a folder that a run wrote: not copied, OUTPUT gets its own."""
    UNNAMED_DTYPE = "unnamed-dtype"
    """Arrays (`names`) of unnamed 2-byte elements, or of 16-bit integers and nothing else, which may be bfloat16."""


class Note(NamedTuple):
    """One remark on one file or folder of an input."""

    kind: NoteKind
    file: str
    """As the user finds it: INPUT and the name in it."""
    names: tuple[str, ...] = ()
    """The first `MAX_NAMES` tensors or files that it is about, where these are others than `file`."""
    num_names: int = 0
    """How many there are in all."""
    other: str | None = None
    """The file that `file` is held against."""

    @classmethod
    def of(cls, kind: NoteKind, file: str, names: Sequence[str] = (), other: str | None = None) -> Self:
        """The note on all of `names`."""
        return cls(kind, file, tuple(names[:MAX_NAMES]), len(names), other)

    @property
    def is_warning(self) -> bool:
        """Whether the figures, or the output, may not be those of the checkpoint that was meant."""
        return self.kind in (NoteKind.STALE, NoteKind.INCOMPLETE)

    def text(self, quote: Callable[[str], str] = lambda name: f"'{escape_name(name, _NAME_LIMIT)}'") -> str:
        """What is to be said of the file, without its name; names are shown as `quote` makes them."""
        names = ", ".join(map(quote, self.names[:_NAMES_SHOWN]))
        if self.num_names > _NAMES_SHOWN:
            names += f" and {self.num_names - _NAMES_SHOWN:,} more"
        return _SENTENCES[self.kind].format(
            names=names,
            tensors=_counted(self.num_names, "tensor"),
            shards=_counted(self.num_names, "shard"),
            arrays=_counted(self.num_names, "array"),
            other=quote(self.other or ""),
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
    NoteKind.UNNAMED_DTYPE: "copied as they are: {arrays} of unnamed or integer 2-byte elements (|V2, U16, I16); "
    "bfloat16 is stored like this: pass --dtype bf16 if they are",
}


def note_to_json(note: Note) -> dict[str, Any]:
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
