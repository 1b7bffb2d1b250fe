"""Candidates of a bit allocation: settings by their scheme, and what inference engines store."""

from collections.abc import Mapping, Sequence

from qdqcli.errors import UsageError
from qdqcli.escape import escape_name
from qdqcli.recipe.scheme import is_scheme, settings_of_scheme
from qdqcli.recipe.sweep import Setting

FLOAT = "float"
"""Name of the candidate that leaves a tensor as it is."""
DEFAULT_CANDIDATES = ("int2", "int3", "int4", "int5", "int6", "int8")
DEFAULT_GROUP_SIZE = 128
ANY = "any"
"""The back end that stores everything."""
BACKENDS: Mapping[str, tuple[frozenset[int], frozenset[int] | None]] = {
    "vllm": (frozenset({4, 8}), None),
    "gptq": (frozenset({2, 3, 4, 8}), None),
    "awq": (frozenset({4}), None),
    "mlx": (frozenset({2, 3, 4, 5, 6, 8}), frozenset({32, 64, 128})),
    "gguf": (frozenset({4, 5, 8}), frozenset({32})),  # Q4_0, Q5_0, Q8_0
}
"""Inference engine -> bits of its integer weights, and its group sizes, where they are limited."""


def check_candidates(names: Sequence[str]) -> None:
    """Check that each name is a scheme or `float`.

    Raises:
        UsageError: one is not, or there is none.
    """
    if not names:
        raise UsageError("there are no candidates; give some, e.g. int3,int4,int8")
    for name in names:
        if name != FLOAT and not is_scheme(name):
            raise UsageError(f"'{escape_name(name)}' is not a candidate such as int4, int4-g32, int8-channel or float")


def candidates_of(names: Sequence[str], group_size: int, estimator: str, engine: str) -> tuple[list[Setting], bool]:
    """Return the candidate settings, and True if float is one of them.

    Args:
        names: schemes, and `float` to leave a tensor as it is.
        group_size: group size of schemes that name no granularity.
        estimator: estimator of all candidates.
        engine: a key of `BACKENDS`, or `any`.

    Raises:
        UsageError: a name is no candidate, or the engine stores none of them.
    """
    check_candidates(names)
    settings = []
    for name in names:
        if name != FLOAT:
            changes = settings_of_scheme(name)
            if "axis" not in changes:
                changes = {**changes, "group_size": group_size}
            settings.append(Setting(**changes, estimator=estimator))
    return stored_by(engine, list(dict.fromkeys(settings)), names), FLOAT in names


def _listed(sizes: frozenset[int]) -> str:
    return " or ".join(map(str, sorted(sizes)))


def stored_by(engine: str, settings: Sequence[Setting], names: Sequence[str] = ()) -> list[Setting]:
    """Return the settings that an inference engine stores.

    Raises:
        UsageError: it stores none of them.
    """
    if not settings:
        raise UsageError("there is no setting among the candidates; add a scheme such as int4-g128")
    if engine == ANY:
        return list(settings)
    bits, groups = BACKENDS[engine]
    kept = [s for s in settings if s.num_bits in bits and (groups is None or s.group_size in groups)]
    if not kept:
        shown = ", ".join(names or [setting.name for setting in settings])
        stores = f"int{', int'.join(map(str, sorted(bits)))}" + (f" in groups of {_listed(groups)}" if groups else "")
        raise UsageError(f"none of {shown} is left: {engine} stores {stores}; add candidates, or change --group-size")
    return kept
