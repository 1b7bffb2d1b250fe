"""The compiled kernels, each named by its source. Nothing here imports Numba; see `jit/kernel.py`."""

from qdqcli.op.jit.kernel import Kernel

measure_range = Kernel("qdqcli.op.cpu.ranges:measure_range")
measure_columns = Kernel("qdqcli.op.cpu.ranges:measure_columns")
make_qparams = Kernel("qdqcli.op.cpu.ranges:make_qparams")
quantize = Kernel("qdqcli.op.cpu.quantize:quantize")
quantize_and_sum = Kernel("qdqcli.op.cpu.quantize:quantize_and_sum")
fake_quantize_and_sum = Kernel("qdqcli.op.cpu.quantize:fake_quantize_and_sum")
fake_quantize_slices = Kernel("qdqcli.op.cpu.quantize:fake_quantize_slices")
differentiate = Kernel("qdqcli.op.cpu.quantize:differentiate")
sum_chunks = Kernel("qdqcli.op.cpu.errors:sum_chunks")
sum_slices = Kernel("qdqcli.op.cpu.slices:sum_slices")
finite_extremes = Kernel("qdqcli.op.cpu.slices:finite_extremes")
count_patterns = Kernel("qdqcli.op.cpu.histograms:count_patterns")
sum_patterns = Kernel("qdqcli.op.cpu.histograms:sum_patterns")
count_bins = Kernel("qdqcli.op.cpu.bins:count_bins")
gather_columns = Kernel("qdqcli.op.cpu.gather:gather_columns")
dequantize = Kernel("qdqcli.op.cpu.dequantize:dequantize")


count_finite = Kernel("qdqcli.op.cpu.ranks:count_finite")
select_ranks = Kernel("qdqcli.op.cpu.ranks:select_ranks")
count_first_digits = Kernel("qdqcli.op.cpu.ranks:count_first_digits")
count_digits = Kernel("qdqcli.op.cpu.ranks:count_digits")
search_slices = Kernel("qdqcli.op.cpu.search:search_slices")
make_candidates = Kernel("qdqcli.op.cpu.search:make_candidates")
sum_candidates = Kernel("qdqcli.op.cpu.search:sum_candidates")
sum_candidates_of_patterns = Kernel("qdqcli.op.cpu.search:sum_patterns")
