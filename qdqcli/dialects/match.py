"""Patterns of other tools on module names, as patterns of a recipe on the names of their weights."""

import re

from qdqcli.dialects.weight import WEIGHT
from qdqcli.errors import UsageError
from qdqcli.escape import escape_name

_SPECIAL = re.compile(r"[*?\[#]")
_FLAGS = re.compile(r"\(\?([aiLmsux]+)\)")
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\$", re.DOTALL)
"""What may hide a dollar sign: an escape, a set of characters."""
_PIECE = re.compile(
    rf"{_TOKEN.pattern}|\((?:\?(?:P<\w+>|P=\w+\)|<?[=!]|#[^)]*\)|[\w-]*[:>)]))?|\{{\d*,?\d*\}}|.", re.DOTALL
)
"""A piece of an expression: a token, the begin of a group, a quantifier, a character."""
_ONCE = re.compile(r"\{0?,?1\}|\{1,1\}")
_FIXED = re.compile(r"\{\d+\}")
MAX_REPEATS = 5
"""Unbounded repetitions in an expression of a file: with n of them, time grows with the power n of a name's length."""
_END = rf"(?=\{WEIGHT}\Z)"
_TRANSLATED = re.compile(r"re:(?:\.\*\?)?\(\?:(.*)\)(?:\.\*)?\\.weight", re.DOTALL)
_QUANTIZER = "weight_quantizer"


def exact(module: str) -> str:
    """Return the pattern of one module."""
    return literal(module + WEIGHT)


def literal(name: str) -> str:
    """Return the pattern of one tensor name, whatever characters it has."""
    return f"re:{re.escape(name)}" if _SPECIAL.search(name) or name.startswith("re:") else name


def containing(text: str) -> str:
    """Return the pattern of modules whose name contains the text."""
    return rf"re:.*{re.escape(text)}.*\{WEIGHT}" if _SPECIAL.search(text) else f"*{text}*{WEIGHT}"


def matched(regex: str) -> str:
    """Return the pattern of `re.match` on module names: anchored at the start, open at the end."""
    return rf"re:{_grouped(regex)}.*\{WEIGHT}"


def searched(regex: str) -> str:
    """Return the pattern of `re.search` on module names."""
    return rf"re:.*?{_grouped(regex)}.*\{WEIGHT}"


def whole(regex: str) -> str:
    """Return the pattern of `re.fullmatch` on module names."""
    return rf"re:{_grouped(regex)}\{WEIGHT}"


def whole_tensor(regex: str) -> str:
    """Return the pattern of `re.fullmatch` on tensor names."""
    return f"re:{regex}"


def on_module(glob: str) -> str:
    """Return the pattern of a glob on module names."""
    return _glob(glob if glob.endswith("*") else glob + WEIGHT)


def on_weights(glob: str) -> str | None:
    """Return the pattern of a glob on quantizer names, `MODULE.weight_quantizer`; None where none of them matches.

    A star at the end stands for any rest of the name.
    """
    head, is_weight, _ = glob.rpartition("weight_")
    if is_weight:
        return _glob(f"{head}weight")
    for start in range(len(_QUANTIZER) + 1):  # the part of the suffix that follows a star
        if glob.endswith(f"*{_QUANTIZER[start:]}"):
            return _glob(glob.removesuffix(_QUANTIZER[start:]))
    return None


def shown(pattern: str) -> str:
    """Return a pattern as the file of the other tool spells it."""
    found = _TRANSLATED.fullmatch(pattern)
    return f"re:{found[1].replace(_END, '$')}" if found else pattern.removesuffix(WEIGHT)


def _glob(glob: str) -> str:
    return glob.replace("#", "[#]")


def _grouped(regex: str) -> str:
    """Return the expression as a group, in which the end of the module's name is that of the pattern.

    Raises:
        UsageError: it is malformed.
    """
    try:
        re.compile(regex)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"'{escape_name(regex)}' is not a regular expression: {error}") from None
    check_cost(regex)
    flags = _FLAGS.match(regex)
    inside = regex[flags.end() :] if flags else regex
    inside = _TOKEN.sub(lambda token: _END if token[0] in ("$", r"\Z") else token[0], inside)
    return f"(?{flags[1] if flags else ''}:{inside})"


def check_cost(regex: str, where: str = "") -> None:
    """Refuse an expression that could take a long time on a name that it does not match: Python's `re` has no limit.

    That is a repeated group with alternatives or a repetition in it, and many unbounded repetitions. What other tools
    write has neither. `where` begins the message.

    Raises:
        UsageError: it could.
    """
    groups = [False]  # for each open group: whether it has alternatives or repeats something
    closed = False  # the same of the group that ended just before
    num_repeats = 0
    for piece in _PIECE.findall(regex):
        if piece.isspace() or piece.startswith("(?#"):
            continue
        if piece in ("*", "+") or (piece[0] == "{" and piece != "{" and not _ONCE.fullmatch(piece)):
            num_repeats += piece in ("*", "+") or piece.endswith(",}")
            if closed or num_repeats > MAX_REPEATS:
                many = f"has more than {MAX_REPEATS} unbounded repetitions"
                why = "repeats a group that repeats something or has alternatives" if closed else many
                raise UsageError(
                    f"{where}'{escape_name(regex)}' {why}, which can take longer than anyone waits; write it without, "
                    "or as several expressions"
                )
            groups[-1] |= not _FIXED.fullmatch(piece)
        elif piece == "|":
            groups[-1] = True
        elif piece[0] == "(" and piece[-1] != ")":
            groups.append(False)
        elif piece == ")" and len(groups) > 1:
            closed = groups.pop()
            groups[-1] |= closed
            continue
        closed = False
