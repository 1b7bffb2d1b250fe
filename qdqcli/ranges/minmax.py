"""Min-max range: the op's own range when none is given."""

from qdqcli.op.backend import Backend
from qdqcli.op.histogram import PatternHistogram
from qdqcli.op.layout import Layout
from qdqcli.op.minmax import MinMax
from qdqcli.op.params import Floats
from qdqcli.op.spec import QuantSpec
from qdqcli.ranges.estimator import WholeSlices


class MinMaxEstimator:
    """Minimum and maximum, including infinities; NaN is ignored.

    Without a given range the op uses this range and does not clamp to it: callers that pass no range to the op need
    only `MinMax`.
    """

    def __init__(
        self,
        spec: QuantSpec,  # noqa: ARG002 - the settings have no effect here
        dtype: str,
        backend: Backend | None = None,
    ) -> None:
        self._dtype, self._backend = dtype, backend

    def of_slices(self, slices: WholeSlices) -> Floats:
        measured = MinMax(slices.layout, self._dtype, slices.first_slice, slices.num_slices, self._backend)
        measured.see(slices.x, slices.start, slices.stop)
        return measured.ranges()

    def of_patterns(self, patterns: PatternHistogram) -> Floats:
        return patterns.ranges()

    def of_long_slice(self, num_elements: int) -> MinMax:
        return MinMax(Layout.of((num_elements,), QuantSpec()), self._dtype, 0, 1, self._backend)
