"""A small RunResult with a row of every kind, and names that a hostile checkpoint may hold."""

from dataclasses import replace
from itertools import cycle
from math import inf, nan

from qdqcli.op.spec import QuantSpec
from qdqcli.result.result import Row, RunResult, SkippedTensor, Source, TensorResult
from qdqcli.tensors.note import Note, NoteKind
from tests.stats.samples import measured

HOSTILE = (
    *("", " ", " a ", "a b", "a\nb", "\x1b[31mred\x1b[0m", "nul\x00nul", "\r", "\t", "\x07", "\x85", "\x9b31m"),
    *("\u202eabc", "\u2066a\u2069", "\u200b", "\ufeff", "\u2028", "\ud800", "\udcff.npy", "\ufffe"),
    *("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1", "a,b", 'a"b', "a;b", "'a"),
    *("a|b", "|x|", "a\\|b", "a\\", "\\", "|", "`", "``a`", "a`b", "`a", "<script>alert(1)</script>", "&amp;", "<!--"),
    *("*a*", "__a__", "~~a~~", "[a](http://b)", "![a](b)", "@octocat", "#1", ":smile:", "https://a.b", "- a", "# a"),
    *("[bold red]x[/]", "[/]", "[/red]", "[link=x]y", "\\[b]", "{w}", "%(w)s", "{0.__class__}", "${HOME}"),
    *("::error file=a::b", "x\n::warning::y", "\n::error::", ":::error::", "##vso[task.complete]", "##[error]x"),
    *("##teamcity[buildStop]", "###", "]]>", "../../evil", "-o", "--help", "$(id)"),
    *("\u6a21\u578b.\u6743\u91cd", "\U0001f916", "e\u0301", "\u05d0\u05d1", "1" * 5000),
)
"""Beyond the names of the corpus of bad inputs (RELIABILITY, section 8)."""

LONG = "layers." + "x" * 100_000 + ".weight"


def quantized(
    name: str, x: list[float], y: list[float], *, spec: QuantSpec | None = None, file: str = "m.safetensors"
) -> TensorResult:
    """A row with the sums of `x` and `y`."""
    sums = measured(x, y)
    return TensorResult(
        source=Source(name=name, file=file, dtype="BF16", shape=(len(x), 1)),
        spec=spec or QuantSpec(axis=0),
        input_min=sums.input_min if sums.num_measured else None,
        input_max=sums.input_max if sums.num_measured else None,
        num_slices=4,
        scale_bits=16,
        sums=sums,
    )


def skipped(name: str, reason: str, num_elements: int = 36) -> SkippedTensor:
    source = Source(name=name, file="m.safetensors", dtype="I64", shape=(num_elements,))
    return SkippedTensor(source=source, num_elements=num_elements, reason=reason)


def run_of(*rows: Row, inputs: tuple[str, ...] = ("m.safetensors",)) -> RunResult:
    return RunResult(command="stats", inputs=inputs, settings={"num_bits": 8, "axis": 0}, rows=rows)


GOOD = quantized("model.good.weight", [1.0, -2.0, 3.0], [1.001, -2.0, 3.0])
BAD = quantized("model.bad.weight", [1.0, -2.0, 3.0], [0.5, -2.0, 3.0], spec=QuantSpec(num_bits=4, group_size=1))
EXACT = quantized("model.exact.weight", [1.0, -2.0], [1.0, -2.0])
EMPTY = quantized("model.empty.weight", [], [])
UNMEASURED = quantized("model.nan.weight", [nan, nan], [nan, nan])
NONFINITE = quantized("model.inf.weight", [1.0, 2.0, nan, 3.0], [1.1, 2.0, nan, inf])
_DEGENERATE = quantized("model.degenerate.weight", [0.0, 1.0], [0.0, 1.25])
DEGENERATE = _DEGENERATE._replace(sums=_DEGENERATE.sums._replace(num_degenerate=2))
SKIPPED = skipped("ids", "I64 is not a floating-point dtype")
KEPT = skipped("model.norm.weight", "kept in float")

NOTES = tuple(Note.of(kind, f"m/{kind}.safetensors", ["w", "v", "u", "t"], "m/s1.safetensors") for kind in NoteKind)
EVERY_KIND = replace(run_of(GOOD, SKIPPED, BAD, EXACT, EMPTY, UNMEASURED, KEPT, NONFINITE, DEGENERATE), notes=NOTES)


def hostile_run() -> RunResult:
    """Every hostile text as a name, a file and a reason, and in notes."""
    rows: list[Row] = []
    for name in (*HOSTILE, LONG):
        rows.append(quantized(name, [1.0, 2.0], [1.0, 2.5], file=f"{name}.safetensors"))
        rows.append(skipped(name, name))
    notes = [Note.of(kind, name, [name], name) for kind, name in zip(cycle(NoteKind), HOSTILE, strict=False)]
    return replace(run_of(*rows, inputs=HOSTILE), notes=notes)
