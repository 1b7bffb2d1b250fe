"""Works timed alternately in one run, and the table of their ratios: times of different runs are never compared."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter

import llvmlite.binding as llvm
from numba.core import config

from qdqcli.op.jit.cache import host_has
from qdqcli.op.threads import available_threads

Work = Callable[[], object]
KEPT = Path(__file__).with_name("short.json")
"""Ratios of the short form by processor and threads; CI fails when a ratio falls a third below these."""
FALL = 1 / 3


def compare(
    rounds: int,
    of: Callable[[Sequence[float]], float] = median,
    clock: Callable[[], float] = perf_counter,
    **works: Work,
) -> dict[str, float]:
    """Return the seconds of each work, run alternately: the median, or another statistic `of`; `clock` measures them.

    The first round does not count: it compiles and touches memory for the first time.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            began = clock()
            work()
            if turn:
                times[name].append(clock() - began)
    return {name: of(seconds) for name, seconds in times.items()}


@dataclass(kw_only=True)
class Table:
    """Measurements, printed row by row."""

    ratios: dict[str, float] = field(default_factory=dict)
    """Ratios of two works of one run, larger is better: comparable with those of another run."""

    def ratio(self, what: str, value: float, goal: float | None = None) -> None:
        """Add a row with a ratio, larger is better."""
        self.ratios[what] = max(value, self.ratios.get(what, 0.0))
        self.value(what, value, goal)

    def value(self, what: str, value: float, goal: float | None = None) -> None:
        """Add a row of another kind: seconds, megabytes."""
        print(f"{what:<66} {value:9.3g}  {'' if goal is None else f'goal {goal:g}'}".rstrip(), flush=True)

    def fallen(self, kept: dict[str, float]) -> list[str]:
        """Return a line for each ratio below two thirds of the stored one."""
        return [
            f"{what}: {self.ratios[what]:.3g}, kept {value:.3g}"
            for what, value in kept.items()
            if what in self.ratios and self.ratios[what] < (1 - FALL) * value
        ]


def kept_ratios() -> tuple[str, dict[str, float]]:
    """Return the ratios to judge by, and whose they are.

    Of a processor that was never measured, the lowest of those with the same vectors and threads; none where there are
    no such.
    """
    kept: dict[str, dict[str, float]] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    if machine() in kept:
        return machine(), kept[machine()]
    _, vectors_and_threads = machine().split(", ", 1)
    alike = [ratios for kind, ratios in kept.items() if kind.split(", ", 1)[1] == vectors_and_threads]
    lowest = {what: min(ratios[what] for ratios in alike) for what in (alike[0] if alike else {})}
    return f"any processor with {vectors_and_threads}", lowest


def keep(table: Table) -> None:
    """Store the table's ratios as those of this kind of machine."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    kept[machine()] = {what: round(value, 3) for what, value in table.ratios.items()}
    KEPT.write_text(json.dumps(dict(sorted(kept.items())), indent=2) + "\n")


def machine() -> str:
    """Return what ratios depend on: the processor as the compiler names it, its vector width, and the threads."""
    name = config.CPU_NAME or llvm.get_host_cpu_name()
    vectors = next((title for feature, title in _VECTORS.items() if host_has(feature)), "other vectors")
    return f"{name}, {vectors}, {available_threads()} threads"


_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}
