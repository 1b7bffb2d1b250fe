"""What will happen to each tensor, known from the headers alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qdqcli.run.recipe import Decision, Recipe, Skip, check_selected
from qdqcli.run.result import Source
from qdqcli.tensors.checkpoint import Checkpoint, Shard
from qdqcli.tensors.message import show_path
from qdqcli.tensors.tensor import TensorInfo


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The decisions for one shard."""

    checkpoint: Checkpoint
    shard: Shard
    decisions: Sequence[Decision]
    """One per tensor of the shard."""

    @property
    def tensors(self) -> Iterator[tuple[TensorInfo, Decision]]:
        return zip(self.shard.tensors, self.decisions, strict=True)


def make_plans(
    checkpoints: Sequence[Checkpoint], recipe: Recipe, *, allow_unmatched: bool = False
) -> tuple[list[Plan], list[str]]:
    """Decide on every tensor of every checkpoint; also returns warnings.

    Raises:
        UsageError: the selection does not fit the checkpoints, see `Recipe.decide`.
    """
    tensors = [tensor for checkpoint in checkpoints for tensor in checkpoint.tensors]
    decisions, warnings = recipe.decide(tensors, allow_unmatched=allow_unmatched)
    remaining = iter(decisions)
    plans = [
        Plan(
            checkpoint=checkpoint,
            shard=shard,
            decisions=[_unless_superseded(checkpoint, tensor, next(remaining)) for tensor in shard.tensors],
        )
        for checkpoint in checkpoints
        for shard in checkpoint.shards
    ]
    return plans, warnings


def check_selection(plans: Sequence[Plan]) -> None:
    """Make sure that some tensor is quantized.

    Raises:
        UsageError: none is; names the inputs and says why.
    """
    check_selected([decision for plan in plans for decision in plan.decisions], ", ".join(inputs_of(plans)))


def inputs_of(plans: Sequence[Plan]) -> list[str]:
    """The inputs, as the user finds them, each once."""
    return list(dict.fromkeys(show_path(plan.checkpoint.path) for plan in plans))


def file_of(plan: Plan) -> str:
    """The shard, as the user finds it."""
    checkpoint = plan.checkpoint
    return show_path(checkpoint.path / plan.shard.name if checkpoint.is_folder else checkpoint.path)


def source_of(file: str, tensor: TensorInfo) -> Source:
    """Where a row's tensor is found; `file` is what `file_of` gives."""
    return Source(name=tensor.name, file=file, dtype=tensor.dtype.name, shape=tensor.shape)


def _unless_superseded(checkpoint: Checkpoint, tensor: TensorInfo, decision: Decision) -> Decision:
    shard = checkpoint.superseded.get((tensor.shard, tensor.name))
    return decision if shard is None else Skip(reason=f"superseded: the index takes it from {shard}")
