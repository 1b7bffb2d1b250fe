"""Runner of notebooks whose cells are plain Python: the last expression of a cell is its output.

    python -m tests.samples.notebook sample_data/tour.ipynb    # run it and write its outputs

Jupyter's own runner would bring a kernel process and 25 packages; what it adds, magics and rich media, is not used.
"""

import ast
import contextlib
import importlib.util
import io
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Output = dict[str, Any]


def cells_of(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the code cells that can run here: one tagged with a package's name needs that package."""
    code = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    return [cell for cell in code if all(importlib.util.find_spec(tag) for tag in cell["metadata"].get("tags", ()))]


def run(notebook: dict[str, Any], folder: Path) -> Iterator[tuple[dict[str, Any], list[Output]]]:
    """Run the code cells in `folder`, one after another; yield each with its outputs."""
    names: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes on the input, which Jupyter shows beside
        for number, cell in enumerate(cells_of(notebook), 1):
            printed, value = io.StringIO(), None
            *statements, last = ast.parse("".join(cell["source"])).body
            with contextlib.redirect_stdout(printed):
                if not isinstance(last, ast.Expr):
                    statements.append(last)
                exec(compile(ast.Module(statements, []), "cell", "exec"), names)
                if isinstance(last, ast.Expr):
                    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
            yield cell, [*_stream(printed.getvalue()), *_result(value, number)]


def _stream(text: str) -> Iterator[Output]:
    if text:
        yield {"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}


def _result(value: object, number: int) -> Iterator[Output]:
    """Yield the output of an expression: as HTML where it has that form, which keeps the file small, else as text."""
    if value is None:
        return
    html = getattr(value, "_repr_html_", None)
    kind, text = ("text/plain", repr(value)) if html is None else ("text/html", html())
    data = {kind: text.splitlines(keepends=True)}
    yield {"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"}


def main() -> None:
    path = Path(sys.argv[1])
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for number, (cell, outputs) in enumerate(run(notebook, path.parent), 1):
        cell |= {"outputs": outputs, "execution_count": number}
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + os.linesep, encoding="utf-8")


if __name__ == "__main__":
    main()
