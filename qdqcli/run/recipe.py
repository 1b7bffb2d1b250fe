"""Which tensors are quantized and with which settings; a choice that matches nothing is an error, never silence."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qdqcli.errors import SpecError, UsageError
from qdqcli.op.spec import QuantSpec
from qdqcli.run.matching import Matcher, compile_pattern, listed, unmatched
from qdqcli.run.stored_layout import layout_of
from qdqcli.tensors.tensor import TensorInfo


@dataclass(frozen=True, kw_only=True)
class Skip:
    """The tensor is left as it is."""

    reason: str


Decision = QuantSpec | Skip


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to do with the tensors of a checkpoint."""

    spec: QuantSpec
    """For every selected tensor; its axis is ignored where `last_axis`."""
    last_axis: bool = False
    """The axis is the last one of each tensor."""
    include: Sequence[str] = ()
    """Patterns; none means every tensor."""
    exclude: Sequence[str] = ()
    """Patterns; they win over `include`."""
    min_ndim: int = 0
    """Tensors with fewer dimensions are left alone."""

    def decide(
        self, tensors: Sequence[TensorInfo], *, allow_unmatched: bool = False
    ) -> tuple[list[Decision], list[str]]:
        """One decision per tensor, and warnings.

        Raises:
            UsageError: a pattern matches no tensor (a warning with `allow_unmatched`), or selected tensors lack the
                axis or do not divide into groups: names them.
        """
        includes = [(pattern, compile_pattern(pattern)) for pattern in self.include]
        excludes = [(pattern, compile_pattern(pattern)) for pattern in self.exclude]
        names = {tensor.name for tensor in tensors}
        warnings = [
            unmatched(pattern, names)
            for pattern, matches in (*includes, *excludes)
            if not any(matches(tensor.name) for tensor in tensors)
        ]
        if warnings and not allow_unmatched:
            raise UsageError(f"{warnings[0]}; --allow-unmatched makes this a warning")
        decisions = [self._decide(tensor, includes, excludes) for tensor in tensors]
        _check_layouts(tensors, decisions)
        return decisions, warnings

    def _decide(self, tensor: TensorInfo, includes: "Patterns", excludes: "Patterns") -> Decision:
        if not tensor.dtype.is_floating:
            return Skip(reason=f"{tensor.dtype.name} is not a floating-point dtype")
        for pattern, matches in excludes:
            if matches(tensor.name):
                return Skip(reason=f"excluded by '{pattern}'")
        if includes and not any(matches(tensor.name) for _, matches in includes):
            return Skip(reason="not included")
        if len(tensor.shape) < self.min_ndim:
            return Skip(reason=f"fewer than {self.min_ndim} dimensions")
        return replace(self.spec, axis=max(len(tensor.shape) - 1, 0)) if self.last_axis else self.spec


Patterns = Sequence[tuple[str, Matcher]]


def check_selected(decisions: Sequence[Decision], inputs: str) -> None:
    """Make sure that there is something to do; `inputs` names them in the message.

    Raises:
        UsageError: no tensor is quantized; says why.
    """
    if not any(isinstance(decision, QuantSpec) for decision in decisions):
        raise UsageError(f"{inputs}: nothing to quantize: {_why_nothing(decisions)}")


def _why_nothing(decisions: Sequence[Decision]) -> str:
    reasons = [decision.reason for decision in decisions if isinstance(decision, Skip)]
    if not reasons:
        return "the input has no tensors"
    counts = {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}
    return "; ".join(f"{count} tensor{'s' * (count > 1)}: {reason}" for reason, count in counts.items())


def _check_layouts(tensors: Sequence[TensorInfo], decisions: Sequence[Decision]) -> None:
    """All tensors that cannot take their settings, in one message."""
    bad: list[TensorInfo] = []
    first_error: UsageError | None = None
    for tensor, decision in zip(tensors, decisions, strict=True):
        if isinstance(decision, Skip):
            continue
        try:
            layout_of(tensor, decision)
        except UsageError as error:
            first_error = first_error or error
            bad.append(tensor)
    if first_error is None:
        return
    lacks_axis = isinstance(first_error, SpecError) and "axis is" in str(first_error)
    advice = "--min-ndim or --exclude leaves them alone" if lacks_axis else "--exclude leaves them alone"
    raise UsageError(f"{first_error}; {len(bad)} of the selected tensors: {listed([t.name for t in bad])}; {advice}")
