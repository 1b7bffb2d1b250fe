"""Check of a written file with the safetensors library, independent of our own reader."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from qdqcli.escape import escape_name
from qdqcli.interrupt import Interruption
from qdqcli.run.digest import VerificationError
from qdqcli.tensors.checkpoint import Shard


def check_with_library(path: Path, shard: Shard, interruption: Interruption) -> None:
    """Open the file at `path` with the library and compare its header with that of `shard`, which it replaces.

    Names, dtypes and shapes are compared; the library checks offsets and size by itself. No data is read: NumPy lacks
    some of the dtypes.

    Raises:
        VerificationError: the library refuses the file, or finds another tensor in it.
    """
    try:
        with safe_open(path, framework="np") as file:
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
