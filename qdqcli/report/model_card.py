"""Model card: Markdown with the front matter that the Hugging Face hub reads, to publish beside a checkpoint.

Source: huggingface.co/docs/hub, Model Cards: base_model, base_model_relation, tags.
"""

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

from qdqcli.escape import without_commands
from qdqcli.gate.generate import toml_value
from qdqcli.plain import Parsed
from qdqcli.report import escape
from qdqcli.report.badge import settings_text
from qdqcli.report.command import command_of, settings_given
from qdqcli.report.markdown import quoted, summary_lines, table_lines, verdict_lines
from qdqcli.report.number import counted
from qdqcli.report.options import ReportOptions
from qdqcli.report.ranking import BY_NAME, DEFAULT_SORT
from qdqcli.report.summary import facts, few, hidden, input_notes, notes, warnings
from qdqcli.report.table import Quote, columns_of
from qdqcli.result.result import RunResult

MAX_LINE = 1000
"""Longest line of a block of code; the middle of a longer one is cut out."""
WRITING = ("run", "finish")
"""Commands whose report is on a checkpoint that they have written."""
_IDS = (
    re.compile(r"(?:^|/)models--([\w.-]+?)--([\w.-]+)/snapshots(?:/|$)"),
    re.compile(r"^hf://([\w.-]+)/([\w.-]+?)(?:@[^/]*)?(?:/|$)"),
)
"""Inputs that tell the model's id: a snapshot in the hub's cache, a URL."""


def render(run: RunResult, options: ReportOptions) -> Iterator[str]:
    """Return front matter, figures by layer (`options.by`), recipe and command."""
    return escape.finished(_lines(run, options), ascii_only=options.ascii_only)


def hub_id(run: RunResult) -> str | None:
    """Return ORG/NAME of the first input, where its path tells."""
    for pattern in _IDS:
        if run.inputs and (found := pattern.search(run.inputs[0])):
            return f"{found[1]}/{found[2]}"
    return None


def base_model(run: RunResult, options: ReportOptions) -> str:
    """Return the id that was given or found, else the last part of the input's path."""
    name = (run.inputs[0] if run.inputs else "").rstrip("/").rpartition("/")[2]
    return options.base_model or hub_id(run) or name or "model"


def _lines(run: RunResult, options: ReportOptions) -> Iterator[str]:
    quote = partial(quoted, options=options)
    base, rows = base_model(run, options), list(run.quantized)
    settings = settings_text(run, rows)
    yield from _front_matter(base, settings)
    yield f"# {quote(base.rpartition('/')[2])}, {settings}"
    yield ""
    yield _what(run, quote(base), counted(len(rows), "tensor"), f"qdq {escape.word(run.version, quote)}")
    yield ""
    if run.verdict is not None:
        yield from verdict_lines(run, run.verdict, quote, options)
    yield from summary_lines(facts(run, DEFAULT_SORT, quote))
    advice = [*warnings(run, quote), *input_notes(run, quote), *notes(run, quote)]
    yield from (text for line in advice for text in ("", f"- {line}."))
    by = options.by or "layer"
    columns, num_hidden = columns_of(run, replace(options, by=by, sort=BY_NAME), quote)
    if columns:
        yield ""
        yield f"## Error by {by}"
        yield ""
        yield from table_lines(columns)
        yield from (text for line in hidden(num_hidden) for text in ("", line))
    yield ""
    yield (
        "SQNR ranks settings and layers: a bit is worth 6 dB, int8 per channel gives some 40 dB, plain int4 17 to "
        "20 dB. The accuracy of the model was not measured."
    )
    yield from _how(run, quote, ascii_only=options.ascii_only)


def _front_matter(base: str, settings: str) -> Iterator[str]:
    yield "---"
    yield f"base_model: {escape.json_text(escape.visible(base, ascii_only=True))}"
    yield "base_model_relation: quantized"
    yield "tags:"
    yield "- qdq"
    yield "- simulated-quantization"
    yield from (f"- {word}" for word in settings.split()[:1] if re.fullmatch(r"u?int\d+", word))
    yield "---"
    yield ""


def _what(run: RunResult, base: str, tensors: str, tool: str) -> str:
    if run.command == "compare":
        return f"Error of the weights against those of {base}: {tensors}, measured by {tool}."
    kind = "linear, symmetric integers without a zero point"
    if run.command in WRITING:
        return f"The weights of {base}, {tensors}, quantized to {kind} and dequantized to their dtypes by {tool}."
    return f"Error of the weights of {base}, {tensors}, when quantized to {kind}: measured by {tool}."


def _how(run: RunResult, quote: Quote, *, ascii_only: bool) -> Iterator[str]:
    rules = run.settings.get("rules")
    if isinstance(rules, list) and rules:
        yield ""
        yield "## Recipe"
        yield ""
        yield from _block("toml", _recipe(run.settings, rules), ascii_only=ascii_only)
    yield ""
    yield "## Command"
    yield ""
    yield f"On {few(run.inputs, quote)}:"
    yield ""
    is_run = run.command in WRITING
    command = command_of(run, "run" if is_run else run.command, ["-o", "OUTPUT"] if is_run else [])
    yield from _block("sh", [shlex.join(command)], ascii_only=ascii_only)


def _recipe(settings: Parsed, rules: Iterable[Parsed]) -> Iterator[str]:
    yield "[defaults]"
    yield from (f"{key} = {toml_value(value)}" for key, value in settings_given(settings))
    for rule in rules:
        yield "[[rules]]"
        yield from (f"{key} = {toml_value(value)}" for key, value in rule.items() if key != "place")


def _block(language: str, lines: Iterable[str], *, ascii_only: bool) -> Iterator[str]:
    yield f"```{language}"
    for line in lines:
        shown = without_commands(escape.visible(line, ascii_only=ascii_only))
        yield escape.shorten(shown, MAX_LINE, ellipsis="...")
    yield "```"
