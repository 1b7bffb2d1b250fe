"""Size of the HTML page, and the time to write, open, sort and filter it, beside a page with a node for every cell.

    python tests/benchmarks/page.py [--tensors 8000 100000] [--plain-up-to 8000]

Opening and sorting include layout; both pages are opened by the same Chromium, which must be installed.
"""

import argparse
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[2]))

from qdqcli.report.formatter import formatter
from qdqcli.report.html import grid
from qdqcli.report.options import ReportOptions
from qdqcli.result.result import RunResult
from tests.report.chromium import Browser, chromium
from tests.report.samples import quantized, run_of

LAID_OUT = "document.body.getBoundingClientRect().height"
OPENED = "performance.timing.loadEventEnd - performance.timing.navigationStart"
SORTS = {
    "page": "document.querySelectorAll('thead button')[3].click()",
    # What a page without data does: compare the texts of cells, and put all rows in again.
    "plain": "((body) => body.append(...[...body.rows].sort((a, b) => parseFloat(b.cells[3].textContent) - "
    "parseFloat(a.cells[3].textContent))))(document.querySelector('#rows tbody'))",
}
FILTER = (
    "((e) => { e.value = 'layers.7 mlp'; e.dispatchEvent(new Event('input')); })(document.getElementById('filter'))"
)


def sample(count: int) -> RunResult:
    """Return rows of a mixture of experts, all different."""

    def row(number: int) -> tuple[str, list[float], list[float]]:
        layer, rest = divmod(number, 128)
        name = f"model.layers.{layer}.mlp.experts.{rest // 2}.{('gate_up_proj', 'down_proj')[rest % 2]}.weight"
        return name, [1.0, 2.0 + number], [1.0, 2.0 + number + 1.7 ** -(number % 11 + number / 1e5)]

    rows = [quantized(*row(number)) for number in range(count)]
    return run_of(*(row._replace(share=1 / (number + 7)) for number, row in enumerate(rows)))


def write(run: RunResult, path: Path) -> tuple[float, int]:
    """Write the page in pieces; return the seconds, and the peak of allocated bytes of a second time."""

    def pieces() -> None:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(formatter("html")(run, ReportOptions()))

    began = perf_counter()
    pieces()
    elapsed = perf_counter() - began
    tracemalloc.start()
    pieces()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return elapsed, peak


def milliseconds(browser: Browser, action: str) -> float:
    """Return the time of an action and of the layout after it."""
    return float(
        browser.run(f"(() => {{ const t = performance.now(); {action}; {LAID_OUT}; return performance.now() - t; }})()")
    )


def measure(browser: Browser, path: Path, kind: str) -> dict[str, float]:
    browser.open(path)
    found = {"open": float(browser.run(OPENED)), "sort": milliseconds(browser, SORTS[kind])}
    if kind == "page":
        found["filter"] = milliseconds(browser, FILTER)
    return found | {"nodes": float(browser.run("document.querySelectorAll('*').length"))}


def plain_page(run: RunResult, path: Path) -> None:
    """Write all rows as HTML, without a script."""
    before, grid.STATIC_ROWS = grid.STATIC_ROWS, len(run.rows)
    text = "".join(formatter("html")(run, ReportOptions()))
    grid.STATIC_ROWS = before
    head, _, rest = text.partition('<script type="application/json"')
    path.write_text(head + rest[rest.rindex("</script>") + 9 :], encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tensors", type=int, nargs="+", default=[8_000, 100_000])
    parser.add_argument("--plain-up-to", type=int, default=8_000)
    options = parser.parse_args()
    with TemporaryDirectory(prefix="qdq-page-") as root, chromium(Path(root, "profile")) as browser:
        path, plain = Path(root, "page.html"), Path(root, "plain.html")
        for count in options.tensors:
            run = sample(count)
            elapsed, peak = write(run, path)
            megabytes = path.stat().st_size / 1e6
            print(f"{count:,} tensors: {megabytes:.2f} MB, written in {elapsed:.2f} s, {peak / 1e6:.1f} MB at most")
            sides: dict[str, Callable[[], dict[str, float]]] = {"page": lambda: measure(browser, path, "page")}
            if count <= options.plain_up_to:
                plain_page(run, plain)
                sides["plain"] = lambda: measure(browser, plain, "plain")
            found = {side: [one() for _ in range(3)][1:] for side, one in sides.items()}
            for side, rounds in found.items():
                best = {name: min(one[name] for one in rounds) for name in rounds[0]}
                print(f"  {side:<6}", ", ".join(f"{name} {value:,.0f}" for name, value in best.items()), "(ms)")


if __name__ == "__main__":
    main()
