"""Python API of sweep, plan and diagnose: the work of the commands, with their options and defaults.

`qdqcli` imports this module when one of its names is first used.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, TypeVar, Unpack

from qdqcli.api import (
    PathLike,
    Report,
    Selection,
    check_keywords,
    cluster_of,
    open_all,
    pandas_frame,
    path_of,
    recognised,
    request_of,
    warn_all,
)
from qdqcli.errors import UsageError
from qdqcli.escape import escape_name
from qdqcli.measure.workers import DEFAULT_MAX_MEMORY, Workers
from qdqcli.op.backend import backend as op_backend
from qdqcli.plain import JsonObject
from qdqcli.recipe.candidates import ANY, DEFAULT_CANDIDATES, DEFAULT_GROUP_SIZE, candidates_of
from qdqcli.recipe.goal import Goal, exact_bits
from qdqcli.recipe.plan import Plan, check_selection, make_plans
from qdqcli.recipe.scheme import settings_of_scheme
from qdqcli.recipe.sweep import LADDER, Setting, Sweep
from qdqcli.recipe.tie_file import AUTO, NO_TIES, read_ties
from qdqcli.report import allocation as plan_report
from qdqcli.report import diagnosis as diagnosis_report
from qdqcli.report import sweep as sweep_report
from qdqcli.report.escape import visible
from qdqcli.report.formatter import REPORT_SUFFIXES
from qdqcli.report.forms import Forms
from qdqcli.report.html.notebook import facts_html, table_html
from qdqcli.report.options import ReportOptions
from qdqcli.report.sweep import SweepView
from qdqcli.result.result import RunResult, TensorResult
from qdqcli.run.distribute import Distribution
from qdqcli.run.execute import measure_plans, result_of
from qdqcli.run.pipeline import Measuring
from qdqcli.stats.metrics import MetricValue
from qdqcli.study.allocation import Allocation, Objective, decision_of, frontier
from qdqcli.study.diagnose import FREE_BITS, DiagnosedRun, choose
from qdqcli.study.diagnose import diagnose as find_causes
from qdqcli.study.diagnose import recipe_of as diagnosis_recipe
from qdqcli.study.importance import NO_IMPORTANCE, importance_from, read_importance
from qdqcli.study.planning import Order, plan_bits, recipe_of
from qdqcli.study.sweep import plan_sweep, run_sweep
from qdqcli.tensors.checkpoint import Checkpoint
from qdqcli.tensors.output_file import write_file
from qdqcli.tensors.packed.recognise import Packed

if TYPE_CHECKING:  # it is not required
    from pandas import DataFrame  # type: ignore[import-untyped, import-not-found, unused-ignore]

_SHOWN = 20
"""Maximum number of decisions of a plan in a notebook."""
_SUFFIXES = (".md", ".json", ".jsonl", ".csv", ".html")
"""Suffixes of reports, as far as each kind has them."""
Shown = TypeVar("Shown")


class _Study(Generic[Shown]):
    """Result of a study: as text, and in files."""

    def __init__(self, shown: Shown, forms: Forms[Shown], recipe: str = "") -> None:
        self._shown, self._forms, self._recipe = shown, forms, recipe

    def save(self, path: PathLike) -> None:
        """Write the report in the format of the path's suffix: .json, .md or .html, of a sweep .jsonl or .csv too.

        The suffix .toml stands for the recipe of a plan or a diagnosis.

        Raises:
            UsageError: unknown suffix.
            OutputError: the file cannot be written.
        """
        target = path_of(path)
        pieces: Iterable[str] = [self._recipe]
        if not self._recipe or target.suffix != ".toml":
            known = [suffix for suffix in _SUFFIXES if REPORT_SUFFIXES[suffix] in self._forms.names]
            if target.suffix not in known:
                raise UsageError(f"'{escape_name(str(path))}': has no suffix of {', '.join(known)}")
            pieces = self._forms.render(self._shown, REPORT_SUFFIXES[target.suffix], ReportOptions())
        write_file(target, (piece.encode() for piece in pieces))

    def __str__(self) -> str:
        return "".join(self._forms.render(self._shown, "table", ReportOptions()))


class SweepReport(_Study[SweepView], Mapping[str, Report]):
    """Result of a sweep: name of a setting (`int4 g128 mse`) -> its report. A notebook shows it as a table."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(SweepView(sweep), sweep_report.SWEEP)
        self.result = sweep
        self._reports = {s.name: Report(run) for s, run in zip(sweep.settings, sweep.results, strict=True)}

    def __getitem__(self, name: str) -> Report:
        return self._reports[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._reports)

    def __len__(self) -> int:
        return len(self._reports)

    def front(self) -> "SweepReport":
        """Return the settings that no other dominates: no setting has fewer bits and a higher SQNR."""
        return SweepReport(self.result.front())

    def to_json(self) -> JsonObject:
        """Return the report of `qdq sweep --format json`, as JSON values."""
        return sweep_report.sweep_to_json(self.result)

    def to_pandas(self) -> "DataFrame":
        """Return a `pandas.DataFrame` with a row per setting, indexed by its name.

        Raises:
            UnavailableError: pandas is not installed.
        """
        records = [
            {
                **entry["setting"],
                "dominated": entry["dominated"],
                "stored_bytes": entry["stored_bytes"],
                **entry["summary"],
            }
            for entry in self.to_json()["results"]
        ]
        return pandas_frame(records, "name")

    def __repr__(self) -> str:
        return f"<SweepReport of {_inputs(self.result.results[0])}: {len(self)} settings>"

    def _repr_html_(self) -> str:
        return table_html(sweep_report.columns(self.result, visible))


class PlanReport(_Study[plan_report.PlanView]):
    """A bit allocation: its recipe, size and loss, and a decision per tensor. A notebook shows it as a table."""

    def __init__(self, view: plan_report.PlanView, recipe: str) -> None:
        super().__init__(view, plan_report.PLAN, recipe)
        self.view = view
        self.recipe = recipe
        """The recipe, as `qdq plan` writes it (TOML)."""

    @property
    def result(self) -> Allocation:
        """Decisions with all candidates, and the solution."""
        return self.view.allocation

    @property
    def report(self) -> Report:
        """The rows of all tensors under their chosen settings, those of `qdq stats --recipe`."""
        return Report(self.view.result)

    @property
    def summary(self) -> Mapping[str, MetricValue]:
        """Metric -> value over all quantized elements under the plan."""
        return self.view.result.summary

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per planned weight, scales included."""
        return self.result.bits_per_weight

    @property
    def loss(self) -> float:
        """The objective's value: a sum, or for "worst" the largest relative squared error of a tensor."""
        return self.result.loss

    def frontier(self, count: int = 20) -> list[tuple[float, float]]:
        """Return (bits per weight, loss) of the best allocations at `count` sizes, ascending.

        Raises:
            UsageError: fewer than two sizes.
        """
        if count < 2:
            raise UsageError(f"count is {count}; a frontier has at least 2 sizes")
        return [(found.bits_per_weight, found.loss) for found in frontier(self.result.problem, count)]

    def explain(self, tensor: str) -> list[JsonObject]:
        """Return the candidates of a tensor's decision, as JSON values, each with `chosen`.

        Raises:
            UsageError: no planned tensor has that name; offers the nearest.
        """
        decision, chosen = decision_of(self.result, tensor)
        return [
            {**plan_report.option_to_json(self.result, decision, option), "chosen": option is chosen}
            for option in decision.options
        ]

    def to_json(self) -> JsonObject:
        """Return the report of `qdq plan --format json`, as JSON values."""
        return plan_report.to_json(self.view)

    def to_pandas(self) -> "DataFrame":
        """Return a `pandas.DataFrame` with a row per planned tensor, indexed by name.

        Raises:
            UnavailableError: pandas is not installed.
        """
        records = []
        for decision, option in self.result.chosen:
            shared = {"decision": decision.tie.name, "choice": self.result.problem.name_of(option.candidate)}
            for member in decision.tie.members:
                row = self.result.rows[member]
                stats = dict(row.stats) if isinstance(row, TensorResult) else {}
                records.append({"name": row.source.name, **shared, **stats})
        return pandas_frame(records, "name")

    def __repr__(self) -> str:
        found = self.result
        return (
            f"<PlanReport of {_inputs(self.view.result)}: {found.bits_per_weight:.4f} bits per weight, {found.loss=}>"
        )

    def _repr_html_(self) -> str:
        facts = [fact.split(maxsplit=1) for fact in plan_report.facts(self.result, self.view.result)]
        return table_html(plan_report.columns(self.result, visible, _SHOWN)) + facts_html(facts)


class DiagnosisReport(_Study[DiagnosedRun]):
    """Causes of the worst errors and measured changes. A notebook shows it as a table."""

    def __init__(self, found: DiagnosedRun, recipe: str) -> None:
        super().__init__(found, diagnosis_report.DIAGNOSIS, recipe)
        self.result = found
        self.recipe = recipe
        """The settings with the best changes as a recipe, as `qdq diagnose --write-recipe` writes it (TOML)."""

    @property
    def before(self) -> Report:
        """The rows of all tensors under the given settings."""
        return Report(self.result.before)

    @property
    def after(self) -> Report:
        """The rows of all tensors under the recipe."""
        return Report(self.result.after)

    def to_json(self) -> JsonObject:
        """Return the report of `qdq diagnose --format json`, as JSON values."""
        return diagnosis_report.to_json(self.result)

    def to_pandas(self) -> "DataFrame":
        """Return a `pandas.DataFrame` with a row per remedy, indexed by tensor; a tensor without one has one row.

        Raises:
            UnavailableError: pandas is not installed.
        """
        records = []
        for entry in self.to_json()["diagnoses"]:
            head = {key: entry[key] for key in ("tensor", "cause", "measured_db", "formula_db")}
            remedies = entry["remedies"] or [{}]
            keys = ("gain_db", "bits_added", "sqnr_db", "bits_per_weight")
            records += [
                {**head, "change": diagnosis_report.change_text(one.get("settings", {})),
                 **{key: one.get(key) for key in keys}}
                for one in remedies
            ]  # fmt: skip
        return pandas_frame(records, "tensor")

    def __repr__(self) -> str:
        return f"<DiagnosisReport of {_inputs(self.result.before)}: {len(self.result.diagnoses)} tensors>"

    def _repr_html_(self) -> str:
        facts = [("", fact) for fact in diagnosis_report.facts(self.result, visible)]
        return table_html(diagnosis_report.columns(self.result, visible)) + facts_html(facts)


class StudySettings(Selection, total=False):
    """Keyword arguments of all studies, which `measure` documents."""

    dask: str | None
    threads: int | None
    max_memory: int
    device: str


def sweep(
    path: PathLike | Sequence[PathLike],
    schemes: Sequence[str] | None = None,
    *,
    estimators: Sequence[str] = ("minmax",),
    **shared: Unpack[StudySettings],
) -> SweepReport:
    """Measure many settings in one read of each tensor, like `qdq sweep`.

    Args:
        path: a .npy, .npz or .safetensors file, or a checkpoint folder; or several of these.
        schemes: "int8-channel", "int4-g128", ...; commonly published settings by default.
        estimators: estimators to combine with each scheme.
        shared: selection, threads, memory, device and cluster as for `measure`; what the rules of `recipe` set holds
            under every scheme.

    Returns:
        Name of a setting (`int4 g128 mse`) -> its report.

    Raises:
        UsageError, InputError, UnavailableError: as for `measure`.
    """
    settings: Sequence[Setting] = LADDER
    if schemes is not None:
        settings = list(dict.fromkeys(
            Setting(**settings_of_scheme(scheme), estimator=estimator) for scheme in schemes for estimator in estimators
        ))  # fmt: skip
    return SweepReport(_Asked("sweep", path, shared).measured(settings)[1])


def plan(
    path: PathLike | Sequence[PathLike],
    *,
    avg_bits: float | str | None = None,
    target_size: int | None = None,
    max_loss: float | None = None,
    min_sqnr: float | None = None,
    summary: bool = False,
    candidates: Sequence[str] = DEFAULT_CANDIDATES,
    group_size: int = DEFAULT_GROUP_SIZE,
    estimator: str = "minmax",
    objective: Objective = "relative",
    importance: PathLike | Mapping[str, float] | None = None,
    tie: PathLike = "auto",
    min_bits: int | Mapping[str, int] | None = None,
    max_bits: int | Mapping[str, int] | None = None,
    count: str = "selected",
    backend: str = ANY,
    against: PathLike | None = None,
    **shared: Unpack[StudySettings],
) -> PlanReport:
    """Choose bits for each tensor under a budget, like `qdq plan`; `save("plan.toml")` writes the recipe.

    Args:
        path: a .npy, .npz or .safetensors file, or a checkpoint folder; or several of these.
        avg_bits: at most these bits per weight, scales included. One of this and the next three is given.
        target_size: at most these bytes for the packed checkpoint.
        max_loss: the smallest size whose loss is at most this.
        min_sqnr: the smallest size at which each tensor has this SQNR in dB.
        summary: `min_sqnr` bounds the SQNR over all quantized elements instead of each tensor's.
        candidates: settings to choose from: schemes, and "float".
        group_size: group size of candidates that name no granularity.
        estimator: estimator of all candidates.
        objective: "relative", "energy" or "worst".
        importance: pattern -> factor of the losses of the tensors that match, or a file of it: JSON, or .npz or
            .safetensors, which may have a vector per tensor with a factor per input channel.
        tie: "auto", "none" or a TOML file with [[together]] and [[apart]] tables.
        min_bits: at least these bits, for all tensors or by pattern.
        max_bits: at most these bits, for all tensors or by pattern.
        count: "selected" or "all": the weights that `avg_bits` counts.
        backend: the inference engine that stores the result.
        against: recipe of an earlier plan; this one is no worse, if that one keeps the goal.
        shared: selection, threads, memory, device and cluster as for `measure`; what the rules of `recipe` set is not
            decided.

    Raises:
        UsageError: no allocation keeps the goal, or an argument is out of its range.
        InputError, UnavailableError: as for `measure`.
    """
    average = None if avg_bits is None else _exact("avg_bits", avg_bits)
    goal = Goal(avg_bits=average, target_size=target_size, max_loss=max_loss, min_sqnr_db=min_sqnr, is_summary=summary,
                counts_all=_one_of("count", count, ("selected", "all")) == "all")  # fmt: skip
    factors = NO_IMPORTANCE
    if isinstance(importance, Mapping):
        factors = importance_from(importance, "importance")
    elif importance is not None:
        factors = read_importance(Path(importance))
    settings, keeps_float = candidates_of(candidates, group_size, estimator, backend)
    study = _Asked("plan", path, shared)
    request = study.request
    order = Order(
        goal=goal,
        objective=objective,
        keeps_float=keeps_float,
        importance=factors,
        tie=tie if tie in (AUTO, NO_TIES) else read_ties(Path(tie)),
        min_bits=_bounds(min_bits),
        max_bits=_bounds(max_bits),
        recipe=request.recipe if request.has_recipe else None,
        against=None if against is None else Path(against),
    )
    plans, swept = study.measured(settings)
    with study.workers() as workers:
        planned = plan_bits(order, plans, swept, study.checkpoints, study.packed, workers)
    found = planned.allocation
    text = recipe_of(found, plans[0], study.checkpoints, study.packed, command="qdqcli.plan",
                     min_ndim=request.recipe.min_ndim)  # fmt: skip
    described = {**request.settings, "objective": objective, "candidates": list(candidates)}
    return PlanReport(
        plan_report.PlanView(
            allocation=found, result=result_of("plan", plans[0], described, found.rows), against=planned.against
        ),
        text,
    )


def diagnose(
    path: PathLike | Sequence[PathLike],
    *,
    scheme: str | None = None,
    num_bits: int | None = None,
    group_size: int | None = None,
    axis: int | str | tuple[int, int] | None = None,
    estimator: str | None = None,
    worst: int | None = None,
    every: bool = False,
    max_bits_added: float = FREE_BITS,
    **shared: Unpack[StudySettings],
) -> DiagnosisReport:
    """Say why the worst tensors are bad and measure what other settings gain, like `qdq diagnose`.

    Args:
        path: a .npy, .npz or .safetensors file, or a checkpoint folder; or several of these.
        scheme: bits and granularity in one name, "int4-g128"; the next three arguments override it.
        num_bits: bits of a code, 8 by default.
        group_size: number of neighbours along the last axis that share a range.
        axis: as for `measure`.
        estimator: "minmax", "percentile" or "mse".
        worst: diagnose this many tensors with the lowest SQNR; by default those with 80 % of the squared error.
        every: diagnose all quantized tensors; so does `include`.
        max_bits_added: combine changes that add up to these bits per weight to a tensor.
        shared: recipe, selection, threads, memory, device and cluster as for `measure`.

    Raises:
        UsageError, InputError, UnavailableError: as for `measure`.
    """
    given = {"scheme": scheme, "num_bits": num_bits, "group_size": group_size, "axis": axis, "estimator": estimator}
    study = _Asked("diagnose", path, shared, given)
    request = study.request
    plans, notes = make_plans(study.checkpoints, request.recipe, study.packed)
    warn_all(notes)
    check_selection(plans)
    measuring = Measuring(scale_bits=request.scale_bits)
    with study.cluster() as distribution, study.workers() as workers:
        rows = measure_plans(plans, measuring, workers, distribution)
        before = result_of("diagnose", plans, request.settings, rows)
        numbers = choose(before.rows, worst, takes_all=every or shared.get("include") is not None)
        found = find_causes(plans, before, numbers, measuring, workers, max_bits_added)
    text = diagnosis_recipe(found, plans, command="qdqcli.diagnose", min_ndim=request.recipe.min_ndim)
    return DiagnosisReport(found, text)


class _Asked:
    """Checkpoints with their headers read, and what the keyword arguments ask of them."""

    def __init__(
        self,
        function: str,
        path: PathLike | Sequence[PathLike],
        shared: StudySettings,
        settings: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        check_keywords(function, shared, StudySettings)
        self.checkpoints: Sequence[Checkpoint] = open_all(path)
        self.packed: Sequence[Packed] = recognised(self.checkpoints, allow_packed=shared.get("allow_packed", False))
        selection = {name: shared.get(name) for name in ("include", "exclude", "min_ndim", "compute_dtype")}
        preset, scale_bits = shared.get("preset", ()), shared.get("scale_bits", 16)
        self.request = request_of({**settings, **selection}, None, shared.get("recipe"), preset, scale_bits)
        self._shared = shared

    def workers(self) -> Workers:
        """Return the workers for the threads, the memory and the device."""
        shared = self._shared
        memory = shared.get("max_memory", DEFAULT_MAX_MEMORY)
        return Workers(shared.get("threads"), memory, backend=op_backend(shared.get("device", "cpu")))

    def cluster(self) -> AbstractContextManager[Distribution | None]:
        """Return the cluster, or None, as a context manager."""
        shared = self._shared
        memory = shared.get("max_memory", DEFAULT_MAX_MEMORY)
        return cluster_of(shared.get("dask"), shared.get("threads"), memory, shared.get("device", "cpu"))

    def measured(self, settings: Sequence[Setting]) -> tuple[list[list[Plan]], Sweep]:
        """Return the plans of every setting, and what was measured."""
        columns, notes = plan_sweep(self.checkpoints, self.request.recipe, settings, self.packed)
        warn_all(notes, 4)
        with self.cluster() as distribution, self.workers() as workers:
            measuring = Measuring(scale_bits=self.request.scale_bits)
            return columns, run_sweep(columns, settings, measuring, workers, self.request.settings, distribution)


def _bounds(value: int | Mapping[str, int] | None) -> list[tuple[str, int]]:
    """Return (pattern, bits) of a bound."""
    if value is None:
        return []
    return list(value.items()) if isinstance(value, Mapping) else [("*", value)]


def _exact(name: str, value: float | str) -> Fraction:
    number = exact_bits(value)
    if number is None:
        raise UsageError(f"{name} is {value!r}; it must be a number of bits such as 4.125")
    return number


def _one_of(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise UsageError(f"{name} is '{escape_name(value)}'; it must be one of {', '.join(known)}")
    return value


def _inputs(result: RunResult) -> str:
    return ", ".join(map(escape_name, result.inputs))
