"""Call: one call of a command on checkpoints, with the objects that its options become."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Self

from qdqcli.cli.groups import Reading, ReportRequest, Resources, Result, gathered
from qdqcli.cli.session import Session, pass_session
from qdqcli.recipe.request import Settings


@dataclass(frozen=True, kw_only=True)
class Call:
    """Session, inputs and options of a command; options that it lacks have their defaults."""

    session: Session
    inputs: tuple[str, ...] = ()
    config: str | None = None
    """The project file that --config names."""
    settings: Settings
    reading: Reading
    report: ReportRequest
    resources: Resources

    @classmethod
    def of(cls, session: Session, values: Mapping[str, object]) -> Self:
        """Return the call with these options."""
        groups = {name: gathered(group, values) for name, group in GROUPS.items()}
        return gathered(cls, {**values, **groups, "session": session})


GROUPS: Mapping[str, type[object]] = {
    "settings": Settings,
    "reading": Reading,
    "report": ReportRequest,
    "resources": Resources,
}


def pass_call(**groups: type[object]) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Return a decorator that passes options as a `Call`, and each of further groups as one argument of its name."""
    known = {name for group in (Call, *GROUPS.values(), *groups.values()) for name in group.__annotations__}

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        @pass_session
        @wraps(function)
        def command(session: Session, /, **values: object) -> Result:
            objects = {name: gathered(group, values) for name, group in groups.items()}
            others = {name: value for name, value in values.items() if name not in known}
            return function(Call.of(session, values), **objects, **others)

        return command

    return decorate
