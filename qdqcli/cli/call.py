"""Call: one call of a command on checkpoints, with the objects that its options become, typed once at its door."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Protocol, TypeVar

from qdqcli.cli.session import Session, pass_session
from qdqcli.recipe.request import Settings
from qdqcli.report.formatter import format_for
from qdqcli.report.ranking import DEFAULT_SORT

Function = TypeVar("Function", bound=Callable[..., object])
Result = TypeVar("Result")


class Decorator(Protocol):
    """A decorator that adds options to a command."""

    def __call__(self, function: Function, /) -> Function: ...


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How inputs are read, and what is refused in them."""

    void_dtype: str | None = None
    """dtype of `.npy` elements of an unnamed kind."""
    follow_links: bool = False
    allow_unmatched: bool = False
    """Only warn of a pattern that matches nothing."""
    allow_packed: bool | None = None
    """Measure beside weights that are already quantized; None for commands that need not be told."""
    from_packed: bool = False
    """Decode weights that are already quantized."""


@dataclass(frozen=True, kw_only=True)
class ReportRequest:
    """Content, presentation and destination of a report."""

    format_name: str = "table"
    """Format of standard output."""
    reports: Sequence[Path] = ()
    sort: str = DEFAULT_SORT
    top: int | None = None
    by: str | None = None
    per_channel: bool = False
    histograms: bool = False
    list_sort: str = "order"
    """Order of a listing."""
    base_model: str | None = None
    """The model's id on the hub, for a model card."""
    lists_all: bool = False
    """List tensors that are not selected, too."""

    @property
    def formats(self) -> list[str]:
        """Formats of standard output and of the report files."""
        return [self.format_name, *map(format_for, self.reports)]

    @property
    def has_histograms(self) -> bool:
        """True where they are asked for, and where HTML is written, which shows them."""
        return self.histograms or self.format_name == "html" or any(format_for(path) == "html" for path in self.reports)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Threads, memory and device of this process, or a cluster."""

    threads: int | None = None
    """Number of threads; None: one per core."""
    max_memory: int = 256 << 20
    """Bytes of buffers."""
    device: str = "cpu"
    dask: str | None = None
    """Address of a scheduler."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """Session, inputs and options of a command; options that it lacks have their defaults."""

    session: Session
    inputs: tuple[str, ...] = ()
    config: str | None = None
    """The project file that --config names."""
    needs_project: bool
    """True without INPUT, or with --config: the call is to be completed by a project file."""
    settings: Settings
    reading: Reading
    report: ReportRequest
    resources: Resources


GROUPS: Mapping[str, Callable[..., Any]] = {
    "settings": Settings,
    "reading": Reading,
    "report": ReportRequest,
    "resources": Resources,
}


def pass_call(**others: Callable[..., Any]) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Return a decorator that passes options as a `Call`, and each of further groups as one argument of its name.

    A group gets those options that are its fields; a command may lack options whose fields have a default.
    """
    groups = {**GROUPS, **others}
    known = {name for group in (Call, *groups.values()) for name in group.__annotations__}

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        @pass_session
        @wraps(function)
        def command(session: Session, /, **values: Any) -> Result:
            objects = {
                name: group(**{key: values[key] for key in group.__annotations__ if key in values})
                for name, group in groups.items()
            }
            inputs, config = values.get("inputs", ()), values.get("config")
            call = Call(
                session=session,
                inputs=inputs,
                config=config,
                needs_project=not inputs or config is not None,
                **{name: objects.pop(name) for name in GROUPS},
            )
            return function(call, **objects, **{name: value for name, value in values.items() if name not in known})

        return command

    return decorate
