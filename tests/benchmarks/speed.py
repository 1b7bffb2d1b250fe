"""How near qdq comes to what the machine allows, as ratios measured side by side in one run.

    python tests/benchmarks/speed.py [--size 2.2GB] [--rounds 7]
    python tests/benchmarks/speed.py --short [--keep]

The short form is for CI: small files, and exit code 1 when a ratio falls by a third from what `short.json` keeps for
this kind of processor, or for any with the same vectors, or when it keeps none: `NUMBA_CPU_NAME=haswell
NUMBA_CPU_FEATURES=+avx2,+fma,+f16c` judges AVX2 on a processor with more. What fell is measured again, twice, before it
counts: machines are shared. `--keep` stores the ratios instead.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.in_memory import measure_kernels
from tests.benchmarks.make_checkpoint import parse_size
from tests.benchmarks.on_files import measure_large, measure_small
from tests.benchmarks.processes import measure_processes
from tests.benchmarks.ratios import Table, keep, kept_ratios, machine


def measure_shortly(table: Table) -> None:
    """Measure the short form: the best of several, since a median over so short a time depends on other processes."""
    measure_kernels(table, 15, 2048, min)
    measure_large(table, 7, parse_size("400MB"), min)


def judge(table: Table) -> int:
    """Return the exit code of the short form."""
    kind, kept = kept_ratios()
    if not kept:
        print(f"no ratios are kept for {kind}, so nothing can be judged; --keep stores these")
        return 1
    print(f"judged by the ratios of {kind}")
    for _ in range(2):
        if table.fallen(kept):
            print("\nsome fell by a third; again, and the better of both counts")
            measure_shortly(table)
    fallen = table.fallen(kept)
    print("\n".join(["", "fell by a third:", *fallen] if fallen else ["", "no ratio fell by a third"]))
    return 1 if fallen else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="2.2GB", help="of the BF16 checkpoint")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--short", action="store_true", help="the form for CI")
    parser.add_argument("--keep", action="store_true", help="with --short: store the ratios for this processor")
    options = parser.parse_args()
    print(machine())
    table = Table()
    if options.short:
        measure_shortly(table)
        if not options.keep:
            return judge(table)
        keep(table)
        return 0
    measure_kernels(table, options.rounds)
    measure_large(table, options.rounds, parse_size(options.size))
    measure_small(table, max(options.rounds // 2, 1), 20000)
    measure_processes(table, max(options.rounds // 2, 1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
