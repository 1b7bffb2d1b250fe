"""What no report may hold, whatever the names in it: found by parsers that are not ours."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from xml.etree import ElementTree

import yaml
from markdown_it import MarkdownIt

_FORMULA = re.compile(r"[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?\d[\d.]*(e[+-]?\d+)?|-?inf|nan", re.IGNORECASE)
_TAGS = {
    *("body", "caption", "circle", "code", "dd", "details", "div", "dl", "dt", "figcaption", "figure", "footer", "h1"),
    *("h2", "h3", "head", "header", "html", "li", "line", "main", "meta", "noscript", "ol", "p", "path", "pre"),
    *("script", "section", "span", "strong", "style", "summary", "svg", "table", "tbody", "td", "text", "th", "thead"),
    *("title", "tr", "ul"),
}
"""Elements of the HTML page."""
_SCRIPTS = 2
"""Elements of the HTML page that are ours: the program and its data."""


def harm(format_name: str, text: str) -> list[str]:
    """What is wrong with a report; nothing, as it should be."""
    found = [f"control character {char!r}" for char in sorted(set(text)) if not char.isprintable() and char != "\n"]
    if format_name != "github":
        found += [f"a CI command: {line[:60]!r}" for line in text.splitlines() if line.startswith("::")]
    if format_name not in ("html", "junit"):  # pages and XML are not printed to a log
        found += [f"a CI command: {match!r}" for match in re.findall(r"##(?:vso\[|teamcity\[|\[)", text)]
    return found + list(CHECKS[format_name](text))


def harm_on_stderr(text: str) -> list[str]:
    """What is wrong with messages, which CI systems read too."""
    found = [f"control character {char!r}" for char in sorted(set(text)) if not char.isprintable() and char != "\n"]
    return found + [f"a CI command: {match!r}" for match in re.findall(r"##|^\s*::", text, re.MULTILINE)]


def _table(text: str) -> Iterator[str]:
    if "\x1b" in text or "\\x1b[31m" not in text:
        yield "an escape sequence is not shown as text"


def _json(text: str) -> Iterator[str]:
    json.loads(text, parse_constant=lambda word: (_ for _ in ()).throw(ValueError(word)))
    yield from ()


def _jsonl(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield from _json(line)


def _csv(text: str) -> Iterator[str]:
    rows = list(csv.reader(io.StringIO(text)))
    for row in rows:
        if len(row) != len(rows[0]):
            yield f"a row of {len(row)} cells: {str(row)[:60]}"
        for cell in row:
            if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
                yield f"a formula: {cell[:60]!r}"


def _markdown(text: str) -> Iterator[str]:
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        for inner in (token, *(token.children or ())):
            if inner.type in ("html_block", "html_inline", "link_open", "image", "em_open", "heading_open"):
                if inner.type == "heading_open" and token.map and text.splitlines()[token.map[0]].startswith("## "):
                    continue  # our own
                yield f"{inner.type}: {inner.content[:60]!r}"


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, str | None]]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, attrs))


def _html(text: str) -> Iterator[str]:
    parser = _Tags()
    parser.feed(text)
    if sum(tag == "script" for tag, _ in parser.found) > _SCRIPTS:
        yield "a script that is not ours"
    for tag, attributes in parser.found:
        if tag not in _TAGS:
            yield f"<{tag}>"
        for name, value in attributes:
            if name.startswith("on") or (name in ("href", "src") and not (value or "").startswith("#")):
                yield f"<{tag} {name}={value!r}>"


def _github(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.startswith("::") and not re.match(r"::(error|warning|notice)(?: [^:]*)?::[^:]", line):
            yield f"not our command: {line[:80]!r}"


def _junit(text: str) -> Iterator[str]:
    root = ElementTree.fromstring(text)
    if root.tag not in ("testsuites", "testsuite"):
        yield f"<{root.tag}>"


def _model_card(text: str) -> Iterator[str]:
    before, front_matter, card = text.split("---\n", 2)
    if before or not isinstance(yaml.safe_load(front_matter), dict):
        yield f"no front matter: {front_matter[:60]!r}"
    title, body = card.lstrip("\n").split("\n\n", 1)
    if not title.startswith("# "):
        yield f"no title: {title[:60]!r}"
    yield from _markdown(body)


CHECKS: dict[str, Callable[[str], Iterator[str]]] = {
    "table": _table,
    "json": _json,
    "jsonl": _jsonl,
    "csv": _csv,
    "markdown": _markdown,
    "html": _html,
    "github": _github,
    "gitlab": _json,
    "junit": _junit,
    "sarif": _json,
    "badge": _json,
    "card": _model_card,
}
