"""Shards of one or more checkpoints, opened when they are first needed and closed together."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from threading import Lock
from types import TracebackType
from typing import Self

from qdqcli.tensors.checkpoint import Shard, ShardReader


class OpenShards:
    """Readers by shard; safe for use from several threads."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._lock = Lock()
        self._readers: dict[str, ShardReader] = {}

    def reader_of(self, shard: Shard) -> ShardReader:
        """Return the reader of the shard; opens it the first time."""
        file = str(shard.path)  # hashing the shard itself would hash all its tensors
        with self._lock:
            if file not in self._readers:
                self._readers[file] = self._stack.enter_context(shard.open())
            return self._readers[file]

    def by_name(self, shards: Mapping[str, Shard]) -> Callable[[str], ShardReader]:
        """Return `reader_of` for the names of one checkpoint's shards."""
        return lambda name: self.reader_of(shards[name])

    def close(self) -> None:
        """Close the shards; raises where a file has changed meanwhile."""
        for reader in self._readers.values():
            reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)
