"""Check the language of the project: docstrings, texts and names in the words of the field.

    python .ci/words.py [FILE ...]

Without arguments all tracked Python and Markdown files are read. Prints a line for each finding; exit status 1 when
there is any. A docstring's first line is a noun phrase or a verb, never a relative clause, the field's terms stand
instead of paraphrases, and no two classes share a name. codespell, beside it, finds typos.
"""

import ast
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

OPENING = re.compile(r"(What|Whether|Of|The same|Where|As|In which|Whose|Nothing|All that|Those|That)\b")
"""First words of a docstring that is a relative clause or a fragment."""

WORDS = {
    r"\banew\b": "again, or: start over",
    r"\bh(o|e)ld (it|the run|them)? ?against\b": "compare with, check against",
    r"past the caches": "non-temporal",
    r"\b(it )?is no (report|budget|recipe|day|range|headroom)\b": "not a ..., invalid ...: expected ...",
    r"\bby seven of ten\b": "70 %",
    r"\bfor eyes\b": "for readers",
    r"\bspelt\b": "spelled",
    r"\bwhoever\b": "name the subject",
}
"""Pattern -> what to write instead, in comments, strings and pages."""

KERNELS = ("qdqcli/op/", "qdqcli/measure/", "qdqcli/ranges/", "qdqcli/run/")
EVERYWHERE = ("qdqcli/", "tests/")
NAMES: dict[str, tuple[str, tuple[str, ...]]] = {
    "careful": ("scalar", EVERYWHERE),
    "ends": ("ranges", ("qdqcli/op/", "qdqcli/measure/")),
    "grid": ("qparams", ("qdqcli/op/cpu/", "qdqcli/measure/", "qdqcli/ranges/")),
    "grids": ("qparams", KERNELS),
    "hull": ("overall_range", KERNELS),
    "layers": ("OptionSources", ("qdqcli/cli/", "qdqcli/recipe/")),
    "masked": ("gradient", ("qdqcli/cli/", "qdqcli/run/", "qdqcli/op/")),
    "neighbour": ("batch", KERNELS),
    "neighbours": ("batch", KERNELS),
    "place": ("location, index, offset, directory", (*KERNELS, "qdqcli/tensors/", "qdqcli/output/", "qdqcli/study/")),
    "requantize": ("fake_quantize", EVERYWHERE),
    "room": ("capacity, scratch, available", ("qdqcli/",)),
    "span": ("file range, block", KERNELS),
    "splat": ("broadcast", EVERYWHERE),
    "streaming": ("nontemporal", KERNELS),
    "switch": ("StaticBool", ("qdqcli/op/",)),
    "talk": ("verbosity", EVERYWHERE),
    "trouble": ("io_status", KERNELS),
}
"""Word of a name -> what to call it, and the folders where the word has another meaning or none."""


def name_findings(path: Path) -> Iterator[tuple[int, str]]:
    """(line, problem) of the names in a Python file."""
    banned = {word: better for word, (better, folders) in NAMES.items() if path.as_posix().startswith(folders)}
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.NAME and not token.string.startswith("test_"):
                for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", token.string.replace("in_place", "")):
                    if word.lower() in banned:
                        yield token.start[0], f"name '{token.string}': write {banned[word.lower()]}"


def findings(path: Path) -> Iterator[tuple[int, str]]:
    """(line, problem) of one file."""
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, better in WORDS.items():
            if found := re.search(pattern, line, re.IGNORECASE):
                yield number, f"'{found[0]}': write {better}"
    if path.suffix == ".py":
        yield from name_findings(path)
    if path.suffix == ".py" and path.parts[0] == "qdqcli":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                first = (ast.get_docstring(node) or "").split("\n")[0]
                if OPENING.match(first):
                    yield getattr(node, "lineno", 1), f"docstring opens with a relative clause: {first[:60]!r}"


def shared_classes(paths: list[Path]) -> Iterator[tuple[str, str]]:
    """(location, problem) of the public classes of the package that have the name of another one."""
    first: dict[str, Path] = {}
    for path in paths:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                other = first.setdefault(node.name, path)
                if other != path:
                    yield f"{path}:{node.lineno}", f"class '{node.name}' is in {other} too: one name, one thing"


def main(arguments: list[str]) -> int:
    """Print the findings; 1 where there are any."""
    if not arguments:
        listed = subprocess.run(["git", "ls-files", "*.py", "*.md"], capture_output=True, text=True, check=False).stdout
        tracked = [name for name in listed.split() if Path(name).exists()]  # the index has deleted files too
        arguments = tracked or [str(path) for path in sorted(Path("qdqcli").rglob("*.py"))]
    count = 0
    for name in arguments:
        if name.startswith(".ci/"):
            continue
        for line, problem in findings(Path(name)):
            print(f"{name}:{line}: {problem}")  # noqa: T201
            count += 1
    for where, problem in shared_classes(sorted(Path("qdqcli").rglob("*.py"))):
        print(f"{where}: {problem}")  # noqa: T201
        count += 1
    return min(count, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
