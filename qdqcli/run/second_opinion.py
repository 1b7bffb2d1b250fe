"""Check of a written file with the safetensors library, independent of our own reader."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

from qdqcli.escape import escape_name
from qdqcli.interrupt import Interruption
from qdqcli.run.digest import VerificationError
from qdqcli.tensors.checkpoint import Shard
from qdqcli.tensors.remote_path import RemotePath
from qdqcli.tensors.storage import InputFile


def check_with_library(path: Path, shard: Shard, interruption: Interruption) -> None:
    """Open the file at `path` with the library and compare its header with that of `shard`, which it replaces.

    Of a remote file it gets a copy of the header, with zeros for the data.

    Names, dtypes and shapes are compared; the library checks offsets and size by itself. No data is read: NumPy lacks
    some of the dtypes.

    Raises:
        VerificationError: the library refuses the file, or finds another tensor in it.
    """
    try:
        with _local(path, shard) as own, safe_open(own, framework="np") as file:
            names = set(file.keys())
            for tensor in shard.tensors:
                interruption.check()
                if tensor.name not in names:
                    raise VerificationError(path, f"tensor '{escape_name(tensor.name)}' is missing for safetensors")
                found = file.get_slice(tensor.name)
                if (found.get_dtype(), tuple(found.get_shape())) != (tensor.dtype.name, tensor.shape):
                    raise VerificationError(path, f"tensor '{escape_name(tensor.name)}' is another for safetensors")
            if len(names) > len(shard.tensors):
                raise VerificationError(path, f"safetensors finds {len(names)} tensors, not {len(shard.tensors)}")
    except (SafetensorError, OSError) as error:
        raise VerificationError(path, f"the safetensors library refuses it ({escape_name(str(error))})") from error


@contextmanager
def _local(path: Path, shard: Shard) -> Iterator[Path]:
    """Yield a file of this machine with the header, which the library reads, and the size of the file at `path`."""
    if not isinstance(path, RemotePath):
        yield path
        return
    with InputFile(path) as source, tempfile.NamedTemporaryFile(suffix=path.suffix) as copy:
        copy.write(source.read(0, min(tensor.start for tensor in shard.tensors) if shard.tensors else source.size))
        copy.truncate(source.size)
        copy.flush()
        yield Path(copy.name)
