"""HTML report of a diagnosis: causes with their share of the error, and per tensor its evidence and remedies."""

from collections.abc import Iterator, Sequence
from functools import partial
from math import isfinite

from qdqcli.report.command import command_of
from qdqcli.report.diagnosis import (
    NO_REMEDY,
    accounting_text,
    combination_of,
    facts,
    finding_text,
    overall_text,
    remedy_text,
    sqnr_text,
)
from qdqcli.report.escape import visible
from qdqcli.report.html.document import document
from qdqcli.report.html.grid import Field, Grid, Value, grid_html
from qdqcli.report.html.layers import matrix
from qdqcli.report.html.made import code, made
from qdqcli.report.html.markup import cards_html, in_html, plain, quote, static_table
from qdqcli.report.number import EXACT, counted, percent
from qdqcli.report.table import Column, dtype_text, shape_text, spec_text
from qdqcli.study.causes import PLAIN, level
from qdqcli.study.diagnose import FREE_BITS, DiagnosedRun, Diagnosis, Remedy

_SECTIONS = 20
"""Most tensors that are described in full above the table, whose rows open."""


def page(report: DiagnosedRun) -> Iterator[str]:
    """Yield the page in pieces."""
    run, grid = report.before, _grid(report)
    return document("Diagnosis of the error", "diagnose", run.inputs, run.version, _main(report, grid), grid)


def _main(report: DiagnosedRun, grid: Grid[Diagnosis]) -> Iterator[str]:
    yield from cards_html(_cards(report))
    *_, last = facts(report, quote)
    yield f"<p>{in_html(last[:1].upper() + last[1:])}.</p>"
    options = [] if report.max_bits_added == FREE_BITS else ["--max-bits-added", f"{report.max_bits_added:g}"]
    if any(found.together is not None for found in report.diagnoses):
        yield "<h2>What to do</h2>\n<p>Write the best changes as a recipe, and measure with it:</p>"
        for words in (command_of(report.before, "diagnose", [*options, "--write-recipe", "fix.toml"]),
                      ["qdq", "stats", *report.before.inputs, "--recipe", "fix.toml"]):  # fmt: skip
            yield f"<pre><code>{code(words)}</code></pre>"
    yield '<h2>Causes</h2>\n<div class="narrow">'
    yield from static_table(_causes(report))
    yield "</div>"
    yield from _by_layer(report)
    told = [found for found in report.diagnoses if found.cause != PLAIN][:_SECTIONS]
    if told:
        yield "<h2>Tensors with the largest errors</h2>"
        yield from (piece for found in told for piece in _section(found))
    if grid.rows:
        yield "<h2>All diagnosed tensors</h2>"
        yield from grid_html(grid)
    yield from made(report.before, options)


def _cards(report: DiagnosedRun) -> Iterator[tuple[str, str, str]]:
    total = sum(1 for _ in report.before.quantized)
    yield "diagnosed", f"{len(report.diagnoses):,} of {counted(total, 'tensor')}", ""
    yield "their share of the error", percent(report.share), ""
    yield "SQNR of all elements", overall_text(report.before), ""
    changed = sum(1 for found in report.diagnoses if found.together is not None)
    if changed:
        bits = [float(run.summary["bits_per_weight"] or 0.0) for run in (report.before, report.after)]
        remark = f"{bits[1] - bits[0]:+.3f} bits per weight, {counted(changed, 'tensor')} changed"
        yield "with the best changes", overall_text(report.after), remark


def _causes(report: DiagnosedRun) -> list[Column]:
    found = report.shares()
    return [
        Column(name="cause", title="cause", cells=[cause for cause, _, _ in found]),
        Column(name="count", title="tensors", cells=[f"{count:,}" for _, count, _ in found], is_number=True),
        Column(name="share", title="share of the error", cells=[percent(part) for *_, part in found], is_number=True),
    ]


def _by_layer(report: DiagnosedRun) -> Iterator[str]:
    """Yield the SQNR of all tensors by layer, with those unlike their neighbours marked."""
    unlike = {found.row.source for found in report.neighbours}
    rows = list(report.before.quantized)
    table = "".join(matrix(rows, ["warn" if row.source in unlike else "" for row in rows]))
    if table:
        marked = f"; marked: {counted(len(unlike), 'tensor')} unlike the layers around" if unlike else ""
        yield f"<h2>Layers</h2>\n{table}<p class=quiet>All quantized tensors{marked}.</p>"


def _section(found: Diagnosis) -> Iterator[str]:
    row = found.row
    kind = f"{shape_text(row.source.shape)} {dtype_text(row, quote)}, {spec_text(row.spec, quote, row.source.shape)}"
    yield f'<section class="case"><h3><code>{quote(row.source.name)}</code></h3>'
    share = row.stats["share"]
    of = "" if share is None else f", {percent(share)} of the error"
    yield f"<p class=quiet>{kind}: {sqnr_text(level(row))}{of}</p>\n<ul>"
    for finding in found.findings:
        yield f"<li><strong>{finding.cause}</strong>: {finding_text(finding, found, quote)}</li>"
    yield "</ul>"
    if isfinite(found.accounting.peak_db):
        yield f"<p class=quiet>SQNR = {accounting_text(found.accounting, level(row))}</p>"
    remedies = _remedies(found)
    if remedies:
        texts = [remedy_text(remedy) for remedy in remedies]
        columns = {
            "change": [f"<code>{quote(change)}</code>" for _, _, change in texts],
            "gain": [gain for gain, _, _ in texts],
            "bits per weight": [price.removesuffix(" bits") for _, price, _ in texts],
        }
        yield from static_table(
            [
                Column(name=title, title=title, cells=cells, is_number=title != "change")
                for title, cells in columns.items()
            ]
        )
    else:
        yield f"<p>Remedies: {NO_REMEDY}.</p>"
    yield "</section>"


def _remedies(found: Diagnosis) -> list[Remedy]:
    """Return the ranked remedies, and the combination where it is another one."""
    combination = combination_of(found)
    return [*found.remedies, *([] if combination is None else [combination])]


def _grid(report: DiagnosedRun) -> Grid[Diagnosis]:
    diagnoses: Sequence[Diagnosis] = report.diagnoses

    def sqnr(found: Diagnosis) -> Value:
        db = level(found.row)
        return db if isfinite(db) else EXACT if db > 0 else None

    def gain(found: Diagnosis) -> Value:
        remedy = found.together
        return None if remedy is None else remedy.gain_db if isfinite(remedy.gain_db) else EXACT

    text = partial(Field[Diagnosis], form="text", worst="ascending")
    prose = partial(Field[Diagnosis], form="prose", is_shown=False)
    fields: list[Field[Diagnosis]] = [
        text(name="tensor", title="tensor", value=lambda found: plain(found.row.source.name)),
        Field(name="sqnr_db", title="SQNR dB", form="db", worst="ascending", value=sqnr),
        Field(name="share", title="share", form="percent", value=lambda found: found.row.stats["share"]),
        text(name="cause", title="cause", value=lambda found: found.cause),
        Field(name="gain", title="gain dB", form="signed", value=gain),
        Field(name="added", title="added bits", form="signed3",
              value=lambda found: None if (remedy := found.together) is None else remedy.bits_added),
        text(name="change", title="best change",
             value=lambda found: "-" if (remedy := found.together) is None else remedy_text(remedy)[2]),
        text(name="shape", title="shape", value=lambda found: shape_text(found.row.source.shape)),
        prose(name="evidence", title="evidence", value=_evidence),
        prose(name="accounting", title="accounting", value=_accounting),
        prose(name="remedies", title="remedies", value=_prices),
    ]  # fmt: skip
    return Grid(noun="tensors", rows=diagnoses, order=range(len(diagnoses)), fields=fields, sort="share")


def _evidence(found: Diagnosis) -> str:
    return "; ".join(f"{finding.cause}: {finding_text(finding, found, visible)}" for finding in found.findings)


def _accounting(found: Diagnosis) -> str:
    return accounting_text(found.accounting, level(found.row)) if isfinite(found.accounting.peak_db) else "-"


def _prices(found: Diagnosis) -> str:
    return (
        "; ".join(f"{change}: {gain}, {price}" for gain, price, change in map(remedy_text, _remedies(found)))
        or NO_REMEDY
    )
