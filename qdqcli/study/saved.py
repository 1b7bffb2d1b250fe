"""Saved sweep: the JSON report of `qdq sweep`, whose exact sums stand for a measurement of the same tensors."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from qdqcli.errors import InputError, SpecError, UsageError
from qdqcli.escape import blame, escape_name, show_path
from qdqcli.op.spec import QuantSpec
from qdqcli.plain import Parsed
from qdqcli.recipe.decision import Skip
from qdqcli.recipe.plan import Plan
from qdqcli.recipe.recipe import Recipe
from qdqcli.recipe.sweep import Setting, Sweep
from qdqcli.result.result import Row, RunResult, spec_to_json
from qdqcli.run.execute import result_of
from qdqcli.run.record import record_rows, restore_rows
from qdqcli.tensors.input_file import read_file
from qdqcli.tensors.strict_json import parse_object

MAX_BYTES = 1 << 30
"""Maximum size of a saved sweep."""


def sums_to_json(result: RunResult) -> list[dict[str, object]]:
    """Return the exact sums of all rows, packed, one record per file with tensors."""
    return [record_rows(list(rows)) for _, rows in groupby(result.rows, key=lambda row: row.source.file)]


@dataclass(frozen=True, kw_only=True)
class SavedSweep:
    """Settings and results of a sweep's report."""

    path: Path
    settings: Sequence[Setting]
    results: Sequence[Parsed]
    scale_bits: int

    def selected(self, settings: Sequence[Setting]) -> "SavedSweep":
        """Return the results of these settings.

        Raises:
            UsageError: the sweep did not measure one of them.
        """
        missing = [setting.name for setting in settings if setting not in self.settings]
        if missing:
            raise UsageError(
                f"{show_path(self.path)}: has no {missing[0]}; it has {', '.join(s.name for s in self.settings)}"
            )
        results = [self.results[self.settings.index(setting)] for setting in settings]
        return SavedSweep(path=self.path, settings=settings, results=results, scale_bits=self.scale_bits)

    def under(self, recipe: Recipe) -> "SavedSweep":
        """Return the results of the one setting that a recipe has for tensors without a rule.

        Raises:
            UsageError: the sweep did not measure it.
        """
        for setting in self.settings:
            applied = setting.apply(recipe)
            if (applied.spec, applied.axis) == (recipe.spec, recipe.axis):
                return self.selected([setting])
        names = ", ".join(setting.name for setting in self.settings)
        raise UsageError(f"{show_path(self.path)}: has no setting as given; it has {names}; give one, e.g. --scheme")

    def check_scale_bits(self, scale_bits: int) -> None:
        """Refuse other bits of a scale than those of the sweep.

        Raises:
            UsageError: they differ.
        """
        if scale_bits != self.scale_bits:
            raise UsageError(f"--from: the sweep has --scale-bits {self.scale_bits}; give the same")

    def restore(self, columns: Sequence[Sequence[Plan]], described: Mapping[str, object]) -> Sweep:
        """Return the sweep as `run_sweep` would measure it; `columns` are the plans of each setting.

        Raises:
            UsageError: the report is of other tensors or other settings; names the first that differs.
        """
        found = []
        for setting, plans, result in zip(self.settings, columns, self.results, strict=True):
            with _of_report(self.path):
                rows = list(self._rows(setting, plans, result))
            found.append(result_of("sweep", plans, {**described, **setting.to_json()}, rows))
        return Sweep(settings=self.settings, results=found)

    def _rows(self, setting: Setting, plans: Sequence[Plan], result: Parsed) -> Iterator[Row]:
        kept = [plan for plan in plans if plan.shard.tensors]
        tensors = [pair for plan in kept for pair in plan.tensors]
        if len(tensors) != len(result["tensors"]) or len(kept) != len(result["sums"]):
            raise UsageError(
                f"{show_path(self.path)}: has {len(result['tensors'])} tensors, the input {len(tensors)}; measure again"
            )
        for (tensor, decision), entry in zip(tensors, result["tensors"], strict=True):
            ours: dict[str, object] = {"name": tensor.name, "dtype": tensor.dtype.name, "shape": list(tensor.shape)}
            ours["spec"] = None if isinstance(decision, Skip) else spec_to_json(decision)
            for key, value in ours.items():
                if entry.get(key) != value:
                    raise UsageError(
                        f"{show_path(self.path)}: '{escape_name(str(entry['name']))}' has another {key} under "
                        f"{setting.name} than the input with these options; give the options of the sweep, or measure "
                        "again"
                    )
        for plan, record in zip(kept, result["sums"], strict=True):
            yield from restore_rows(record, plan, 0, self.scale_bits)


def read_sweep(path: Path) -> SavedSweep:
    """Read the JSON report of a sweep.

    Raises:
        InputError: missing, malformed, or not such a report.
    """
    with blame(path):
        data: Parsed = parse_object(read_file(path, MAX_BYTES))
    with _of_report(path):
        settings = []
        for result in data["results"]:
            known = {key: value for key, value in result["setting"].items() if key != "name"}
            setting = Setting(**known)
            setting.apply(Recipe(spec=QuantSpec()))  # a SpecError where it cannot be
            settings.append(setting)
            if not isinstance(result["tensors"], list) or not isinstance(result["sums"], list):
                raise TypeError
        scale_bits = data["settings"]["scale_bits"]
        if not isinstance(scale_bits, int):
            raise TypeError
        return SavedSweep(path=path, settings=settings, results=data["results"], scale_bits=scale_bits)


@contextmanager
def _of_report(path: Path) -> Iterator[None]:
    """Turn errors of access to unexpected data into an InputError."""
    try:
        yield
    except SpecError as error:
        raise InputError(f"{show_path(path)}: {error}; write it with 'qdq sweep MODEL --report sweep.json'") from None
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, RuntimeError):
        raise InputError(
            f"{show_path(path)}: is not a JSON report of qdq sweep with its sums; write one with "
            "'qdq sweep MODEL --report sweep.json'"
        ) from None
