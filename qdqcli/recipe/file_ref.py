"""FileRef: the file of a tensor, and the FILE of a pattern `FILE#NAME` that separates tensors of one name."""

import re
from collections.abc import Iterable, Iterator, Sequence
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
    """Number of path components within INPUT; 1 where INPUT is a file."""

    @classmethod
    def within(cls, path: str, inputs: Sequence[str]) -> "FileRef":
        """Return the file of a report's row, given the inputs of that report."""
        prefixes = [len(found) + 1 for found in inputs if path.startswith(f"{found.rstrip('/')}/")]
        return cls(path, path[max(prefixes) :].count("/") + 1 if prefixes else 1)

    @property
    def relative(self) -> str:
        """The path within INPUT, which does not depend on the checkpoint's location."""
        return "/".join(self.path.split("/")[-self.depth :])

    @property
    def spellings(self) -> Iterator[str]:
        """Yield the accepted spellings of the file, shortest first: the path within INPUT, then with more parents."""
        parts = self.path.split("/")
        for start in range(len(parts) - self.depth, -1, -1):
            yield "/".join(parts[start:])

    @property
    def folders(self) -> Iterator[str]:
        """Yield the folders within INPUT that hold the file, each in all spellings."""
        for spelling in self.spellings:
            parts = spelling.split("/")
            for stripped in range(1, self.depth):
                yield "/".join(parts[:-stripped])


def split_pattern(pattern: str) -> tuple[str | None, str]:
    """Split FILE#NAME into FILE (None where absent) and the name pattern; `[#]` does not separate."""
    found = None if pattern.startswith("re:") else _SEPARATION.search(pattern)
    if found is None or not pattern[: found.start()] or not pattern[found.end() :]:
        return None, pattern
    return pattern[: found.start()], pattern[found.end() :]


def qualified(file: str, name: str) -> str:
    """Return the pattern, or ranges file key, for a tensor of that file."""
    return f"{file}{SEPARATOR}{name}"


def keys_of(name: str, file: FileRef) -> Iterator[str]:
    """Yield the keys of a ranges file that fit the tensor, most specific first."""
    for spelling in reversed([*file.spellings]):
        yield qualified(spelling, name)
    yield name


def key_among(name: str, file: FileRef, files: Sequence[FileRef]) -> str:
    """Return the shortest key for a tensor of one of the `files` that have that name."""
    return name if len(files) == 1 else qualified(spelling_among(file, files), name)


def spelling_among(file: FileRef, files: Iterable[FileRef]) -> str:
    """Return the shortest spelling of a file that matches no other of the `files`."""
    others = {spelling for other in files if other != file for spelling in other.spellings}
    return next((spelling for spelling in file.spellings if spelling not in others), file.path)


@lru_cache(maxsize=4096)
def matches_file(glob: str, file: FileRef) -> bool:
    """Tell whether the glob matches the file or one of its folders, within INPUT or with its parent path."""
    return any(fnmatchcase(spelling, glob) for spelling in (*file.spellings, *file.folders))
