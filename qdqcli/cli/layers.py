"""`--recipe` and `--preset`: recipes laid under the options of the command line."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from qdqcli.cli.session import Session
from qdqcli.errors import UsageError
from qdqcli.op.spec import DEFAULT_ESTIMATOR
from qdqcli.recipe.file import RecipeFile, read_recipe
from qdqcli.recipe.keys import SELECTION, SETTINGS
from qdqcli.recipe.preset import PRESETS, check_preset, option_for, preset
from qdqcli.recipe.rule import Rule, displaced, rule_to_json
from qdqcli.recipe.scheme import settings_of_scheme

Function = TypeVar("Function", bound=Callable[..., Any])
Options = Mapping[str, Any]


def parse_preset(value: str) -> str:
    """The name of a preset; raises like `check_preset`."""
    check_preset(value)
    return value


def recipe_options(function: Function) -> Function:
    """Settings by tensor, from files."""
    preset_option = click.option(
        "--preset", "presets", multiple=True, type=parse_preset, metavar="NAME",
        shell_complete=lambda _ctx, _parameter, start: [name for name in PRESETS if name.startswith(start)],
        help=f"Take a recipe that comes with qdq, under --recipe: {', '.join(PRESETS)} leaves norms, biases, "
        "embeddings, output heads and routers in float. Repeatable; 'qdq recipe show NAME' prints it.")  # fmt: skip
    recipe_option = click.option(
        "--recipe", type=click.Path(path_type=Path), metavar="FILE",
        help="Take settings by tensor from this TOML or JSON file: its rules override options, which override its "
        "[defaults].")  # fmt: skip
    return recipe_option(preset_option(function))


@dataclass(frozen=True, kw_only=True)
class Layers:
    """The options with recipes laid under them."""

    options: Options
    """As if all had been given on the command line."""
    rules: Sequence[Rule] = ()
    places: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Key -> what set it, the one that holds last."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What a report says of the recipes, as JSON values."""

    @classmethod
    def of(cls, options: Options, session: Session) -> "Layers":
        """Read the recipes that are asked for.

        Raises:
            UsageError: a recipe is malformed.
        """
        recipe, names, scheme = options.get("recipe"), options.get("presets", ()), options.get("scheme")
        if recipe is None and not names and scheme is None:
            return cls(options=options)
        sources = [*map(preset, names), *([] if recipe is None else [_read(recipe)])]
        for note in (note for source in sources for note in source.notes):
            session.note(note)
        laid = _Laid(options=dict(options), places={})
        for source in sources:
            laid.lay(source.defaults, dict.fromkeys((*SETTINGS, *SELECTION), source.place))
        if scheme is not None:
            settings = settings_of_scheme(scheme)
            laid.lay(settings, dict.fromkeys(settings, "--scheme"))
        given = _given(options)
        laid.lay(given, {key: _flag(key, value) for key, value in given.items()})
        places = {key.removesuffix("_file"): found for key, found in laid.places.items()}
        if not sources:
            return cls(options=laid.options)
        rules = [rule for source in sources for rule in source.rules]
        described = {
            "presets": list(names),
            "recipe": None if recipe is None else str(recipe),
            "rules": list(map(rule_to_json, rules)),
        }
        return cls(options=laid.options, rules=rules, places=places, settings=described)


def _read(path: Path) -> RecipeFile:
    """The recipe in a file; raises like `read_recipe`, with the option to use where the path is a known name."""
    try:
        return read_recipe(path)
    except UsageError as error:
        hint = option_for(str(path))
        if hint is None or path.exists():
            raise
        raise UsageError(f"{error}; {hint}") from None


@dataclass(frozen=True, kw_only=True)
class _Laid:
    """Options on the way: a table replaces what it names, and the settings that these exclude."""

    options: dict[str, Any]
    places: dict[str, tuple[str, ...]]

    def lay(self, changes: Mapping[str, Any], place: Mapping[str, str]) -> None:
        laid = {key: (value, key) for key, value in changes.items()}
        for key, (value, because) in (_replaced(changes) | laid).items():
            if key in changes or self.options.get(key) != value:
                self.options[key] = value
                self.places[key] = (*self.places.get(key, ()), place[because])


def _replaced(changes: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """What a later table makes of settings that exclude its own, and the setting because of which."""
    found = displaced(changes)
    if "axis" in changes and "group_size" not in changes:
        found["group_size"] = None, "axis"
    for key in ("estimator", "ranges_file"):
        if key in changes and "input_min" not in changes:
            found |= {"input_min": (None, key), "input_max": (None, key)}
    if "ranges_file" in changes and "estimator" not in changes:
        found["estimator"] = DEFAULT_ESTIMATOR, "ranges_file"
    return found


def _given(options: Options) -> dict[str, Any]:
    """The options that stand on the command line."""
    context = click.get_current_context()
    return {
        key: options[key]
        for key in (*SETTINGS, *SELECTION, "ranges_file")
        if key in options and context.get_parameter_source(key) not in (None, ParameterSource.DEFAULT)
    }


def _flag(key: str, value: Any) -> str:
    """How the command line says it: `--num-bits`, `--unsigned-input`."""
    for parameter in click.get_current_context().command.params:
        if parameter.name == key:
            return parameter.secondary_opts[0] if value is False and parameter.secondary_opts else parameter.opts[0]
    raise KeyError(key)
