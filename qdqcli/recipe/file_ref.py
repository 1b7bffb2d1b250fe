"""FileRef: the file of a tensor, and the FILE of a pattern `FILE#NAME` that tells tensors of one name apart."""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

SEPARATOR = "#"
_SEPARATION = re.compile(r"(?<!\[)#|#(?!\])")


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
    """FILE, where the pattern is FILE#NAME, and the pattern on the name; `[#]` separates nothing."""
    found = None if pattern.startswith("re:") else _SEPARATION.search(pattern)
    if found is None or not pattern[: found.start()] or not pattern[found.end() :]:
        return None, pattern
    return pattern[: found.start()], pattern[found.end() :]


def qualified(file: str, name: str) -> str:
    """The pattern, or the key of a ranges file, for a tensor of that file."""
    return f"{file}{SEPARATOR}{name}"


def keys_of(name: str, file: FileRef) -> Iterator[str]:
    """What may stand for the tensor in a ranges file, the most particular first."""
    for spelling in reversed([*file.spellings]):
        yield qualified(spelling, name)
    yield name


def key_among(name: str, file: FileRef, files: Sequence[FileRef]) -> str:
    """The shortest key for a tensor of one of the `files` that have that name."""
    if len(files) == 1:
        return name
    others = {spelling for other in files if other != file for spelling in other.spellings}
    spelling = next((spelling for spelling in file.spellings if spelling not in others), file.path)
    return qualified(spelling, name)


@lru_cache(maxsize=4096)
def matches_file(glob: str, file: FileRef) -> bool:
    """Whether the glob matches the file or a folder of it, within INPUT or with the path before that."""
    return any(fnmatchcase(spelling, glob) for spelling in (*file.spellings, *file.folders))
