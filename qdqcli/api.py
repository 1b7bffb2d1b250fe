"""Python API of the command's work: measure checkpoints, compare, judge and read them.

Functions take the options of the matching command, with the same names and defaults, and raise the errors of
`errors.py`. `qdqcli` imports this module when one of its names is first used.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Never, TypedDict, Unpack, overload

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from qdqcli.errors import DTypeError, UnavailableError, UsageError
from qdqcli.escape import escape_name, show_path
from qdqcli.gate.baseline import BaselineComparison
from qdqcli.gate.bounds import with_bounds
from qdqcli.gate.judge import judge
from qdqcli.gate.project import read_budget
from qdqcli.measure.workers import DEFAULT_MAX_MEMORY, Workers
from qdqcli.op.backend import backend
from qdqcli.op.spec import QuantSpec, axis_text
from qdqcli.output.files import NamedFile, check_files
from qdqcli.output.tree import output_paths, output_tree
from qdqcli.plain import JsonObject
from qdqcli.recipe.file import parse_recipe
from qdqcli.recipe.keys import REAL
from qdqcli.recipe.pairing import entries_of
from qdqcli.recipe.patterns import nearest_names
from qdqcli.recipe.plan import Plan, check_selection, check_unpacked, decoded_inputs, inputs_of, make_plans, notes_of
from qdqcli.recipe.preset import preset as preset_of
from qdqcli.recipe.preset import read_named
from qdqcli.recipe.recipe import Recipe
from qdqcli.recipe.rename import Renaming, new_names
from qdqcli.recipe.request import DEFAULTS, Request, Settings, merge_options, request_from
from qdqcli.report.escape import visible
from qdqcli.report.formatter import formatter, formatter_for
from qdqcli.report.html.notebook import facts_html, quoted, table_html
from qdqcli.report.options import ReportOptions
from qdqcli.report.ranking import DEFAULT_SORT, ranked
from qdqcli.report.summary import facts
from qdqcli.report.table import columns_of
from qdqcli.report.verdict import headline, sentence, waived_line, with_files
from qdqcli.result.read import read_report
from qdqcli.result.result import Row, RunResult, TensorResult, row_to_json, to_json, with_shares
from qdqcli.result.verdict import Verdict
from qdqcli.run.compare import compare_entries
from qdqcli.run.distribute import Distribution
from qdqcli.run.execute import Job, measure_plans, ranges_of, result_of_job
from qdqcli.run.pipeline import Measuring
from qdqcli.run.shard import WorkerResources
from qdqcli.run.write import Destination, execute_run
from qdqcli.stats.metrics import MetricValue
from qdqcli.tensors.checkpoint import Checkpoint, Shard
from qdqcli.tensors.checkpoint import open_checkpoint as open_headers
from qdqcli.tensors.output_file import write_file
from qdqcli.tensors.packed.recognise import Packed, recognise_inputs
from qdqcli.tensors.remote_path import output_path, path_from
from qdqcli.tensors.tensor import TensorInfo, plain_shape

if TYPE_CHECKING:  # it is not required
    from pandas import DataFrame  # type: ignore[import-untyped, import-not-found, unused-ignore]

PathLike = str | Path
_SHOWN = 20
"""Maximum number of rows of a report in a notebook."""
_NUMPY = {
    **{f"{kind}{bits}": np.dtype(f"{word}{bits}") for kind, word in (("I", "int"), ("U", "uint"))
       for bits in (8, 16, 32, 64)},
    **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    "BOOL": np.dtype(bool),
    "C64": np.dtype(np.complex64),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}  # fmt: skip
"""safetensors dtype name -> NumPy dtype."""


class Report:
    """Result of a measurement: a row per tensor and a summary. A notebook shows it as a table."""

    def __init__(self, result: RunResult) -> None:
        self.result = result

    @property
    def summary(self) -> Mapping[str, MetricValue]:
        """Metric -> value over all quantized elements, and counts of tensors; None for an undefined metric."""
        return self.result.summary

    @property
    def tensors(self) -> Sequence[Row]:
        """One row per tensor in checkpoint order: `TensorResult`, or `SkippedTensor` with its reason."""
        return self.result.rows

    def worst(self, count: int = 10, sort: str = DEFAULT_SORT) -> list[TensorResult]:
        """Return the first `count` rows sorted by a metric, `share` or `name`.

        Raises:
            UsageError: unknown `sort`; suggests the nearest name.
            TypeError: `count` is not a number of rows.
        """
        if isinstance(count, bool) or not isinstance(count, int):
            raise TypeError(f"worst() takes the number of rows first (found {count!r}): worst(10, sort='sqnr_db')")
        return ranked(self.result, sort, count)

    def to_json(self) -> JsonObject:
        """Return the report of `--format json`, as JSON values."""
        return to_json(self.result)

    def to_pandas(self) -> "DataFrame":
        """Return a `pandas.DataFrame` with a row per quantized tensor, indexed by name.

        Raises:
            UnavailableError: pandas is not installed.
        """
        records = []
        for row in self.result.quantized:
            data = row_to_json(row)
            shape = plain_shape(row.source.shape)
            records.append({"name": row.name, "dtype": row.source.dtype, "shape": shape, **(data["spec"] or {}),
                            **{f"range_{key}": value for key, value in data["range"].items()},
                            **row.stats})  # fmt: skip
        return pandas_frame(records, "name")

    def save(self, path: PathLike) -> None:
        """Write the report in the format of the path's suffix: .json, .csv, .md, .html, ...

        Raises:
            UsageError: unknown suffix.
            OutputError: the file cannot be written.
        """
        target = path_of(path)
        pieces = formatter_for(target)(self.result, ReportOptions())
        write_file(target, (piece.encode() for piece in pieces))

    def __str__(self) -> str:
        return "".join(formatter("table")(self.result, ReportOptions(top=_SHOWN)))

    def __repr__(self) -> str:
        s = self.summary
        inputs = ", ".join(map(escape_name, self.result.inputs))
        return f"<Report of {inputs}: {s['num_quantized']} tensors, sqnr_db={s['sqnr_db']}>"

    def _repr_html_(self) -> str:
        columns, hidden = columns_of(self.result, ReportOptions(top=_SHOWN), visible)
        more = f"<p>{hidden:,} more</p>" if hidden else ""
        return table_html(columns) + more + facts_html(facts(self.result, DEFAULT_SORT, visible))


class Selection(TypedDict, total=False):
    """Tensors to quantize and what all commands decide on them, as `measure` documents it."""

    recipe: PathLike | None
    preset: str | Sequence[str]
    include: str | Sequence[str] | None
    exclude: str | Sequence[str] | None
    min_ndim: int | None
    compute_dtype: str | None
    scale_bits: int
    allow_packed: bool


class MeasureSettings(Selection, total=False):
    """Settings and selection of `measure` and `run`, which `measure` documents."""

    scheme: str | None
    num_bits: int | None
    group_size: int | None
    axis: int | str | tuple[int, int] | None
    signed_input: bool | None
    narrow_range: bool | None
    round_mode: str | None
    ragged_groups: bool | None
    indivisible: str | None
    input_min: float | None
    input_max: float | None
    estimator: str | None
    percentile: float | None
    ranges: PathLike | None
    per_channel: bool
    histograms: bool
    allow_unmatched: bool


def pandas_frame(records: Sequence[Mapping[str, object]], index: str) -> "DataFrame":
    """Return a DataFrame with a row per record.

    Raises:
        UnavailableError: pandas is not installed.
    """
    try:
        import pandas  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        raise UnavailableError("to_pandas needs pandas; install it: pip install pandas") from None
    return pandas.DataFrame.from_records(records, index=index)


def measure(
    path: PathLike | Sequence[PathLike],
    *,
    scheme: str | None = None,
    num_bits: int | None = None,
    group_size: int | None = None,
    axis: int | str | tuple[int, int] | None = None,
    signed_input: bool | None = None,
    narrow_range: bool | None = None,
    round_mode: str | None = None,
    ragged_groups: bool | None = None,
    indivisible: str | None = None,
    compute_dtype: str | None = None,
    input_min: float | None = None,
    input_max: float | None = None,
    estimator: str | None = None,
    percentile: float | None = None,
    ranges: PathLike | None = None,
    recipe: PathLike | None = None,
    preset: str | Sequence[str] = (),
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    min_ndim: int | None = None,
    per_channel: bool = False,
    histograms: bool = False,
    scale_bits: int = 16,
    allow_unmatched: bool = False,
    allow_packed: bool = False,
    threads: int | None = None,
    max_memory: int = DEFAULT_MAX_MEMORY,
    device: str = "cpu",
    dask: str | None = None,
    **unknown: Never,
) -> Report:
    """Measure what quantization loses, like `qdq stats`; writes nothing.

    Arguments are the options of the command; None selects the command's default, which may differ from the op's on an
    array: `compute_dtype` is "float32", and tensors of fewer than two dimensions are not quantized.

    Args:
        path: a .npy, .npz or .safetensors file, or a checkpoint folder; or several of these.
        scheme: bits and granularity in one name, "int4-g128"; the next four arguments override it.
        num_bits: bits of a code, 8 by default.
        group_size: number of neighbours along the last axis that share a range.
        axis: the dimension whose indices each have a range, or two neighbours, (0, 1); "last"; "channel" (0, and 0,1
            for stacked experts); or "none" for one range per tensor.
        signed_input: use signed codes.
        narrow_range: exclude the lowest signed code.
        round_mode: "HALF_TO_EVEN" or "HALF_UP".
        ragged_groups: allow a shorter last group in each row.
        indivisible: "skip" or "channel": fallback for a tensor that groups do not divide.
        compute_dtype: "float32" or "native", the arithmetic of 16-bit tensors.
        input_min: lower end of a given range, in the tensors' unit.
        input_max: upper end of a given range.
        estimator: "minmax", "percentile" or "mse".
        percentile: parameter of the estimator "percentile", e.g. 99.99.
        ranges: a file of ranges by tensor.
        recipe: a TOML or JSON file of settings by tensor.
        preset: names of recipes that come with qdq, e.g. "linear-only".
        include: name patterns; only these tensors are quantized.
        exclude: name patterns of tensors that are not quantized.
        min_ndim: skip tensors with fewer dimensions.
        per_channel: also measure each channel or group.
        histograms: count elements and errors in bins.
        scale_bits: bits of a range's scale in `bits_per_weight`.
        allow_unmatched: warn about a pattern that matches nothing, instead of raising.
        allow_packed: measure the remaining float tensors of an already quantized checkpoint.
        threads: number of threads, all cores by default.
        max_memory: bytes of buffers.
        device: "cpu", "cuda" or "auto".
        dask: address of a Dask scheduler, its scheduler file, or "local": work on its workers; `threads` (1 by default)
            and `max_memory` are those of a task.
        **unknown: none is taken; the nearest keyword is offered.

    Raises:
        UsageError: settings or patterns contradict each other or do not fit the tensors.
        InputError: a file is missing, unreadable or malformed, or its weights are already quantized.
        UnavailableError: the device does not work here, or no cluster answers.
    """
    check_keywords("measure", unknown, measure)
    settings = MeasureSettings(
        scheme=scheme, num_bits=num_bits, group_size=group_size, axis=axis, signed_input=signed_input,
        narrow_range=narrow_range, round_mode=round_mode, ragged_groups=ragged_groups, indivisible=indivisible,
        compute_dtype=compute_dtype, input_min=input_min, input_max=input_max, estimator=estimator,
        percentile=percentile, ranges=ranges, recipe=recipe, preset=preset, include=include, exclude=exclude,
        min_ndim=min_ndim, per_channel=per_channel, histograms=histograms, scale_bits=scale_bits,
        allow_unmatched=allow_unmatched, allow_packed=allow_packed,
    )  # fmt: skip
    job, notes = _job("stats", open_all(path), settings)
    warn_all(notes)
    with (
        cluster_of(dask, threads, max_memory, device) as distribution,
        Workers(threads, max_memory, backend=backend(device)) as workers,
    ):
        rows = measure_plans(job.plans, job.measuring, workers, distribution)
        return Report(result_of_job(job, rows, workers))


def run(
    path: PathLike | Sequence[PathLike],
    output: PathLike,
    *,
    overwrite: bool = False,
    resume: bool = False,
    verify: bool = False,
    provenance: bool = False,
    break_lock: bool = False,
    threads: int | None = None,
    max_memory: int = DEFAULT_MAX_MEMORY,
    device: str = "cpu",
    dask: str | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
    **settings: Unpack[MeasureSettings],
) -> Report:
    """Quantize and dequantize tensors and write them in the same layout, like `qdq run`.

    `output` appears when it is whole. An error, or Ctrl-C, leaves nothing under its name; `resume` goes on from there.

    Args:
        path: a .npy, .npz or .safetensors file, or a checkpoint folder; or several of these.
        output: file or folder to write; of several inputs, a folder with an entry each.
        overwrite: replace an existing `output`, once the new one is whole.
        resume: go on with an interrupted run on the same input with the same settings, or start one.
        verify: read the output back before it gets its name.
        provenance: write OUTPUT.qdq.json beside a file; a folder always has qdq.json.
        break_lock: ignore the lock of a run that has ended, on a disk that cannot tell.
        threads: number of threads, all cores by default.
        max_memory: bytes of buffers.
        device: "cpu", "cuda" or "auto".
        dask: as for `measure`.
        on_progress: receives the phase ("quantizing", "verifying", "hashing"), the bytes finished and the total;
            called from any thread.
        settings: the settings and the selection of `measure`, e.g. `scheme="int4-g128"`.

    Raises:
        UsageError: as for `measure`; `output` exists or is an input; another run is writing it.
        InputError: a file is missing, unreadable or malformed, or has changed.
        OutputError: `output` cannot be written, or differs from what was written.
        UnavailableError: the device does not work here.
    """
    check_keywords("run", settings, MeasureSettings)
    checkpoints = open_all(path)
    job, notes = _job("run", checkpoints, settings)
    warn_all(notes)
    target = output_path(str(output))
    reads = [(settings.get("recipe"), "recipe"), (settings.get("ranges"), "ranges")]
    files = [NamedFile(Path(file), role) for file, role in reads if file is not None]
    check_files(files, [], inputs=checkpoints, outputs=output_paths(target))
    tree = output_tree(checkpoints, target, overwrite=overwrite, resume=resume, break_lock=break_lock)
    destination = Destination(tree=tree, verify=verify, provenance=provenance)
    if provenance and not tree.is_folder:
        tree.check_provenance()
    num_bytes = sum(tensor.nbytes for checkpoint in checkpoints for tensor in checkpoint.tensors)
    progress = _Progress(on_progress, num_bytes * destination.num_passes)
    job = replace(job, measuring=replace(job.measuring, on_bytes=progress))
    with (
        cluster_of(dask, threads, max_memory, device) as distribution,
        tree,
        Workers(threads, max_memory, backend=backend(device)) as workers,
    ):
        progress.begin("quantizing")
        return Report(execute_run(replace(job, distribution=distribution), destination, workers, progress))


quantize = run


class _Progress:
    """Progress of `run` for a callback."""

    def __init__(self, tell: Callable[[str, int, int], None] | None, total_bytes: int) -> None:
        self._tell = tell
        self._total = total_bytes
        self._done = 0
        self._phase = ""
        self._lock = Lock()

    def __call__(self, num_bytes: int) -> None:
        if self._tell is not None:
            with self._lock:
                self._done += num_bytes
                self._tell(self._phase, self._done, self._total)

    def begin(self, phase: str) -> None:
        self._phase = phase
        self(0)


def compare(
    reference: PathLike,
    candidate: PathLike,
    *,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    renamings: Sequence[str] = (),
    threads: int | None = None,
    max_memory: int = DEFAULT_MAX_MEMORY,
    dask: str | None = None,
) -> Report:
    """Measure the differences between two checkpoints, tensor by tensor, like `qdq compare`.

    Args:
        reference: the checkpoint that errors are relative to.
        candidate: the checkpoint that is measured.
        include: name patterns in `reference`; only these tensors are compared.
        exclude: name patterns of tensors that are left out.
        renamings: `OLD=NEW`, for tensors with other names in `candidate`.
        threads: number of threads, all cores by default.
        max_memory: bytes of buffers.
        dask: as for `measure`.

    Raises:
        UsageError: a pattern matches nothing, or no tensors could be compared.
        InputError: a file is missing, unreadable or malformed.
    """
    selection = Recipe(spec=QuantSpec(), include=_patterns(include), exclude=_patterns(exclude))
    ours, theirs = _plans(reference, selection), _plans(candidate, Recipe(spec=QuantSpec()))
    entries, others = entries_of(ours), entries_of(theirs)
    names, notes = new_names(
        list(dict.fromkeys(e.name for e in entries)), list(map(Renaming.parse, renamings)), allow_unmatched=False
    )
    warn_all(notes)
    with cluster_of(dask, threads, max_memory) as distribution, Workers(threads, max_memory) as workers:
        rows = compare_entries(entries, others, names, workers, distribution=distribution)
    run = RunResult(command="compare", inputs=inputs_of([*ours, *theirs]), settings={"map": list(renamings)},
                    rows=with_shares(rows), notes=notes_of([*ours, *theirs]))  # fmt: skip
    if not any(run.quantized):
        reasons = "; ".join(dict.fromkeys(row.reason for row in run.skipped)) or "there are no tensors"
        raise UsageError(f"{' and '.join(run.inputs)}: nothing was measured: {reasons}")
    return Report(run)


@dataclass(frozen=True, kw_only=True)
class Judgement(Verdict):
    """A verdict with the report that it is on. A notebook shows the verdict."""

    report: Report
    """The judged report: its rows have their limits and margins, and its page (`save("check.html")`) the verdict."""

    def _repr_html_(self) -> str:
        run = self.report.result
        items = [f"<li>{one.severity}: {sentence(one, quoted)}</li>" for one in with_files(run, self.violations)]
        items += [f"<li>{waived_line(one, quoted)}</li>" for one in with_files(run, self.waived)]
        more = f"<li>{len(items) - _SHOWN:,} more</li>" if len(items) > _SHOWN else ""
        return f"<p><strong>{headline(run, quoted)}</strong></p><ul>{''.join(items[:_SHOWN])}{more}</ul>"


def check(report: Report, budget: PathLike, *, today: date | None = None, allow_unmatched: bool = False) -> Judgement:
    """Judge a report by a budget file, like `qdq check`: `passed`, and `violations` with tensor, metric and limit.

    Args:
        report: the measured report.
        budget: a TOML file; its baseline, if any, is read too.
        today: the date for which waivers are judged; today by default.
        allow_unmatched: warn about a pattern that matches nothing, instead of raising.

    Raises:
        UsageError: the budget is malformed, limits nothing, or was made with other settings.
        InputError: the baseline is not a report.
    """
    if not isinstance(report, Report):
        raise UsageError(f"{report!r}: not a report; give what qdqcli.measure returns")
    rules = read_budget(path_of(budget))
    if rules.is_idle:
        raise UsageError(f"{rules.source}: sets no limit and has no baseline; there is nothing to judge by")
    beside = None
    if rules.baseline is not None:
        beside = BaselineComparison(run=report.result, baseline=read_report(rules.baseline.path))
    day = today or date.today()
    verdict, notes = judge(report.result, rules, beside, day, allow_unmatched=allow_unmatched)
    warn_all(notes)
    judged = with_bounds(replace(report.result, command="check", verdict=verdict), rules, beside)
    parts = {field.name: getattr(verdict, field.name) for field in fields(verdict)}
    return Judgement(**parts, report=Report(judged))


class Tensor:
    """One tensor of a checkpoint: name, shape and dtype from the header; `read` reads the data."""

    def __init__(self, shard: Shard, info: TensorInfo) -> None:
        self._shard, self._info = shard, info

    @property
    def name(self) -> str:
        return self._info.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self._info.shape

    @property
    def dtype(self) -> str:
        """safetensors dtype name: BF16, F32, I64, ..."""
        return self._info.dtype.name

    @property
    def file(self) -> Path:
        """Path of the file that contains the tensor."""
        return self._shard.path

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes."""
        return self._info.nbytes

    def read(self) -> NDArray[Any]:
        """Read the data into a new array of `shape`; bfloat16 and FP8 as dtypes of ml_dtypes.

        Raises:
            DTypeError: NumPy has no such dtype.
            InputError: the file cannot be read, or has changed.
        """
        info = self._info
        if info.dtype.name not in _NUMPY:
            raise DTypeError(f"'{escape_name(info.name)}' has dtype {info.dtype.name}, which NumPy has not")
        buffer = np.empty(info.nbytes, np.uint8)
        with self._shard.open() as reader:
            if info.nbytes:
                reader.read_into(info, 0, memoryview(buffer.data))
        array: NDArray[Any] = buffer.view(_NUMPY[info.dtype.name]).reshape(info.stored_shape)
        return array.T if info.fortran_order else array

    def __repr__(self) -> str:
        return f"<Tensor {escape_name(self.name)} {self.dtype} {list(self.shape)}>"


class Tensors(Sequence[Tensor]):
    """The tensors of a checkpoint in file order; indexed by position or name."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.path = checkpoint.path
        self._tensors = [Tensor(shard, info) for shard in checkpoint.shards for info in shard.tensors]

    def __len__(self) -> int:
        return len(self._tensors)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._tensors)

    @overload
    def __getitem__(self, key: int | str) -> Tensor: ...

    @overload
    def __getitem__(self, key: slice) -> list[Tensor]: ...

    def __getitem__(self, key: int | str | slice) -> Tensor | list[Tensor]:
        if not isinstance(key, str):
            return self._tensors[key]
        found = [tensor for tensor in self._tensors if tensor.name == key]
        if not found:
            raise KeyError(f"{key}{nearest_names(key, [tensor.name for tensor in self._tensors])}")
        return found[0]

    def __repr__(self) -> str:
        return f"<Checkpoint {show_path(self.path)}: {len(self)} tensors>"


def open_checkpoint(path: PathLike, *, follow_links: bool = False) -> Tensors:
    """Read the headers of a .npy, .npz or .safetensors file or of a checkpoint folder.

    Args:
        path: the file or the folder.
        follow_links: allow links that lead out of the folder.

    Raises:
        InputError: missing, unreadable or malformed; names the file.
    """
    return Tensors(open_headers(path_of(path), follow_links=follow_links))


def _job(command: str, checkpoints: Sequence[Checkpoint], settings: MeasureSettings) -> tuple[Job, list[str]]:
    """Decide on every tensor; also returns warnings.

    Raises:
        UsageError: settings or patterns contradict each other or do not fit the tensors.
        InputError: the weights of an input are already quantized.
    """
    given: dict[str, object] = {name: settings.get(name) for name in (*DEFAULTS, "scheme") if name != "ranges_file"}
    scale_bits, allow_unmatched = settings.get("scale_bits", 16), settings.get("allow_unmatched", False)
    preset = settings.get("preset", ())
    request = request_of(given, settings.get("ranges"), settings.get("recipe"), preset, scale_bits)
    packed = recognised(checkpoints, allow_packed=settings.get("allow_packed", False))
    plans, notes = make_plans(checkpoints, request.recipe, packed, allow_unmatched=allow_unmatched)
    check_selection(plans)
    ranges = None
    if request.ranges_file is not None:
        ranges, warnings = ranges_of(plans, request.ranges_file, allow_unmatched=allow_unmatched)
        notes += warnings
    measuring = Measuring(ranges=ranges, per_slice=settings.get("per_channel", False), scale_bits=scale_bits)
    has_histograms = settings.get("histograms", False)
    job = Job(command=command, plans=plans, request=request, measuring=measuring, has_histograms=has_histograms)
    return job, notes


def request_of(
    given: Mapping[str, object],
    ranges: PathLike | None,
    recipe: PathLike | None,
    preset: str | Sequence[str],
    scale_bits: int,
) -> Request:
    """Return the request that keyword arguments describe; None stands for the command's default."""
    if isinstance(scale_bits, bool) or not isinstance(scale_bits, int) or scale_bits < 0:
        raise UsageError(f"scale_bits is {scale_bits!r}; it must be an integer of at least 0")
    presets = [preset] if isinstance(preset, str) else preset
    settings = _checked({key: axis_text(value) if key == "axis" and isinstance(value, tuple) else value
                         for key, value in given.items() if value is not None})  # fmt: skip
    if ranges is not None:
        settings["ranges_file"] = Path(ranges)
    sources = [*map(preset_of, presets), *([] if recipe is None else [read_named(path_of(recipe))])]
    options: Settings = {**DEFAULTS, "scale_bits": scale_bits}
    flags = {key: key.removesuffix("_file") for key in settings}
    path = None if recipe is None else Path(recipe)
    return request_from(merge_options(options, sources, settings, flags, presets=presets, recipe=path))


def _checked(given: Mapping[str, object]) -> JsonObject:
    """Validate the arguments like a recipe's `[defaults]`, with the same error messages."""
    text = json.dumps({"defaults": given}, default=_plain)
    try:
        checked = parse_recipe(text, "", is_json=True).defaults
    except UsageError as error:
        message = str(error).removeprefix(":1: ").removeprefix("[defaults]: ")
        raise UsageError(message.replace("[defaults]", "the call")) from None
    # As on the command line: the outputs record `99.0`, and a resumed run compares it.
    return {key: float(value) if key in REAL else value for key, value in checked.items()}


def _plain(value: object) -> object:
    """Convert a NumPy number to Python's; other objects to text, which no setting accepts."""
    return value.item() if isinstance(value, np.generic) else str(value)


def recognised(checkpoints: Sequence[Checkpoint], *, allow_packed: bool) -> list[Packed]:
    """Return what is known of packed weights in the checkpoints.

    Raises:
        InputError: weights are already quantized, unless `allow_packed`.
    """
    packed = recognise_inputs(checkpoints)
    if not allow_packed:
        for checkpoint, own in zip(checkpoints, packed, strict=True):
            check_unpacked(checkpoint, own)
    return packed


def open_all(path: PathLike | Sequence[PathLike]) -> list[Checkpoint]:
    """Read the headers of one or several inputs."""
    paths = path if isinstance(path, Sequence) and not isinstance(path, str) else [path]
    return [open_headers(path_of(one)) for one in paths]


def path_of(value: PathLike) -> Path:
    """Return the path; raises UsageError for what is none."""
    if not isinstance(value, str | Path):
        raise UsageError(f"{value!r}: not a path; give a str or a pathlib.Path")
    return path_from(value) if isinstance(value, str) else value


def _plans(path: PathLike, recipe: Recipe) -> list[Plan]:
    views = decoded_inputs(open_all(path))
    plans, notes = make_plans(views, recipe, [Packed()] * len(views))
    warn_all(notes)
    return plans


_WORDS = {"bits": "num_bits", "nbits": "num_bits", "group": "group_size", "ignore": "exclude"}
"""Names of other libraries -> those that do the same here."""


def check_keywords(function: str, given: Mapping[str, object], known: type | Callable[..., object]) -> None:
    """Refuse keyword arguments that a TypedDict or a function lacks.

    Raises:
        TypeError: as Python does for a function without them.
    """
    for name in sorted(given.keys() - known.__annotations__.keys()):
        nearest = _WORDS.get(name) or next(iter(get_close_matches(name, known.__annotations__, n=1)), None)
        hint = f". Did you mean '{nearest}'?" if nearest in known.__annotations__ else ""
        raise TypeError(f"{function}() got an unexpected keyword argument '{name}'{hint}")


def _patterns(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


@contextmanager
def cluster_of(
    address: str | None, threads: int | None, max_memory: int, device: str = "cpu"
) -> Iterator[Distribution | None]:
    """Yield the cluster at the address; None without one.

    Raises:
        UnavailableError: no cluster answers there.
    """
    if address is None:
        yield None
        return
    from qdqcli.run.cluster import cluster_at, risk_of  # only where it is used

    risk = risk_of(address)
    if risk is not None:
        warn_all([risk], 6)
    with cluster_at(
        address, WorkerResources(threads=threads or 1, max_memory=max_memory, device=device)
    ) as distribution:
        yield distribution


def warn_all(notes: Sequence[str], stacklevel: int = 3) -> None:
    """Warn of each note, as a line of the caller of the public function."""
    for note in notes:
        warnings.warn(note, stacklevel=stacklevel)
