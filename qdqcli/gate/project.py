"""Project file: `qdq.toml`, or `[tool.qdq]` of a pyproject.toml, with model, settings, budget and reports.

Paths in it are relative to its folder. `cli/project.py` puts it beneath the options of the command line.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qdqcli.errors import UsageError
from qdqcli.escape import escape_name, show_path
from qdqcli.gate.budget import Budget, budget_in, parse_budget
from qdqcli.gate.keys import BUDGET
from qdqcli.plain import Parsed
from qdqcli.recipe.document import Document, read_text
from qdqcli.recipe.file import RecipeFile, recipe_in
from qdqcli.recipe.keys import RULES, SELECTION, SETTINGS, SHORT, VERSION
from qdqcli.recipe.lines import KeyPath
from qdqcli.recipe.schema import PATTERN, PATTERNS, either, published, table
from qdqcli.result.schema_check import Schema
from qdqcli.tensors.remote_path import is_url

PROJECT_FILE, PYPROJECT = "qdq.toml", "pyproject.toml"
_IN_PYPROJECT: KeyPath = ("tool", "qdq")
_WHAT = "the settings of a project are a TOML file"

PROJECT: Schema = table(
    {
        "schema": VERSION,
        "model": either(*PATTERNS, description="The checkpoint, or several; a folder, a file or a glob."),
        "recipe": {**PATTERN, "description": "A recipe, in place of settings and rules here."},
        "preset": either(*PATTERNS, description="Recipes that come with qdq, beneath the settings."),
        "ranges": {**PATTERN, "description": "A file of ranges by tensor."},
        **SHORT,
        **SETTINGS,
        **SELECTION,
        "rules": RULES,
        "budget": either(PATTERN, BUDGET, description="What a run may lose, or the file that says so."),
        "reports": either(*PATTERNS, description="Reports that are written, in the folder of this file."),
    },
    "Model, settings, budget and reports of a project.",
)
"""Schema of the file, and of `[tool.qdq]`."""


@dataclass(frozen=True, kw_only=True)
class Project:
    """Content of a project file."""

    path: Path
    models: Sequence[str] = ()
    settings: RecipeFile | None = None
    """Settings and rules in the file."""
    recipe: Path | None = None
    presets: Sequence[str] = ()
    ranges: Path | None = None
    budget: Budget | None = None
    """The budget in the file."""
    budget_file: Path | None = None
    reports: Sequence[Path] = ()


def find_project(start: Path | None = None) -> Path | None:
    """Return the project file of the working folder or of the nearest folder above it that has one.

    Above the working folder only files of its owner, of this user or of root count: others must not choose what is
    measured, or where reports are written.
    """
    try:
        here = Path.cwd() if start is None else start
        owners = {os.getuid(), 0, here.stat().st_uid}
    except OSError:  # the working folder was removed
        return None
    for number, folder in enumerate((here, *here.parents)):
        for name in (PROJECT_FILE, PYPROJECT):
            path = folder / name
            try:
                status = path.stat()
            except OSError:  # mostly not there, or a folder above that this user may not search
                continue
            if not stat.S_ISREG(status.st_mode) or (number and status.st_uid not in owners):
                continue
            shown = Path(*[".."] * number, name) if start is None else path
            if name == PROJECT_FILE or _has_table(Document(show_path(shown), read_text(shown, _WHAT))):
                return shown
    return None


def _has_table(document: Document) -> bool:
    """Tell whether a pyproject.toml has something under `tool.qdq`."""
    tool = document.data.get("tool")
    return isinstance(tool, dict) and "qdq" in tool


def read_project(path: Path) -> Project:
    """Read a project file; of a pyproject.toml its `[tool.qdq]`, which must be there.

    Raises:
        UsageError: no such file, not TOML, an unknown key (suggests the nearest), a value of the wrong type; names the
            line.
    """
    return parse_project(read_text(path, _WHAT), path)


def parse_project(text: str, path: Path) -> Project:
    """Parse the text of a project file; raises like `read_project`."""
    document = Document(show_path(path), text)
    base: KeyPath = ()
    if path.name == PYPROJECT:
        base = _IN_PYPROJECT
        if not _has_table(document):
            raise UsageError(f"{show_path(path)}: has no [tool.qdq]; add it, or name another file")
        if not isinstance(document.data["tool"]["qdq"], dict):
            document.fail(base, "qdq must be a table, [tool.qdq]")
    return _project(document, document.check(PROJECT, base), base, path)


def _project(document: Document, data: Parsed, base: KeyPath, path: Path) -> Project:
    folder = path.parent
    settings = recipe_in(document, data, base)
    if settings is not None and "recipe" in data:
        document.fail((*base, "recipe"), "recipe takes the place of settings and rules; leave one of the two out")
    budget = data.get("budget")
    return Project(
        path=path,
        models=[model if is_url(model) else str(folder / model) for model in _listed(data.get("model"))],
        settings=settings,
        recipe=_path(folder, data.get("recipe")),
        presets=_listed(data.get("preset")),
        ranges=_path(folder, data.get("ranges")),
        budget=budget_in(document, budget, folder, (*base, "budget")) if isinstance(budget, dict) else None,
        budget_file=_path(folder, budget) if isinstance(budget, str) else None,
        reports=[_report(document, base, folder, name) for name in _listed(data.get("reports"))],
    )


def read_budget(path: Path) -> Budget:
    """Read the budget of a TOML file, or of a project file.

    Raises:
        UsageError: no such file, not TOML, an unknown key (suggests the nearest), a value of the wrong type; names the
            line.
    """
    if path.name not in (PROJECT_FILE, PYPROJECT):
        return parse_budget(read_text(path, "a budget is a TOML file"), path)
    project = read_project(path)
    if project.budget_file is not None:
        return read_budget(project.budget_file)
    if project.budget is None:
        name = "[tool.qdq.budget]" if path.name == PYPROJECT else "[budget]"
        raise UsageError(f"{show_path(path)}: has no {name}; add it, or name another file")
    return project.budget


def _listed(value: str | list[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _path(folder: Path, name: str | None) -> Path | None:
    return None if name is None else folder / name


def _report(document: Document, base: KeyPath, folder: Path, name: str) -> Path:
    """Return the path of a report within the folder: a file that came with the sources may not choose another place."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        where = "leads out of the folder of this file; give it with --report"
        document.fail((*base, "reports"), f"report '{escape_name(name)}' {where}")
    return path


def json_schema() -> dict[str, object]:
    """Return the JSON schema of a project file."""
    return published(PROJECT, "Project of qdq")
