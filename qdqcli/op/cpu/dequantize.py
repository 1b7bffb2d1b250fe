"""CPU loop that decodes packed weights: (value of the code - zero point) * scale, in float32, rounded at each step.

Codes of 1 to 8 bits are stored low bits first. A code is looked up in a table, which holds for integers, FP8, FP4 and
code books alike: a load per code, where shifts and conversions take as long and would need a loop per kind.
"""

import numpy as np

from qdqcli.op.jit.register import inlined


@inlined
def code_at(codes, row, number):
    """Return a code of a row."""
    stored, bits, per_word, _ = codes
    bit = number * bits if per_word == 0 else number // per_word * 32 + number % per_word * bits
    at = bit >> 3
    pair = np.int64(stored[row, at]) | np.int64(stored[row, min(at + 1, stored.shape[1] - 1)]) << 8
    return (pair >> (bit & 7)) & ((1 << bits) - 1)


@inlined
def dequantize_some(codes, row, begin, stop, scale, zero_point, scaled, out):
    """Write the columns [begin, stop) of a row, which share a scale; `scaled` has room for the values of all codes."""
    stored, bits, per_word, values = codes
    line = out[row, begin:stop]
    if bits == 8:
        found = stored[row, begin:stop]
        for c in range(line.size):
            line[c] = (values[found[c]] - zero_point) * scale
        return
    for code in range(values.size):
        scaled[code] = (values[code] - zero_point) * scale
    whole = 0
    if bits == 4 and per_word == 0 and begin & 1 == 0:
        pairs = stored[row, begin >> 1 : stop >> 1]
        for at in range(pairs.size):
            line[2 * at] = scaled[pairs[at] & np.uint8(15)]
            line[2 * at + 1] = scaled[pairs[at] >> np.uint8(4)]
        whole = 2 * pairs.size
    elif per_word == 0 and begin & 7 == 0:  # eight codes take `bits` bytes
        whole = line.size >> 3 << 3
        dense = stored[row, (begin >> 3) * bits :]
        for group in range(whole >> 3):
            word = np.int64(0)
            for at in range(bits):
                word |= np.int64(dense[group * bits + at]) << (8 * at)
            for code in range(8):
                line[8 * group + code] = scaled[word & ((1 << bits) - 1)]
                word >>= bits
    for c in range(whole, line.size):
        line[c] = scaled[code_at(codes, row, begin + c)]


def dequantize(codes, scales, zero_points, size, index, scaled, out):
    """Fill `out` (rows, columns) with the weights of `codes`, a `PackedCodes`.

    `scales` and `zero_points` have a row per row or one for all, and a column per `size` columns or one for all. Where
    `index` is not empty, it names the column for each column of `out` instead. `scaled` has room for the values of all
    codes.
    """
    last_scale, last_zero = scales.shape[1] - 1, zero_points.shape[1] - 1
    num_rows, width = out.shape
    for row in range(num_rows):
        s, z = min(row, scales.shape[0] - 1), min(row, zero_points.shape[0] - 1)
        if index.size > 0:
            for c in range(width):
                zero_point, scale = zero_points[z, min(index[c], last_zero)], scales[s, min(index[c], last_scale)]
                out[row, c] = (codes.values[code_at(codes, row, c)] - zero_point) * scale
            continue
        begin, group = 0, 0
        while begin < width:
            stop = min(begin + size, width)
            scale, zero_point = scales[s, min(group, last_scale)], zero_points[z, min(group, last_zero)]
            dequantize_some(codes, row, begin, stop, scale, zero_point, scaled, out)
            begin, group = stop, group + 1
