"""Schemes: short names for bits and granularity, e.g. `int8-channel`, `int4-g128`."""

import re
from difflib import get_close_matches
from typing import TypedDict

from qdqcli.errors import UsageError
from qdqcli.escape import escape_name
from qdqcli.recipe.axis import CHANNEL

SCHEME_PATTERN = r"^u?int([1-9]|[1-5][0-9]|6[0-2])(-(tensor|channel|g[1-9][0-9]*))?$"
SCHEMES = ("int8-channel", "int8-tensor", "int8-g128", "int4-channel", "int4-g128", "int4-g64", "int4-g32", "int3-g128")
"""Common schemes, for shell completion."""
EXAMPLES = ("int8-channel", "int4-g128", "uint8-tensor", "int6")


def is_scheme(text: str) -> bool:
    """Tell whether the text is the name of a scheme."""
    return re.fullmatch(SCHEME_PATTERN, text) is not None


class SchemeSettings(TypedDict, total=False):
    """Settings of a scheme, by recipe key."""

    num_bits: int
    signed_input: bool
    axis: str
    group_size: int | None


def settings_of_scheme(name: str) -> SchemeSettings:
    """Return the settings of a scheme by recipe key.

    Bits and sign; with a granularity also axis and group size, one of which is none.

    Raises:
        UsageError: no scheme has that name.
    """
    if not is_scheme(name):
        nearest = get_close_matches(name[:40], SCHEMES, n=1, cutoff=0.75)
        offer = f"; did you mean {nearest[0]}" if nearest else ""
        raise UsageError(
            f"'{escape_name(name)}' is not a scheme{offer}; expected [u]intN, [u]intN-tensor, [u]intN-channel or "
            f"[u]intN-gM, e.g. {', '.join(EXAMPLES[:3])}; only linear symmetric integers are simulated, not FP8, NF4, "
            "MX or GGUF"
        )
    code, _, granularity = name.partition("-")
    settings: SchemeSettings = {
        "num_bits": int(code.removeprefix("u").removeprefix("int")),
        "signed_input": not code.startswith("u"),
    }
    match granularity[:1]:
        case "":
            return settings
        case "t":
            return {**settings, "axis": "none", "group_size": None}
        case "c":
            return {**settings, "axis": CHANNEL, "group_size": None}
    return {**settings, "axis": "none", "group_size": int(granularity[1:])}
