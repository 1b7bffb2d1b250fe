"""What became of one tensor's gradients."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MaskedGradient:
    """How much of a gradient the range let through."""

    name: str
    num_elements: int
    num_outside: int
    """Elements of the tensor outside its range, NaN among them: their gradient is multiplied by 0."""
