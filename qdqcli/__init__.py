"""Simulate the quantization of model weights exactly as TensorFlow's QuantizeAndDequantizeV4 does.

    report = qdqcli.measure("model", scheme="int4-g128")          # as `qdq stats`; a file or a folder
    report.summary["sqnr_db"], report.worst(10)
    qdqcli.run("model", "model-int4", scheme="int4-g128")         # as `qdq run`; returns the report
    y, sums = qdqcli.quantize_and_measure(weights, num_bits=4, axis=0)
    y = qdqcli.quantize_and_dequantize_v4(weights, num_bits=4)     # the op itself, with its own defaults

`measure`, `run` (or `quantize`), `sweep`, `plan`, `diagnose`, `compare`, `check` and `open_checkpoint` work on
checkpoints, the others on arrays. All errors are a `QdqError`. Names are imported when they are first used: importing
the package loads neither NumPy nor Numba.
"""

import sys
from types import ModuleType

TYPE_CHECKING = False  # as in `typing`, which takes longer to import than all the rest here
if TYPE_CHECKING:
    from qdqcli.api import Judgement as Judgement
    from qdqcli.api import Report as Report
    from qdqcli.api import Tensor as Tensor
    from qdqcli.api import check as check
    from qdqcli.api import compare as compare
    from qdqcli.api import measure as measure
    from qdqcli.api import open_checkpoint as open_checkpoint
    from qdqcli.api import quantize as quantize
    from qdqcli.api import run as run
    from qdqcli.errors import DTypeError as DTypeError
    from qdqcli.errors import InputError as InputError
    from qdqcli.errors import QdqError as QdqError
    from qdqcli.errors import SpecError as SpecError
    from qdqcli.errors import UnavailableError as UnavailableError
    from qdqcli.errors import UsageError as UsageError
    from qdqcli.measure.arrays import quantize_and_measure as quantize_and_measure
    from qdqcli.op.arrays import quantize_and_dequantize_v4 as quantize_and_dequantize_v4
    from qdqcli.op.arrays import quantize_and_dequantize_v4_grad as quantize_and_dequantize_v4_grad
    from qdqcli.op.spec import ComputeDType as ComputeDType
    from qdqcli.op.spec import QuantSpec as QuantSpec
    from qdqcli.op.spec import RoundMode as RoundMode
    from qdqcli.stats.metrics import METRICS as METRICS
    from qdqcli.stats.metrics import ErrorStats as ErrorStats
    from qdqcli.stats.sums import ErrorSums as ErrorSums
    from qdqcli.studies import DiagnosisReport as DiagnosisReport
    from qdqcli.studies import PlanReport as PlanReport
    from qdqcli.studies import SweepReport as SweepReport
    from qdqcli.studies import diagnose as diagnose
    from qdqcli.studies import plan as plan
    from qdqcli.studies import sweep as sweep

__version__ = "0.1.0"

_PUBLIC = {
    "measure": "qdqcli.api",
    "run": "qdqcli.api",
    "quantize": "qdqcli.api",
    "sweep": "qdqcli.studies",
    "plan": "qdqcli.studies",
    "diagnose": "qdqcli.studies",
    "compare": "qdqcli.api",
    "check": "qdqcli.api",
    "open_checkpoint": "qdqcli.api",
    "Report": "qdqcli.api",
    "Judgement": "qdqcli.api",
    "Tensor": "qdqcli.api",
    "SweepReport": "qdqcli.studies",
    "PlanReport": "qdqcli.studies",
    "DiagnosisReport": "qdqcli.studies",
    "quantize_and_dequantize_v4": "qdqcli.op.arrays",
    "quantize_and_dequantize_v4_grad": "qdqcli.op.arrays",
    "quantize_and_measure": "qdqcli.measure.arrays",
    "QuantSpec": "qdqcli.op.spec",
    "RoundMode": "qdqcli.op.spec",
    "ComputeDType": "qdqcli.op.spec",
    "ErrorSums": "qdqcli.stats.sums",
    "ErrorStats": "qdqcli.stats.metrics",
    "METRICS": "qdqcli.stats.metrics",
    "QdqError": "qdqcli.errors",
    "DTypeError": "qdqcli.errors",
    "InputError": "qdqcli.errors",
    "SpecError": "qdqcli.errors",
    "UnavailableError": "qdqcli.errors",
    "UsageError": "qdqcli.errors",
}
"""Public name -> where it is defined; imported when it is first used."""

__all__ = ["__version__", *_PUBLIC]


class _Package(ModuleType):
    """Keeps `qdqcli.measure` and `qdqcli.run` the functions: importing the rooms would bind these instead."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in ("measure", "run") and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
