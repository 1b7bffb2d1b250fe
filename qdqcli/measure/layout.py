"""Layout of a tensor's slices in the storage order of its file."""

from dataclasses import replace

from qdqcli.errors import UsageError
from qdqcli.escape import escape_name
from qdqcli.op.layout import Layout
from qdqcli.op.spec import WHOLE_TENSOR, QuantSpec, axis_text
from qdqcli.tensors.tensor import TensorInfo


def layout_of(info: TensorInfo, spec: QuantSpec) -> Layout:
    """Return the layout of a tensor's slices in the storage order of its file.

    Raises:
        UsageError: the file is in Fortran order, and the slices are groups, or differ along two axes.
        SpecError: the tensor has no such axis, or the group size does not divide.
    """
    if not info.fortran_order:
        return Layout.of(info.shape, spec)
    if spec.group_size is not None:
        raise UsageError(
            f"'{escape_name(info.name)}' is stored in Fortran order: groups along its last axis are not contiguous"
        )
    if spec.axes[1] >= len(info.shape):
        return Layout.of(info.shape, spec)  # raises, in terms of the shape that the user knows
    if isinstance(spec.axis, tuple):
        raise UsageError(
            f"'{escape_name(info.name)}' is stored in Fortran order: its two axes {axis_text(spec.axis)} are not in "
            "the order of the ranges"
        )
    axis = spec.axis if spec.axis == WHOLE_TENSOR else len(info.shape) - 1 - spec.axis
    return Layout.of(info.stored_shape, replace(spec, axis=axis))
