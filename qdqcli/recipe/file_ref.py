"""FileRef: the file of a tensor, and the FILE of a pattern `FILE::NAME` that tells tensors of one name apart."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

SEPARATOR = "::"


class FileRef(NamedTuple):
    """The file of a tensor."""

    path: str
    """INPUT and the file in it, as reports show it, with forward slashes."""
    depth: int = 1
    """The components of the path that lie within INPUT; 1 where INPUT is a file."""

    @classmethod
    def within(cls, path: str, inputs: Sequence[str]) -> "FileRef":
        """The file of a report's row, whose report has these inputs."""
        prefixes = [len(found) + 1 for found in inputs if path.startswith(f"{found.rstrip('/')}/")]
        return cls(path, path[max(prefixes) :].count("/") + 1 if prefixes else 1)

    @property
    def relative(self) -> str:
        """The path within INPUT: the same wherever the checkpoint lies."""
        return "/".join(self.path.split("/")[-self.depth :])

    @property
    def spellings(self) -> Iterator[str]:
        """What may stand for the file, the shortest first: the path within INPUT, then more of the path before it."""
        parts = self.path.split("/")
        for start in range(len(parts) - self.depth, -1, -1):
            yield "/".join(parts[start:])

    @property
    def folders(self) -> Iterator[str]:
        """The folders within INPUT that hold the file, each in all spellings."""
        for spelling in self.spellings:
            parts = spelling.split("/")
            for stripped in range(1, self.depth):
                yield "/".join(parts[:-stripped])


def split_pattern(pattern: str) -> tuple[str | None, str]:
    """FILE, where the pattern is FILE::NAME, and the pattern on the name."""
    file, separator, name = pattern.partition(SEPARATOR)
    return (file, name) if separator and file and name and not pattern.startswith("re:") else (None, pattern)


def qualified(file: str, name: str) -> str:
    """The pattern, or the key of a ranges file, for a tensor of that file."""
    return f"{file}{SEPARATOR}{name}"


@lru_cache(maxsize=4096)
def matches_file(glob: str, file: FileRef) -> bool:
    """Whether the glob matches the file or a folder of it, within INPUT or with the path before that."""
    return any(fnmatchcase(spelling, glob) for spelling in (*file.spellings, *file.folders))
