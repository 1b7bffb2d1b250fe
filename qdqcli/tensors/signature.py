"""Detection of a file's real type from its first bytes, for messages about misnamed files."""

import re

SNIFF_BYTES = 512

_SIGNATURES = (
    (rb"version https://git-lfs", "it is a Git LFS pointer, not the file itself; fetch the file with `git lfs pull`"),
    (rb"\s*<(!doctype html|html|head|body)", "it is an HTML page, probably of a failed download; download it again"),
    (rb"\s*<\?xml", "it is an XML document, probably of a failed download; download it again"),
    (rb"\x80[\x02-\x05]", "it is a pickle, which is never loaded; convert it to .safetensors"),
    (rb"\x93NUMPY", "it is an .npy file; name it so"),
    (
        rb"PK(\x03\x04|\x05\x06)",
        "it is a zip archive; name it .npz if it holds arrays, a torch archive is never loaded",
    ),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "it is compressed; unpack it first"),
    (rb"GGUF", "it is a GGUF file; name it so"),
    (rb"\x89HDF", "it is an HDF5 file, a format that is not read; convert it to .safetensors"),
    (rb".{5}\0{3}\s*\{", "it is a .safetensors file; name it so"),
    (rb"\0+\Z", "its first bytes are all zero: it was preallocated and never written; copy or download it again"),
)


def is_pointer(first_bytes: bytes) -> bool:
    """Tell whether the file is a Git LFS pointer."""
    return first_bytes.startswith(b"version https://git-lfs")


def describe(first_bytes: bytes, *, expected: str = "") -> str | None:
    """Return what kind of file begins with these bytes and what to do about it; None if unknown.

    A kind whose description contains `expected` is skipped: the file has that type, but is damaged.
    """
    for pattern, description in _SIGNATURES:
        if re.match(pattern, first_bytes, re.IGNORECASE | re.DOTALL) and not (expected and expected in description):
            return description
    return None
