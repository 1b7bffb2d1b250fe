"""HTML report of a sweep: settings, the curve of error and size, and tensors by settings."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import isfinite

from qdqcli.recipe.sweep import LADDER, Setting, Sweep
from qdqcli.report.command import scheme_options
from qdqcli.report.html.chart import Point, scatter
from qdqcli.report.html.document import document
from qdqcli.report.html.grid import Field, Grid, Value, grid_html, levels_of
from qdqcli.report.html.made import made
from qdqcli.report.html.markup import plain, quote, static_table
from qdqcli.report.number import EXACT
from qdqcli.report.sweep import SweepView, columns, common_settings
from qdqcli.result.result import RunResult, TensorResult


def page(view: SweepView) -> Iterator[str]:
    """Yield the page in pieces."""
    sweep = view.sweep
    first = sweep.results[0]
    grid = _grid(sweep)
    return document("Sweep of settings", "sweep", first.inputs, first.version, _main(sweep, grid), grid)


def _main(sweep: Sweep, grid: Grid[int]) -> Iterator[str]:
    yield "<h2>Settings</h2>"
    named, *others = columns(sweep, quote)
    yield from static_table([named, *sorted(others, key=lambda column: column.name != "sqnr")])  # for a phone
    yield "<h2>Error and size</h2>"
    points = _points(sweep)
    yield from scatter(points, [(point.x, point.y) for point in points if not point.is_faint], "SQNR in dB")
    if grid.rows:
        yield "<h2>SQNR in dB, tensors by settings</h2>\n<p class=quiet>Darker is lower.</p>"
        yield from grid_html(grid)
    yield from made(replace(sweep.results[0], settings=common_settings(sweep)), _options(sweep.settings))


def _options(settings: Sequence[Setting]) -> list[str] | None:
    """Return options that give these settings; None where no combination of lists does."""
    if list(settings) == LADDER:
        return []
    grids = {tuple(scheme_options(setting.to_json())): setting for setting in settings}
    estimators = {setting.estimator: setting for setting in settings}
    combined = [replace(grid, estimator=name, percentile=own.percentile)
                for grid in grids.values() for name, own in estimators.items()]  # fmt: skip
    if set(combined) != set(settings) or any("--axis" in words for words in grids):
        return None
    percentiles = [str(own.percentile) for own in estimators.values() if own.percentile is not None]
    given = ["--estimator", ",".join(estimators)] if list(estimators) != ["minmax"] else []
    return [word for words in grids for word in words] + given + (["--percentile", *percentiles] if percentiles else [])


def _points(sweep: Sweep) -> list[Point]:
    return [
        Point(x=found[0], y=found[1], label=setting.name, is_faint=is_dominated)
        for setting, result, is_dominated in zip(sweep.settings, sweep.results, sweep.dominated(), strict=True)
        for found in [_point(result)]
        if found is not None
    ]


def _point(result: RunResult) -> tuple[float, float] | None:
    """Return (bits per weight, SQNR in dB), where both are numbers."""
    bits, sqnr = result.summary["bits_per_weight"], result.summary["sqnr_db"]
    return None if bits is None or sqnr is None or not isfinite(sqnr) else (float(bits), float(sqnr))


def _grid(sweep: Sweep) -> Grid[int]:
    """Return a row for each tensor that some setting measured, by its index among the rows of the results."""
    tables = [result.rows for result in sweep.results]
    kept = [n for n, rows in enumerate(zip(*tables, strict=True)) if any(isinstance(r, TensorResult) for r in rows)]

    def value(own: RunResult, number: int) -> Value:
        row = own.rows[number]
        if not isinstance(row, TensorResult):
            return None
        return EXACT if row.is_exact else row.stats["sqnr_db"]

    levels = levels_of(value(result, number) for result in sweep.results for number in kept)
    names: Field[int] = Field(name="tensor", title="tensor", form="text", worst="ascending",
                              value=lambda number: plain(tables[0][number].source.name))  # fmt: skip
    settings = [
        Field(name=setting.name, title=setting.name, form="db", worst="ascending", levels=levels,
              value=partial(value, result))
        for setting, result in zip(sweep.settings, sweep.results, strict=True)
    ]  # fmt: skip
    return Grid(noun="tensors", rows=kept, order=range(len(kept)), fields=[names, *settings])
