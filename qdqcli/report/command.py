"""Command line that measures with the settings of a run, to type again."""

from collections.abc import Iterator, Sequence
from pathlib import PurePath

from qdqcli.plain import Parsed
from qdqcli.recipe.keys import SELECTION, SETTINGS
from qdqcli.recipe.request import DEFAULTS
from qdqcli.result.result import RunResult

_BY_NAME = ("num_bits", "signed_input", "axis", "group_size", "min_ndim")
"""Settings that options of their own tell, or a scheme."""
_PLAIN: Parsed = {
    key.removesuffix("_file"): list(value) if isinstance(value, tuple) else value
    for key, value in {**DEFAULTS, "scale_bits": 16}.items()
    if key not in _BY_NAME
}
"""Setting -> its default on the command line."""
_PROJECT_FILES = ("qdq.toml", "pyproject.toml")


def command_of(run: RunResult, command: str, options: Sequence[str] = ()) -> list[str]:
    """Return a command line that measures with the settings of a run."""
    inputs = [name if not name.startswith("-") else f"./{name}" for name in run.inputs]
    return ["qdq", command, *inputs, *_options(run.settings), *options]


def _options(settings: Parsed) -> Iterator[str]:
    """Yield the options that differ from the command's defaults."""
    recipe = str(settings.get("recipe") or "")
    if PurePath(recipe).name in _PROJECT_FILES:
        yield from ("--config", recipe)
    elif recipe:
        yield from ("--recipe", recipe)
    for name in each(settings.get("presets")):
        yield from ("--preset", str(name))
    yield from scheme_options(settings)
    for option, value in options_given(settings, _PLAIN):
        for one in each(value):
            yield from [option] if one is True else [option, str(one)]
    if settings.get("min_ndim") not in (None, 2):
        yield from ("--min-ndim", str(settings["min_ndim"]))


def options_given(settings: Parsed, defaults: Parsed) -> Iterator[tuple[str, object]]:
    """Yield option and value of each setting that differs from its default."""
    for key, default in defaults.items():
        value = settings.get(key, default)
        if value != default:
            yield f"--{key.replace('_', '-')}", value


def each(value: object) -> Sequence[object]:
    """Return the values of a repeatable option."""
    return value if isinstance(value, list | tuple) else [] if value is None else [value]


def settings_given(settings: Parsed) -> Iterator[tuple[str, object]]:
    """Yield the settings of a recipe's [defaults] that differ from the command's defaults, by key."""
    defaults = {"num_bits": None, "signed_input": True, "axis": "none", "group_size": None, **_PLAIN, "min_ndim": 2}
    for key, default in defaults.items():
        value = settings.get(key, default)
        if value not in (default, None) and key in (*SETTINGS, *SELECTION):
            yield key, value


def scheme_options(settings: Parsed) -> Iterator[str]:
    """Yield bits and granularity as options."""
    if not isinstance(settings.get("num_bits"), int):
        return
    name = f"{'' if settings.get('signed_input', True) else 'u'}int{settings['num_bits']}"
    axis, group_size = settings.get("axis", "none"), settings.get("group_size")
    if isinstance(group_size, int):
        yield from ("--scheme", f"{name}-g{group_size}")
    elif axis in ("none", 0, -1):
        yield from ("--scheme", f"{name}-{'channel' if axis == 0 else 'tensor'}")
    else:
        yield from ("--scheme", name, "--axis", str(axis))
