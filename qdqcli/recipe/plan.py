"""What will happen to each tensor, known from the headers alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from qdqcli.escape import show_path
from qdqcli.recipe.decision import Decision, Resolution
from qdqcli.recipe.file_ref import FileRef
from qdqcli.recipe.recipe import DEFAULT_MIN_NDIM, Context, Recipe, check_selected, why_untouched
from qdqcli.result.result import Row, Source
from qdqcli.tensors.checkpoint import Checkpoint, Shard
from qdqcli.tensors.note import Note
from qdqcli.tensors.tensor import TensorInfo


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The decisions for one shard."""

    checkpoint: Checkpoint
    shard: Shard
    resolutions: Sequence[Resolution]
    """What holds for each tensor of the shard, and why."""
    min_ndim: int = 0
    """Tensors with fewer dimensions are left alone where no rule says otherwise."""

    @cached_property
    def decisions(self) -> Sequence[Decision]:
        """One per tensor of the shard."""
        return [resolution.decision for resolution in self.resolutions]

    @cached_property
    def file(self) -> FileRef:
        """The shard, for patterns."""
        return FileRef(file_of(self), self.shard.name.count("/") + 1)

    @property
    def tensors(self) -> Iterator[tuple[TensorInfo, Decision]]:
        return zip(self.shard.tensors, self.decisions, strict=True)


def make_plans(
    checkpoints: Sequence[Checkpoint], recipe: Recipe, *, allow_unmatched: bool = False
) -> tuple[list[Plan], list[str]]:
    """Decide on every tensor of every checkpoint; also returns warnings.

    Raises:
        UsageError: the selection does not fit the checkpoints, see `Recipe.resolve`.
    """
    tensors = [tensor for checkpoint in checkpoints for tensor in checkpoint.tensors]
    context = context_of(checkpoints)
    resolutions, warnings = recipe.resolve(tensors, context, allow_unmatched=allow_unmatched)
    remaining = iter(resolutions)
    plans = [
        Plan(
            checkpoint=checkpoint,
            shard=shard,
            resolutions=list(islice(remaining, len(shard.tensors))),
            min_ndim=default_min_ndim(checkpoint) if recipe.min_ndim is None else recipe.min_ndim,
        )
        for checkpoint in checkpoints
        for shard in checkpoint.shards
    ]
    return plans, warnings


def context_of(checkpoints: Sequence[Checkpoint]) -> Context:
    """What a recipe is to know of the tensors of all checkpoints, in their order."""
    files: list[FileRef] = []
    untouched: list[str | None] = []
    min_ndims: list[int] = []
    for checkpoint in checkpoints:
        min_ndim = default_min_ndim(checkpoint)
        for shard in checkpoint.shards:
            file = FileRef(_shown(checkpoint, shard), shard.name.count("/") + 1)
            files += [file] * len(shard.tensors)
            min_ndims += [min_ndim] * len(shard.tensors)
            untouched += [
                why_untouched(tensor.dtype)
                if (counts := checkpoint.superseded.get((shard.name, tensor.name))) is None
                else f"superseded: the index takes it from {counts}"
                for tensor in shard.tensors
            ]
    return Context(files=files, untouched=untouched, min_ndims=min_ndims)


def default_min_ndim(checkpoint: Checkpoint) -> int:
    """The `min_ndim` of an input where nobody gives one.

    `DEFAULT_MIN_NDIM`, but 0 for a .npy file and for an input none of whose floating-point tensors has that many
    dimensions: they hold what the user means to quantize.
    """
    is_array = not checkpoint.is_folder and checkpoint.path.suffix.lower() == ".npy"
    has_matrix = any(t.dtype.is_floating and len(t.shape) >= DEFAULT_MIN_NDIM for t in checkpoint.tensors)
    return DEFAULT_MIN_NDIM if has_matrix and not is_array else 0


def settings_of(plans: Sequence[Plan], settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings as reports show them: with the `min_ndim` that held, or null where inputs differ in it."""
    if "min_ndim" not in settings:
        return settings
    found = {plan.min_ndim for plan in plans}
    return {**settings, "min_ndim": found.pop() if len(found) == 1 else None}


def with_decisions(plans: Sequence[Plan], rows: Sequence[Row]) -> list[Row]:
    """The rows with what decided over each; they stand in the plans' order."""
    resolutions = (resolution for plan in plans for resolution in plan.resolutions)
    return [row._replace(decided_by=found.decided_by) for row, found in zip(rows, resolutions, strict=True)]


def check_selection(plans: Sequence[Plan]) -> None:
    """Make sure that some tensor is quantized.

    Raises:
        UsageError: none is; names the inputs and says why.
    """
    check_selected([decision for plan in plans for decision in plan.decisions], ", ".join(inputs_of(plans)))


def inputs_of(plans: Sequence[Plan]) -> list[str]:
    """The inputs, as the user finds them, each once."""
    return list(dict.fromkeys(show_path(plan.checkpoint.path) for plan in plans))


def notes_of(plans: Sequence[Plan]) -> list[Note]:
    """The notes of the inputs, each once."""
    return list(dict.fromkeys(note for plan in plans for note in plan.checkpoint.notes))


def file_of(plan: Plan) -> str:
    """The shard, as the user finds it."""
    return _shown(plan.checkpoint, plan.shard)


def _shown(checkpoint: Checkpoint, shard: Shard) -> str:
    return show_path(checkpoint.path / shard.name if checkpoint.is_folder else checkpoint.path)


def source_of(file: str, tensor: TensorInfo) -> Source:
    """Where a row's tensor is found; `file` is what `file_of` gives."""
    return Source(tensor.name, file, tensor.dtype.name, tensor.shape)
