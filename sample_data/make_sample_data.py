"""Make the files beside this script: `python sample_data/make_sample_data.py [FOLDER]`.

The same bytes on every machine, see `qdqcli/tensors/sample.py`, which also makes `tiny-llama` for `qdq demo`.
"""

import io
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qdqcli.tensors.sample import HIDDEN, OUTLIERS, VOCABULARY, random_bits, student_t, tiny_llama


def npy_bytes(array: np.ndarray) -> bytes:
    """As `np.save` stores it."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """As `np.savez` stores them, with the time and the mode of the members fixed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.create_system, member.external_attr = 3, 0o644 << 16
            archive.writestr(member, npy_bytes(array))
    return buffer.getvalue()


def single_files() -> dict[str, bytes]:
    """File name -> content of the arrays that need no checkpoint around them."""
    shape = (192, 256)
    weights = student_t("weights", shape, degrees=3) * 0.05
    weights[11] *= 20.0
    gradients = student_t("gradients", shape, degrees=5) * 0.001
    activations = student_t("activations", (64, HIDDEN), degrees=5)
    for channel, factor in OUTLIERS.items():
        activations[:, channel] *= factor
    token_ids = (random_bits("token_ids", 64) % VOCABULARY).astype(np.int32)
    return {
        "weights.npy": npy_bytes(weights.astype(np.float32)),
        "gradients.npy": npy_bytes(gradients.astype(np.float32)),
        "activations.npz": npz_bytes({"activations": activations.astype(np.float16), "token_ids": token_ids}),
    }


def write_all(folder: Path) -> None:
    """Write every sample file below `folder`."""
    (folder / "tiny-llama").mkdir(parents=True, exist_ok=True)
    for name, content in single_files().items():
        (folder / name).write_bytes(content)
    for name, content in tiny_llama().items():
        (folder / "tiny-llama" / name).write_bytes(content)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
