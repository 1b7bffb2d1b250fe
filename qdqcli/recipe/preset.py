"""PRESETS: recipes that come with the program. Each is a file that can be printed, copied and changed.

They select tensors; bits and granularity have names of their own, schemes.
"""

from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path

from qdqcli.errors import UsageError
from qdqcli.escape import escape_name
from qdqcli.recipe.file import RecipeFile, parse_recipe, read_recipe
from qdqcli.recipe.scheme import is_scheme

PRESETS = ("linear-only",)
"""Names of the files in `presets/`."""
_FORMER = {
    "weights-only": "--preset linear-only",
    "int8-per-tensor": "--scheme int8-tensor",
    "int8-per-channel": "--scheme int8-channel",
    "int4-per-channel": "--scheme int4-channel",
    "int4-group128": "--scheme int4-g128",
    "int4-group32": "--scheme int4-g32",
}
"""Preset name of an earlier version -> the option that replaces it."""


def preset_text(name: str) -> str:
    """Return the file of a preset, comments included.

    Raises:
        UsageError: no such preset; offers the nearest.
    """
    check_preset(name)
    return files("qdqcli.recipe").joinpath("presets", f"{name}.toml").read_text(encoding="utf-8")


@cache
def preset(name: str) -> RecipeFile:
    """Return the preset of that name; raises like `preset_text`."""
    return parse_recipe(preset_text(name), f"preset {name}", prefix=f"preset {name}, ")


def check_preset(name: str) -> str:
    """Return the name; raises UsageError unless there is a preset of that name."""
    if name not in PRESETS:
        nearest = get_close_matches(name, PRESETS, n=1, cutoff=0.4) or PRESETS
        offer = option_for(name) or f"try {', '.join(nearest)}"
        raise UsageError(f"there is no preset '{escape_name(name)}'; {offer}")
    return name


def read_named(path: Path) -> RecipeFile:
    """Read a recipe; raises like `read_recipe`, with a hint where the path is the name of a preset or a scheme."""
    try:
        return read_recipe(path)
    except UsageError as error:
        hint = option_for(str(path))
        if hint is not None and not path.exists():
            error.advise(hint)
        raise


def option_for(name: str) -> str | None:
    """Return a hint for a name that is not a recipe: the option for a preset, former preset or scheme."""
    if name in PRESETS:
        return f"it is a preset: --preset {name}"
    if name in _FORMER:
        return f"it is now {_FORMER[name]}"
    return f"it is a scheme: --scheme {name}" if is_scheme(name) else None
