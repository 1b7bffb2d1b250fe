"""Images of kernels: an object file is linked once, when it is stored, into a block that is loaded without a linker.

An x86-64 ELF object becomes one position-independent block of code and constants, followed by a table of addresses of
the C library's functions, which loading fills in. Loading takes microseconds where a dynamic linker needs a shared
library, thus a linker at compile time, and LLVM's own loader 50 ms to import. Objects of other processors are kept as
they are and loaded by LLVM.
"""

import ctypes
import json
import mmap
import struct
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

Function = Callable[[bytes], int]
"""Native function: takes the arguments as 8-byte words."""

_X86_64 = 62
_ELF = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QIIq")
_ALLOCATED = 2
_PROGBITS, _SYMTAB, _RELA, _NOBITS = 1, 2, 4, 8
_PC32, _PLT32, _GOTPCREL, _PC64, _GOTPCRELX, _REX_GOTPCRELX = 2, 4, 9, 24, 41, 42
_JUMP = b"\xff\x25"
"""jmp through the address at a distance of 32 bits from the next instruction."""
_TABLE_ALIGNMENT = 16
_READ_EXECUTE = 5

_prototype = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p)
_loaded: list[object] = []
"""What holds loaded code, which is never unloaded."""


class ImageError(Exception):
    """The object cannot be linked, or the image not be loaded."""


class _Section(NamedTuple):
    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


class _Symbol(NamedTuple):
    name: str
    section: int
    """0 where it is not defined here."""
    value: int


def link(code: bytes, entry: str) -> bytes:
    """Return the image of a relocatable ELF object with the function `entry`.

    Raises:
        ImageError: the object needs a function that is not the C library's, or has an unknown kind of relocation.
    """
    header = _ELF.unpack_from(code)
    if header[0][:6] != b"\x7fELF\x02\x01":
        raise ImageError("not a 64-bit little-endian ELF object")
    sections = [_Section(*_SECTION.unpack_from(code, header[6] + k * _SECTION.size)) for k in range(header[12])]
    symbols = _symbols(code, sections)
    imports = sorted({symbol.name for symbol in symbols[1:] if not symbol.section and symbol.name})
    for name in imports:
        _address_of(name)
    if header[2] != _X86_64:
        return _with_header({"entry": entry}, code)

    block, begins = _lay_out(code, sections)
    table = len(block)
    slots = {name: table + 8 * k for k, name in enumerate(imports)}
    block += bytes(8 * len(imports))
    jumps = {}
    for name, slot in slots.items():
        jumps[name] = len(block)
        block += _JUMP + struct.pack("<i", slot - (len(block) + 6))
    for section in sections:
        if section.kind == _RELA and section.info in begins:
            relocations = code[section.offset : section.offset + section.size]
            for offset, kind, index, addend in _RELOCATION.iter_unpack(relocations):
                symbol, at = symbols[index], begins[section.info] + offset
                if symbol.section in begins and kind in (_PC32, _PLT32, _PC64):
                    target = begins[symbol.section] + symbol.value
                elif symbol.name in jumps and kind == _PLT32:
                    target = jumps[symbol.name]
                elif symbol.name in slots and kind in (_GOTPCREL, _GOTPCRELX, _REX_GOTPCRELX):
                    target = slots[symbol.name]
                else:
                    raise ImageError(f"relocation {kind} of {symbol.name!r}")
                struct.pack_into("<q" if kind == _PC64 else "<i", block, at, target + addend - at)
    (start,) = [begins[symbol.section] + symbol.value for symbol in symbols if symbol.name == entry]
    return _with_header({"start": start, "table": table, "imports": imports}, bytes(block))


def _symbols(code: bytes, sections: list[_Section]) -> list[_Symbol]:
    (table,) = [section for section in sections if section.kind == _SYMTAB]
    names = code[sections[table.link].offset :]
    entries = _SYMBOL.iter_unpack(code[table.offset : table.offset + table.size])
    return [
        _Symbol(names[name : names.index(b"\0", name)].decode(), section, value)
        for name, _, _, section, value, _ in entries
    ]


def _lay_out(code: bytes, sections: list[_Section]) -> tuple[bytearray, dict[int, int]]:
    """Return the sections that are loaded, one after another, and where each begins."""
    block = bytearray()
    begins: dict[int, int] = {}
    for k, section in enumerate(sections):
        if section.flags & _ALLOCATED and section.kind in (_PROGBITS, _NOBITS):
            _align(block, section.alignment)
            begins[k] = len(block)
            held = section.kind == _PROGBITS
            block += code[section.offset : section.offset + section.size] if held else bytes(section.size)
    _align(block, _TABLE_ALIGNMENT)
    return block, begins


def _align(block: bytearray, alignment: int) -> None:
    block += bytes(-len(block) % max(alignment, 1))


def _with_header(header: dict[str, object], content: bytes) -> bytes:
    return json.dumps(header).encode() + b"\n" + content


def load(image: bytes) -> Function:
    """Load an image.

    Raises:
        ImageError: it is damaged, for another processor, or needs a function that is not there.
    """
    try:
        first, content = image.split(b"\n", 1)
        header = json.loads(first)
        if "entry" in header:
            return _load_object(header["entry"], content)
        return _load_block(content, **header)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, struct.error) as error:
        raise ImageError(str(error)) from error


def _load_block(block: bytes, start: int, table: int, imports: list[str]) -> Function:
    memory = mmap.mmap(-1, len(block))
    memory[:] = block
    struct.pack_into(f"<{len(imports)}Q", memory, table, *map(_address_of, imports))
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if not 0 <= start < table:
        raise ValueError("no entry")
    if _libraries()[0].mprotect(ctypes.c_void_p(base), ctypes.c_size_t(len(block)), _READ_EXECUTE):
        raise OSError(ctypes.get_errno(), "memory cannot be made executable")
    _loaded.append(memory)
    return _prototype(base + start)


def _load_object(entry: str, content: bytes) -> Function:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(content))
    engine.finalize_object()
    address = engine.get_function_address(entry)
    if not address:
        raise ValueError("no entry")
    _loaded.append(engine)
    return _prototype(address)


def _address_of(name: str) -> int:
    """Return the address of a function of the C library or its mathematics.

    Raises:
        ImageError: it has no such function.
    """
    for library in _libraries():
        if hasattr(library, name):
            return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
    raise ImageError(f"{name!r} is not a function of the C library")


@cache
def _libraries() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    return ctypes.CDLL("libc.so.6", use_errno=True), ctypes.CDLL("libm.so.6")
