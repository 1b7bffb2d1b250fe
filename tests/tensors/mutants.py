"""Files that are almost `.safetensors`: a valid header as a structure, changed in ways that a parser may get wrong.

Bytes changed at random rarely get past the first bracket. Here most changes are of one field's value, of one field, of
the order, or of the spelling, so that what is left is well formed up to there.
"""

import json
import random
import struct
from dataclasses import dataclass, field

from qdqcli.tensors.tensor import DTYPES

NUMBERS = (
    *("0", "1", "2", "7", "8", "-0", "-1", "00", "01", "+1", "1.0", "1e0", "1E2", "0.5", "1e400", "-0.0", ".5", "1."),
    *("4294967295", "4294967296", "9223372036854775807", "9223372036854775808"),
    *("18446744073709551615", "18446744073709551616", "36893488147419103232", "9" * 40, "9" * 5000, "0x1"),
)
SPELLINGS = {"0": ("-0", "0.0", "false", "00", "0e0"), "1": ("true", "1.0", "01")}
"""What a lax parser takes for the same number."""
VALUES = (
    *NUMBERS,
    *("true", "false", "null", "NaN", "Infinity", "-Infinity", "nan", "undefined", "None", "'a'", '""', '"F32"'),
    *("[]", "{}", "[0]", "[0,1]", "[1,0]", "[0,4,8]", "[[0,4]]", '["0","4"]', '{"0":4}', "[0,4", "[0,4]]", "[,]"),
    *('{"F32":null}', '{"F32":1}', '["F32",[1],[0,4]]', '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}', "[0,]"),
    *(
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '"\\ud83d\\ude00"',
        '"\\u00e9"',
        '"\\x41"',
        '"\\u12"',
        '"\\/"',
        '"\t"',
        '"\x7f"',
    ),
)
NAMES = (
    *("", "a", "b", "__metadata__", "__metadata", "\\u0061", "\\ud800", "\\ud83d\\ude00", "\u00e9", "n\\u0000l"),
    "w" * 300,
)
BLANKS = ("", "", "", " ", "  ", "\n", "\t", "\r\n", "\f", "\v", "\u00a0", "\ufeff", "\0", "//x\n", "/**/")
ALPHABET = b'0123456789-+.eE{}[]",:\\ufF8BInatruls \n\t\0\xff\xc3\xed'
DEPTHS = (1, 2, 100, 123, 124, 125, 126, 127, 128, 500, 20_000)
"""In a record, which is two levels deep itself: around 127, where the library stops; far beyond, where Python does."""


@dataclass
class Header:
    """Fields as they are spelled, so that a change can be of anything."""

    entries: list[tuple[str, list[tuple[str, str]] | str]] = field(default_factory=list)
    """Name -> fields of its record, or what stands in place of the record."""
    data_bytes: int = 0

    def text(self, rng: random.Random, *, blanks: bool) -> str:
        def blank() -> str:
            return rng.choice(BLANKS[:8] if rng.random() < 0.95 else BLANKS) if blanks else ""

        def members(pairs: list[tuple[str, str]]) -> str:
            inner = ",".join(f'{blank()}"{key}"{blank()}:{blank()}{value}{blank()}' for key, value in pairs)
            return f"{{{inner}{blank()}}}"

        records = [(name, members(record) if isinstance(record, list) else record) for name, record in self.entries]
        return f"{blank()}{members(records)}{blank()}"


def written(rng: random.Random) -> Header:
    """Up to five tensors, in any order of header and data; valid but for one flaw of the layout now and then."""
    flaw = rng.choice(("hole", "overlap", "half a byte", "overflow")) if rng.random() < 0.1 else None
    sizes = [[rng.choice((0, 1, 2, 3, 8)) for _ in range(rng.randrange(4))] for _ in range(rng.randrange(6))]
    header = Header()
    for i, shape in enumerate(sizes):
        dtype = rng.choice(list(DTYPES))
        bits = DTYPES[dtype].bits
        for size in shape:
            bits *= size
        if bits % 8 and flaw != "half a byte":
            shape.append(8)
            bits *= 8
        if bits == 0 and flaw == "overflow":
            shape[:0] = (1 << rng.randrange(30, 65), 1 << rng.randrange(30, 65))
        if i and flaw in ("hole", "overlap"):
            header.data_bytes += 1 if flaw == "hole" else -min(1, header.data_bytes)
        begin, header.data_bytes = header.data_bytes, header.data_bytes + bits // 8
        offsets = f"[{begin},{header.data_bytes}]"
        record = [("dtype", f'"{dtype}"'), ("shape", json.dumps(shape)), ("data_offsets", offsets)]
        rng.shuffle(record)
        header.entries.append((f"t{i}", record))
    rng.shuffle(header.entries)
    if rng.random() < 0.3:
        header.entries.insert(rng.randrange(len(header.entries) + 1), ("__metadata__", '{"format":"pt","k":"v"}'))
    return header


def mutate(header: Header, rng: random.Random) -> None:
    """One change of the structure."""
    if not header.entries:
        header.entries.append((rng.choice(NAMES), rng.choice(VALUES)))
        return
    at = rng.randrange(len(header.entries))
    name, record = header.entries[at]
    kind = rng.randrange(10)
    if kind == 0:
        header.entries[at] = (rng.choice((*NAMES, header.entries[0][0])), record)
    elif kind == 1:
        header.entries[at] = (name, rng.choice(VALUES))
    elif kind == 2:
        header.entries.append(rng.choice(header.entries))
    elif kind == 3:
        del header.entries[at]
    elif kind == 4:
        header.entries.append(("__metadata__", rng.choice(('{"a":"b"}', '{"a":1}', '{"a":"b","a":"c"}', *VALUES))))
    elif isinstance(record, list) and record:
        _mutate_record(record, rng)


def _mutate_record(record: list[tuple[str, str]], rng: random.Random) -> None:
    at = rng.randrange(len(record))
    key, value = record[at]
    kind = rng.randrange(7)
    if kind == 0:
        record[at] = (key, rng.choice(VALUES))
    elif kind == 1:
        del record[at]
    elif kind == 2:
        record.insert(at, rng.choice(record))
    elif kind == 3:
        record.append((rng.choice(("extra", "Dtype", "shape ", *NAMES)), rng.choice(VALUES)))
    elif kind == 4:
        depth = rng.choice(DEPTHS)
        opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
        record.append(("deep", opening * depth + rng.choice(("1", "[]", "")) + closing * depth))
    elif kind == 5 and value.startswith("[") and value != "[]":
        numbers = value[1:-1].split(",")
        which = rng.randrange(len(numbers))
        old = numbers[which].strip()
        near = [str(int(old) + step) for step in (-8, -4, -1, 1, 4, 8)] if old.isdigit() and len(old) < 20 else []
        spellings = SPELLINGS.get(old, ()) if rng.random() < 0.5 else ()
        numbers[which] = rng.choice(spellings or (*near, *NUMBERS, f"{old},0"))
        record[at] = (key, f"[{','.join(numbers)}]")
    else:
        record[at] = (key, f'"{rng.choice([*DTYPES, "F33", "f32", "F8", "BF16 "])}"')


def mutant(rng: random.Random) -> bytes:
    """A file: valid, changed in its structure, in its bytes, in its length, or in several of these."""
    header = written(rng)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        mutate(header, rng)
    text = bytearray(header.text(rng, blanks=rng.random() < 0.4).encode("utf-8", "surrogatepass"))
    if rng.random() < 0.25:
        for _ in range(rng.choice((1, 1, 2))):
            _mutate_bytes(text, rng)
    if rng.random() < 0.3:
        text += b" " * (-len(text) % 8)
    length, data = len(text), rng.randbytes(header.data_bytes)
    if rng.random() < 0.08:
        length = rng.choice((0, 1, length - 1, length + 1, 32 << 20, 100_000_001, 1 << 63, (1 << 64) - 1)) % (1 << 64)
    if rng.random() < 0.08:
        data = rng.choice((data[:-1], data + b"\0", b"", data + data))
    whole = struct.pack("<Q", length) + bytes(text) + data
    return whole[: rng.randrange(len(whole))] if rng.random() < 0.02 else whole


def _mutate_bytes(text: bytearray, rng: random.Random) -> None:
    if not text:
        return
    at = rng.randrange(len(text))
    kind = rng.randrange(5)
    if kind == 0:
        text[at] = rng.choice(ALPHABET)
    elif kind == 1:
        del text[at]
    elif kind == 2:
        text.insert(at, rng.choice(ALPHABET))
    elif kind == 3:
        text[at] ^= 1 << rng.randrange(8)
    else:
        other = rng.randrange(len(text))
        text[at:at] = text[other : other + rng.randrange(20)]
