"""Check the language of the project: docstrings that open as the field writes them, no word of the old idiom.

    python .ci/words.py [FILE ...]

Without arguments all tracked Python and Markdown files are read. Prints a line for each finding; exit status 1 when
there is any. A docstring's first line is a noun phrase or a verb, never a relative clause, and the field's terms stand
instead of paraphrases.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

OPENING = re.compile(r"(What|Whether|Of|The same|Where|As|In which|Whose|Nothing|All that|Those|That)\b")
"""First words of a docstring that is a relative clause or a fragment."""

WORDS = {
    r"begin anew": "start over",
    r"hold (it|the run|them) against": "compare with",
    r"past the caches": "non-temporal",
    r"\bit is no (report|budget|recipe)\b": "it is not a ...",
    r"\bby seven of ten\b": "70 %",
}
"""Pattern -> what to write instead."""


def findings(path: Path) -> Iterator[tuple[int, str]]:
    """(line, problem) of one file."""
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, better in WORDS.items():
            if found := re.search(pattern, line, re.IGNORECASE):
                yield number, f"'{found[0]}': write {better}"
    if path.suffix == ".py" and path.parts[0] == "qdqcli":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                first = (ast.get_docstring(node) or "").split("\n")[0]
                if OPENING.match(first):
                    yield getattr(node, "lineno", 1), f"docstring opens with a relative clause: {first[:60]!r}"


def main(arguments: list[str]) -> int:
    """Print the findings; 1 where there are any."""
    if not arguments:
        listed = subprocess.run(["git", "ls-files", "*.py", "*.md"], capture_output=True, text=True, check=False).stdout
        arguments = listed.split() or [str(path) for path in sorted(Path("qdqcli").rglob("*.py"))]
    count = 0
    for name in arguments:
        if name.startswith(".ci/"):
            continue
        for line, problem in findings(Path(name)):
            print(f"{name}:{line}: {problem}")  # noqa: T201
            count += 1
    return min(count, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
