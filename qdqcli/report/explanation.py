"""Report of an explanation: a line per tensor or, for tensors asked for by name, a line per setting."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from qdqcli.recipe.decision import Resolution, Skip, fields_of, resolution_to_json
from qdqcli.recipe.listing import ListedTensor, Listing
from qdqcli.report import escape
from qdqcli.report.json import document
from qdqcli.report.layout import fit
from qdqcli.report.number import NO_NUMBER, counted
from qdqcli.report.options import ReportOptions
from qdqcli.report.table import MAX_NAME, Column, Quote, column, shape_text, spec_text
from qdqcli.report.text import table_lines
from qdqcli.result.result import header_to_json, source_to_json


def render_json(listing: Listing) -> Iterator[str]:
    """Yield the full JSON report, a line per tensor; a resolution shared by many tensors is serialized once."""
    tensors = listing.tensors
    kinds = {id(tensor.resolution): tensor.resolution for tensor in tensors}
    common = {key: escape.json_text(resolution_to_json(resolution))[1:] for key, resolution in kinds.items()}
    counts = {name: listing.summary[name] for name in ("num_tensors", "num_quantized", "num_skipped")}
    rows = ((escape.json_text(source_to_json(t.source))[:-1], ", ", common[id(t.resolution)]) for t in tensors)
    yield from document(header_to_json(listing) | {"summary": counts}, rows, {})


def render_table(listing: Listing, options: ReportOptions, *, is_detailed: bool) -> Iterator[str]:
    """Return the report as a text table: a line per tensor or, with `is_detailed`, per setting of each."""
    quote = partial(_quoted, options=options)
    lines = (_details if is_detailed else _rows)(listing, options, quote)
    return escape.finished(lines, ascii_only=options.ascii_only)


def decided_text(decided_by: Mapping[str, str], quote: Quote) -> str:
    """Return each place with its settings, rules first: `rule 1 (line 5): num_bits; [defaults] (line 2): axis`."""
    keys: dict[str, list[str]] = {}
    for key, place in decided_by.items():
        keys.setdefault(place, []).append(key)
    return "; ".join(f"{quote(place)}: {', '.join(keys[place])}" for place in ranked_places(decided_by))


def ranked_places(decided_by: Mapping[str, str]) -> list[str]:
    """Return the unique places, rules first."""
    return sorted(dict.fromkeys(decided_by.values()), key=lambda place: "rule " not in place)


def _rows(listing: Listing, options: ReportOptions, quote: Quote) -> Iterator[str]:
    tensors = listing.tensors
    becomes, decided = _by_resolution(tensors, quote)
    if tensors:
        columns = [
            column("tensor", "tensor", tensors, lambda tensor: quote(tensor.source.name)),
            Column(name="becomes", title="becomes", cells=becomes),
            Column(name="decided", title="decided by", cells=decided),
        ]
        layout = fit(columns, "decided", options.width, options.ellipsis)
        yield from table_lines(layout, options)
        yield from layout.remarks
        yield ""
    quantized = sum(not isinstance(tensor.decision, Skip) for tensor in tensors)
    yield f"{counted(len(tensors), 'tensor')}, {quantized:,} to quantize; settings that are not named are built in"


def _by_resolution(tensors: Sequence[ListedTensor], quote: Quote) -> tuple[list[str], list[str]]:
    """Return outcome and origin of each tensor; tensors that share a resolution share the texts."""
    texts: dict[int, tuple[str, str]] = {}
    for tensor in tensors:
        if id(tensor.resolution) not in texts:
            decided = decided_text(tensor.resolution.decided_by, quote)
            texts[id(tensor.resolution)] = _becomes(tensor.resolution, quote), decided or NO_NUMBER
    pairs = [texts[id(tensor.resolution)] for tensor in tensors]
    return [becomes for becomes, _ in pairs], [decided for _, decided in pairs]


def _details(listing: Listing, options: ReportOptions, quote: Quote) -> Iterator[str]:
    for number, tensor in enumerate(listing.tensors):
        source, resolution = tensor.source, tensor.resolution
        yield from ("",) if number else ()
        head = (quote(source.name), escape.word(source.dtype, quote), shape_text(source.shape))
        yield "  ".join((*head, _becomes(resolution, quote)))
        yield f"matched by  {', '.join(quote(rule.place) for rule in resolution.rules) or 'no rule'}"
        fields = fields_of(resolution)
        if not fields:
            continue
        columns = [
            column("setting", "setting", fields, str),
            column("value", "value", fields.values(), lambda field: quote(_value(field[0]))),
            column("decided", "decided by", fields.values(), lambda field: quote(field[1][-1])),
            column("over", "over", fields.values(), lambda field: quote(", ".join(reversed(field[1][:-1])))),
        ]
        yield from table_lines(fit(columns, "name", None, options.ellipsis), options)


def _becomes(resolution: Resolution, quote: Quote) -> str:
    decision = resolution.decision
    return f"keep: {quote(decision.reason)}" if isinstance(decision, Skip) else spec_text(decision, quote)


def _value(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case tuple():
            return ", ".join(value)
    return str(value)


def _quoted(text: str, options: ReportOptions) -> str:
    shown = escape.terminal(text, ascii_only=options.ascii_only) if text else ""
    return escape.shorten(shown, MAX_NAME, ellipsis=options.ellipsis)
