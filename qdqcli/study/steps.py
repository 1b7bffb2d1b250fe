"""Steps of a plan: what another candidate of a decision would cost and gain, against the price of a bit."""

from dataclasses import dataclass
from math import isfinite

from qdqcli.study.allocation import Allocation, Decision, Option

_BITS_PER_MB = 8_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """Change of one decision from its choice to another candidate."""

    option: Option
    bits_added: int
    """Negative for a smaller candidate."""
    loss_per_bit: float
    """Loss saved per bit added, or lost per bit saved."""
    of_price: float | None
    """That, as a multiple of the plan's price of a bit; None where it has none, or it is zero."""
    gain_db: float | None
    """Change of the decision's lowest SQNR; None where one of the two changes nothing."""

    @property
    def db_per_mb(self) -> float | None:
        """Decibels per 1,000,000 bytes."""
        return None if self.gain_db is None else self.gain_db / self.bits_added * _BITS_PER_MB


def step_to(allocation: Allocation, decision: Decision, chosen: Option, other: Option) -> Step:
    """Return the step to a candidate whose size differs from that of the choice."""
    bits_added = other.bits - chosen.bits
    loss_per_bit = (chosen.loss - other.loss) / bits_added
    gain = allocation.sqnr_db(decision, other) - allocation.sqnr_db(decision, chosen)
    return Step(
        option=other,
        bits_added=bits_added,
        loss_per_bit=loss_per_bit,
        of_price=loss_per_bit / allocation.price if allocation.price else None,
        gain_db=gain if isfinite(gain) else None,
    )


def steps_down(allocation: Allocation, decision: Decision, chosen: Option) -> list[Step]:
    """Return the steps to smaller candidates, the one that loses least first."""
    smaller = [option for option in decision.options if option.bits < chosen.bits]
    smaller.sort(key=lambda option: (option.loss, option.bits))
    return [step_to(allocation, decision, chosen, option) for option in smaller]


def steps_up(allocation: Allocation, decision: Decision, chosen: Option) -> list[Step]:
    """Return the steps to larger candidates that lose less, the smallest first."""
    larger = [option for option in decision.options if option.bits > chosen.bits and option.loss < chosen.loss]
    larger.sort(key=lambda option: (option.bits, option.loss))
    return [step_to(allocation, decision, chosen, option) for option in larger]
