"""Shards of one or more checkpoints, opened when they are first needed and closed together."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from threading import Lock

from qdqcli.tensors.checkpoint import Shard, ShardReader


class OpenShards(ExitStack):
    """Readers by shard; safe for use from several threads. `close` raises where a file has changed meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = Lock()
        self._readers: dict[str, ShardReader] = {}

    def reader_of(self, shard: Shard) -> ShardReader:
        """Return the reader of the shard; opens it the first time."""
        file = str(shard.path)  # hashing the shard itself would hash all its tensors
        with self._lock:
            if file not in self._readers:
                self._readers[file] = self.enter_context(shard.open())
            return self._readers[file]

    def by_name(self, shards: Mapping[str, Shard]) -> Callable[[str], ShardReader]:
        """Return `reader_of` for the names of one checkpoint's shards."""
        return lambda name: self.reader_of(shards[name])
