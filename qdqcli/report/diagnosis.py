"""Report of a diagnosis, for people and programs: causes per tensor, their decibels and the measured evidence."""

from collections.abc import Iterator, Sequence
from functools import partial
from math import inf, isfinite
from textwrap import wrap

from qdqcli.plain import JsonObject, Parsed
from qdqcli.report import escape, markdown
from qdqcli.report.forms import Forms, json_lines
from qdqcli.report.layout import fit
from qdqcli.report.number import EXACT, NO_NUMBER, counted, metric_text, percent, significant
from qdqcli.report.options import ReportOptions
from qdqcli.report.table import Column, Quote, column, dtype_text, shape_text, spec_text
from qdqcli.report.text import quoted, table_lines
from qdqcli.result.result import (
    RunResult,
    finite,
    header_to_json,
    range_to_json,
    row_to_json,
    spec_to_json,
    summary_to_json,
)
from qdqcli.study import causes
from qdqcli.study.causes import CauseFound, level
from qdqcli.study.diagnose import UNIFORM_DB, Accounting, DiagnosedRun, Diagnosis, Remedy, RowsInFloat
from qdqcli.study.neighbours import Neighbour

_WIDTH = 120
_INDENT = " " * 11
_NEIGHBOURS_SHOWN = 3
NO_REMEDY = "none of those tried gains 0.1 dB"
_OPTIONS = {
    "num_bits": "--num-bits",
    "axis": "--axis",
    "group_size": "--group-size",
    "estimator": "--estimator",
    "percentile": "--percentile",
}


def change_text(changes: Parsed) -> str:
    """Return the changes as options: `--group-size 64 --estimator mse`."""
    words = [f"{option} {changes[key]}" for key, option in _OPTIONS.items() if changes.get(key) not in (None, "none")]
    if changes.get("axis") == "none" or (changes.get("group_size") == "none" and "axis" not in changes):
        words.insert(0, "--axis none")
    if "signed_input" in changes:
        words.append("--signed-input" if changes["signed_input"] else "--unsigned-input")
    if "narrow_range" in changes:
        words.append("--narrow-range" if changes["narrow_range"] else "--no-narrow-range")
    if changes.get("range") == "data":
        words.append("no --input-min and --input-max")
    return " ".join(words)


def remedy_text(remedy: Remedy) -> tuple[str, str, str]:
    """Return (gain, price, change)."""
    after = level(remedy.row)
    gain = f"{remedy.gain_db:+.2f} dB" if isfinite(remedy.gain_db) else sqnr_text(after)
    if remedy.is_lossless:
        gain = "lossless"
    return gain, f"{remedy.bits_added:+.3f} bits", change_text(remedy.changes)


def sqnr_text(db: float) -> str:
    """Return an SQNR with its unit, or the reason why it has no number."""
    return EXACT if db == inf else f"{db:.2f} dB" if isfinite(db) else "no SQNR"


def accounting_text(accounting: Accounting, measured: float) -> str:
    """Return `24.08 (4 bits) + 4.77 - 11.32 (peak/RMS; Gaussian data: 9.11) - 0.58 (rest) = 16.95 dB`."""
    bits = round(accounting.bits_db / 6.0206)
    peak = f"{accounting.peak_db:.2f} (peak/RMS; Gaussian data: {accounting.gaussian_peak_db:.2f})"
    formula = f"{accounting.bits_db:.2f} ({bits} bits) + {UNIFORM_DB:.2f} - {peak}"
    if accounting.rest_db is None:
        return f"{formula} = {accounting.formula_db:.2f} dB; measured: {sqnr_text(measured)}"
    sign = "-" if accounting.rest_db < 0 else "+"
    return f"{formula} {sign} {abs(accounting.rest_db):.2f} (rest) = {measured:.2f} dB"


def finding_text(finding: CauseFound, diagnosis: Diagnosis, quote: Quote) -> str:
    """Return one cause in words, with its evidence."""
    found, numbers = finding.evidence, diagnosis.accounting
    match finding.cause:
        case causes.NONFINITE:
            where = f", the first at {found['first']}" if found["first"] is not None else ""
            are = "elements are" if found["count"] > 1 else "element is"
            return f"{found['count']:,} {are} NaN or infinite{where}: repair or --exclude the tensor"
        case causes.DEGENERATE:
            return _degenerate_text(found)
        case causes.ALREADY_QUANTIZED:
            return _grid_text(found)
        case causes.OUTLIER_ROWS:
            many = found["count"] > 1
            return (
                f"{counted(found['count'], 'row')} {'set' if many else 'sets'} the range of all rows: "
                f"{_index_text('row', found['rows'], found['count'])}"
            )
        case causes.WRONG_AXIS:
            out = found["columns"]
            columns = f"; {_index_text('column', out)} stand{'s' * (len(out) == 1)} out" if out else ""
            return f"--axis {found['axis']} gains {found['gain_db']:.2f} dB{_gaussian_text(found)}{columns}"
        case causes.HEAVY_TAILS:
            return (
                "values far from zero are more frequent than in Gaussian data, all over the tensor: the peak is "
                f"{numbers.peak_db - numbers.gaussian_peak_db:.1f} dB higher, the kurtosis of neighbours "
                f"{found['kurtosis']:.2f} instead of 2.7"
            )
        case causes.OUTLIER_ELEMENTS:
            folded = ""
            if found["columns"]:
                folded = "; outside the op: a scale folded into the layer before would remove them"
                out = found["columns"]
                what = f"{_index_text('column', out)} stand{'s' * (len(out) == 1)} out within the slices"
            else:
                first = ", ".join(map(str, found["first"]))
                what = (
                    f"{counted(found['count'], 'element')} ({percent(found['share'])}) "
                    f"{'set' if found['count'] > 1 else 'sets'} the ranges, the first at {first}"
                )
            return (
                f"{what}: the peak is {numbers.peak_db - numbers.gaussian_peak_db:.1f} dB above that of Gaussian data, "
                f"without them {found['excess_db_without']:.1f}{folded}"
            )
        case causes.COARSE_GROUP:
            return (
                f"the scale changes within slices of {found['slice']:,}: groups of {found['group_size']} gain "
                f"{found['gain_db']:.2f} dB{_gaussian_text(found)}"
            )
        case causes.UNUSED_CODES:
            side = "negative" if found["input_min"] >= 0 else "positive"
            return f"no element is {side}: half of the codes are never used"
        case causes.ASYMMETRIC:
            return (
                f"values from {significant(found['input_min'])} to {significant(found['input_max'])}: codes of the "
                f"shorter side are for nothing; outside the op: a zero point would gain up to "
                f"{found['zero_point_db']:.1f} dB (estimated)"
            )
        case causes.DUPLICATE:
            same = ", ".join(map(quote, found["tensors"]))
            return f"the same bytes as {same}: give them the same settings, store them once"
    return "behaves like Gaussian data of this size: nothing stands out"


def _gaussian_text(found: Parsed) -> str:
    """Return the part of a gain that Gaussian data would have too."""
    gaussian = found["gaussian_gain_db"]
    if abs(gaussian) < 0.005:
        return ""
    return f", where Gaussian data would {'gain' if gaussian > 0 else 'lose'} {abs(gaussian):.2f}"


def _degenerate_text(found: Parsed) -> str:
    count, first = found["slices"], found["subnormal_slices"]
    where = f" (number {', '.join(map(str, first))}{' ...' * (count > len(first))})" if first else ""
    have = "have" if count > 1 else "has"
    return (
        f"{count:,} of {counted(found['of'], 'slice')}{where} {have} a scale that is zero, infinite or too small to "
        "divide by: leave the tensor in float, or let larger slices share a range"
    )


def _grid_text(found: Parsed) -> str:
    slices = (
        f"groups of {found['group_size']}" if found["group_size"] else
        f"blocks of {found['block']}x{found['block']}" if found["block"] else
        "the whole tensor" if found["axis"] == "none" else "each row"
    )  # fmt: skip
    if found["values"] != "int":
        return (
            f"its values are {found['values']} numbers times a scale for {slices} already ({percent(found['slices'])} "
            "fit): quantizing them again adds its own error"
        )
    kind = f"{'' if found['signed_input'] else 'u'}int{found['num_bits']}"
    zero = "symmetric" if found["symmetric"] else "with a zero point, which the op has not"
    again = {True: ": quantized so again, it loses nothing", False: ": quantized so again, it changes", None: ""}
    return (
        f"its values lie on a grid already: {kind}, {slices}, {zero} ({percent(found['slices'])} fit)"
        f"{again[found['is_idempotent']]}"
    )


def _index_text(noun: str, found: Sequence[Parsed], count: int = 0) -> str:
    """Return `rows 17 (20x the median), 3 (8.1x), ...`."""
    shown = ", ".join(
        f"{entry['index']} ({significant(entry['ratio'], 2)}x{' the median size' if not k else ''})"
        for k, entry in enumerate(found)
    )
    more = f" and {count - len(found):,} more" if count > len(found) else ""
    return f"{noun}{'s' * (len(found) > 1)} {shown}{more}"


def facts(report: DiagnosedRun, quote: Quote) -> Iterator[str]:
    """Yield the share per cause, layers unlike their neighbours, and last the gain of the best changes on the run."""
    before, after = report.before.summary, report.after.summary
    total = sum(1 for _ in report.before.quantized)
    yield (
        f"{len(report.diagnoses):,} of {counted(total, 'tensor')} diagnosed, with {percent(report.share)} of the "
        "squared error"
    )
    for cause, count, share in report.shares():
        yield f"{cause}: {counted(count, 'tensor')}, {percent(share)} of the squared error"
    yield from (_neighbour_text(found, quote) for found in report.neighbours[:_NEIGHBOURS_SHOWN])
    if (more := len(report.neighbours) - _NEIGHBOURS_SHOWN) > 0:
        yield f"{counted(more, 'more tensor')} unlike their neighbours"
    changed = sum(1 for found in report.diagnoses if found.together is not None)
    limit = f"the best changes that add at most {report.max_bits_added:g} bits" if report.max_bits_added else (
        "the best changes that add no bits")  # fmt: skip
    if not changed:
        yield f"no change that adds at most {report.max_bits_added:g} bits gains 0.1 dB; --max-bits-added allows more"
        return
    bits = [float(found["bits_per_weight"] or 0.0) for found in (before, after)]
    yield (
        f"with {limit} to {counted(changed, 'tensor')}: {overall_text(report.before)} -> {overall_text(report.after)}, "
        f"{bits[1] - bits[0]:+.3f} bits per weight"
    )


def _neighbour_text(found: Neighbour, quote: Quote) -> str:
    """Return `layers.3.q_proj.weight: 4.10 dB below the layers around (14.55 instead of 18.65 dB, z -8.2)`."""
    deviation = found.sqnr_db - found.around_db
    return (
        f"{quote(found.row.source.name)}: {abs(deviation):.2f} dB {'below' if deviation < 0 else 'above'} its "
        f"kind in the layers around ({found.sqnr_db:.2f} instead of {found.around_db:.2f} dB, z {found.z:+.1f})"
    )


def overall_text(result: RunResult) -> str:
    """Return the SQNR of a whole run with its unit."""
    if result.is_exact and result.sums.num_measured:
        return EXACT
    return metric_text("sqnr_db", result.summary["sqnr_db"]) + " dB"


def _lines(diagnosis: Diagnosis, quote: Quote) -> Iterator[tuple[str, str]]:
    """Yield (label, text) of each line below the tensor's name."""
    yield "measured", _measured_text(diagnosis, quote)
    for number, finding in enumerate(diagnosis.findings):
        text = f"{finding.cause}: {finding_text(finding, diagnosis, quote)}"
        yield ("cause" if not number else "also"), text
    accounting = diagnosis.accounting
    if isfinite(accounting.peak_db):
        yield "accounting", accounting_text(accounting, level(diagnosis.row))
    for number, remedy in enumerate(diagnosis.remedies):
        yield ("remedies" if not number else ""), _remedy_line(remedy)
    kept = diagnosis.rows_in_float
    if kept is not None:
        rows = f"row{'s' * (len(kept.rows) > 1)} {', '.join(map(str, kept.rows[:3]))}{' ...' * (len(kept.rows) > 3)}"
        gain = f"{kept.gain_db:+.2f} dB" if isfinite(kept.gain_db) else EXACT
        yield "outside", f"{gain:>9}  {f'{kept.bits_added:+.3f} bits':>11}  {rows} left in float, which no recipe says"
    combination = combination_of(diagnosis)
    if combination is not None:
        yield "together", _remedy_line(combination)
    if not diagnosis.remedies and combination is None:
        yield "remedies", NO_REMEDY


def combination_of(diagnosis: Diagnosis) -> Remedy | None:
    """Return the best combination of changes where it is none of the remedies."""
    best = diagnosis.together
    return best if best is None or all(best.row is not remedy.row for remedy in diagnosis.remedies) else None


def _remedy_line(remedy: Remedy) -> str:
    gain, price, change = remedy_text(remedy)
    return f"{gain:>9}  {price:>11}  {change}"


def _measured_text(diagnosis: Diagnosis, quote: Quote) -> str:
    row = diagnosis.row
    return (
        f"{shape_text(row.source.shape)} {dtype_text(row, quote)}, "
        f"{spec_text(row.spec, quote, row.source.shape)}: {sqnr_text(level(row))}, {share_text(diagnosis)} of the error"
    )


def _table(report: DiagnosedRun, options: ReportOptions) -> Iterator[str]:
    quote = partial(quoted, options=options)
    width = max((options.width or _WIDTH) - len(_INDENT) - 2, 40)
    plain = [diagnosis for diagnosis in report.diagnoses if diagnosis.cause == causes.PLAIN]
    for diagnosis in report.diagnoses:
        if diagnosis.cause == causes.PLAIN:
            continue
        yield quote(diagnosis.row.source.name)
        for label, text in _lines(diagnosis, quote):
            # A remedy keeps its columns; it is short.
            parts = (
                [text]
                if label in ("remedies", "", "together", "outside")
                else wrap(text, width, break_on_hyphens=False)
            )
            for number, part in enumerate(parts):
                yield f"  {label if not number else '':{len(_INDENT)}}{part}"
        yield ""
    if plain:
        yield "plain: behave like Gaussian data of their size; nothing stands out"
        yield from table_lines(fit(_plain_columns(plain, quote), "sqnr", options.width, options.ellipsis), options)
        yield ""
    for fact in facts(report, quote):
        yield from [fact] if options.width is None else wrap(fact, options.width, break_on_hyphens=False)


def columns(report: DiagnosedRun, quote: Quote) -> list[Column]:
    """Return a row per diagnosed tensor: SQNR, share of the error, verdict, remedies and the best combination."""
    texts, numbers = partial(column, rows=report.diagnoses), partial(column, rows=report.diagnoses, is_number=True)
    return [
        texts("tensor", "tensor", cell=lambda d: quote(d.row.source.name)),
        numbers("sqnr", "SQNR", cell=lambda d: sqnr_text(level(d.row))),
        numbers("share", "of the error", cell=share_text),
        texts("cause", "cause", cell=lambda d: ", ".join(f.cause for f in d.findings)),
        texts("remedies", "remedies", cell=lambda d: quote("; ".join(map(_short, d.remedies)))),
        texts("together", "together", cell=lambda d: "" if d.together is None else quote(_short(d.together))),
    ]


def share_text(diagnosis: Diagnosis) -> str:
    """Return the tensor's share of the squared error."""
    return NO_NUMBER if diagnosis.row.share is None else percent(diagnosis.row.share)


def _plain_columns(plain: Sequence[Diagnosis], quote: Quote) -> list[Column]:
    """Return the columns of tensors without findings: measurements only."""

    def peak(diagnosis: Diagnosis) -> str:
        db = diagnosis.accounting.peak_db
        return f"{db:.2f}" if isfinite(db) else NO_NUMBER

    def rest(diagnosis: Diagnosis) -> str:
        db = diagnosis.accounting.rest_db
        return NO_NUMBER if db is None else f"{db:+.2f}"

    numbers = partial(column, rows=plain, is_number=True)
    return [
        column("tensor", "tensor", plain, lambda d: quote(d.row.source.name)),
        numbers("sqnr", "SQNR", cell=lambda d: sqnr_text(level(d.row))),
        numbers("share", "share", cell=share_text),
        numbers("peak/rms", "peak/RMS", cell=peak),
        numbers("rest", "rest", cell=rest),
        column("remedies", "remedies", plain, lambda d: "; ".join(map(_short, d.remedies[:2]))),
    ]


def _short(remedy: Remedy) -> str:
    """Return `--num-bits 5 +6.43 dB (+1.000 bits)`."""
    gain, price, change = remedy_text(remedy)
    return f"{change} {gain}" + (f" ({price})" if remedy.bits_added else "")


def _markdown(report: DiagnosedRun, options: ReportOptions) -> Iterator[str]:
    quote = partial(markdown.quoted, options=options)
    yield "| tensor | SQNR | of the error | cause | remedy |"
    yield "| :-- | --: | --: | :-- | :-- |"
    for diagnosis in report.diagnoses:
        row = diagnosis.row
        texts = [f"{gain}, {price}: `{change}`" for gain, price, change in map(remedy_text, diagnosis.remedies)]
        cause = "; ".join(f"**{f.cause}**: {finding_text(f, diagnosis, quote)}" for f in diagnosis.findings)
        cells = [
            quote(row.source.name),
            sqnr_text(level(row)),
            share_text(diagnosis),
            cause,
            "<br>".join(texts) or NO_NUMBER,
        ]
        yield f"| {' | '.join(map(escape.markdown_cell, cells))} |"
    yield ""
    yield from (f"- {fact}" for fact in facts(report, quote))


def to_json(report: DiagnosedRun) -> JsonObject:
    """Return the report; `tensors` are the rows of the run under the given settings."""
    return header_to_json(report.before) | {
        "summary": summary_to_json(report.before),
        "after": summary_to_json(report.after),
        "max_bits_added": report.max_bits_added,
        "diagnosed_share": report.share,
        "causes": [{"cause": cause, "tensors": n, "share": share} for cause, n, share in report.shares()],
        "neighbours": [
            {
                "tensor": one.row.source.name,
                "file": one.row.source.file,
                "sqnr_db": one.sqnr_db,
                "around_db": one.around_db,
                "z": one.z,
            }
            for one in report.neighbours
        ],
        "diagnoses": [_diagnosis_to_json(diagnosis) for diagnosis in report.diagnoses],
        "tensors": [row_to_json(row) for row in report.before.rows],
    }


def _diagnosis_to_json(diagnosis: Diagnosis) -> JsonObject:
    accounting, first = diagnosis.accounting, diagnosis.findings[0]
    return {
        "tensor": diagnosis.row.source.name,
        "file": diagnosis.row.source.file,
        "cause": first.cause,
        "evidence": dict(first.evidence),
        "also": [{"cause": found.cause, "evidence": dict(found.evidence)} for found in diagnosis.findings[1:]],
        "measured_db": finite(level(diagnosis.row)),
        "formula_db": finite(accounting.formula_db),
        "accounting": {
            "bits_db": accounting.bits_db,
            "uniform_db": UNIFORM_DB,
            "peak_db": finite(accounting.peak_db),
            "gaussian_peak_db": accounting.gaussian_peak_db,
            "rest_db": accounting.rest_db,
        },
        "remedies": [_remedy_to_json(remedy) for remedy in diagnosis.remedies],
        "together": None if diagnosis.together is None else _remedy_to_json(diagnosis.together),
        **({} if diagnosis.rows_in_float is None else {"rows_in_float": _rows_to_json(diagnosis.rows_in_float)}),
    }


def _rows_to_json(kept: RowsInFloat) -> JsonObject:
    return {
        "rows": list(kept.rows),
        "sqnr_db": finite(kept.sqnr_db),
        "gain_db": finite(kept.gain_db),
        "bits_added": kept.bits_added,
    }


def _remedy_to_json(remedy: Remedy) -> JsonObject:
    row = remedy.row
    return {
        "settings": remedy.changes,
        "spec": None if row.spec is None else spec_to_json(row.spec),
        "range": range_to_json(row.input_min, row.input_max),
        "sqnr_db": finite(level(row)),
        "gain_db": finite(remedy.gain_db),
        "bits_per_weight": row.bits_per_weight,
        "bits_added": remedy.bits_added,
        **({"exact": True} if row.is_unchanged else {}),
    }


DIAGNOSIS = Forms[DiagnosedRun](
    what="a diagnosis",
    lines={
        "table": _table,
        "json": json_lines(to_json),
        "markdown": _markdown,
    },
    page="qdqcli.report.html.diagnosis_page:page",
)
