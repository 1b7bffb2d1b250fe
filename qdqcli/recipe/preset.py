"""PRESETS: recipes that come with the program. Each is a file that can be printed, copied and changed."""

from functools import cache
from importlib.resources import files

from qdqcli.recipe.file import RecipeFile, parse_recipe

PRESETS = ("int8-per-tensor", "int8-per-channel", "int4-per-channel", "int4-group128", "int4-group32", "weights-only")
"""Names of the files in `presets/`."""


def preset_text(name: str) -> str:
    """The file of a preset, comments included."""
    return files("qdqcli.recipe").joinpath("presets", f"{name}.toml").read_text(encoding="utf-8")


@cache
def preset(name: str) -> RecipeFile:
    """The preset of that name, one of `PRESETS`."""
    return parse_recipe(preset_text(name), f"preset {name}", prefix=f"preset {name}, ")
