"""Unsupported weight formats: descriptions, and how to convert them."""

import os
from collections.abc import Sequence

from qdqcli.escape import escape_name

_PICKLE = (
    "a PyTorch pickle, which is never loaded",
    'convert it where you trust it: AutoModel.from_pretrained("FOLDER").save_pretrained("NEW") of transformers for a '
    "model of theirs, else safetensors.torch.save_file(torch.load(FILE), NEW)",
)
_KERAS = (
    "a Keras model, a format that is not read",
    'save its arrays: numpy.savez("weights.npz", *keras.models.load_model(FILE).get_weights())',
)
FORMATS = {
    ".bin": _PICKLE,
    ".pt": _PICKLE,
    ".pth": _PICKLE,
    ".ckpt": _PICKLE,
    ".onnx": (
        "an ONNX model, a format that is not read",
        'save its initializers: numpy.savez("weights.npz", **{t.name: onnx.numpy_helper.to_array(t) for t in '
        "onnx.load(FILE).graph.initializer})",
    ),
    ".h5": _KERAS,
    ".keras": _KERAS,
    ".msgpack": (
        "a Flax checkpoint, a format that is not read",
        'convert it: AutoModel.from_pretrained("FOLDER", from_flax=True).save_pretrained("NEW") of transformers',
    ),
}
"""File suffix -> (description, what to do)."""


def describe_unread(names: Sequence[str]) -> str | None:
    """Describe the first weight file of an unsupported format and what to do; None if there is none."""
    found = [name for name in names if suffix_of(name) in FORMATS]
    if not found:
        return None
    what, to_do = FORMATS[suffix_of(found[0])]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"'{escape_name(found[0])}'{more} is {what}; {to_do}"


def suffix_of(name: str) -> str:
    """Return the file suffix in lower case."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - names, not paths
