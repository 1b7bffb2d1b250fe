"""Images of kernels: machine code that is copied to executable memory and called.

A kernel is one function that calls no other. Its x86-64 ELF object is linked once, when it is stored: code and
constants become one position-independent block, and the distances between them are filled in. Loading that takes
microseconds, where LLVM's own loader takes 50 ms to import. Objects for other processors are kept as they are and
loaded by LLVM.
"""

import ctypes
import mmap
import os
import struct
from collections.abc import Callable

Function = Callable[[bytes], int]
"""Native function: takes the arguments as 8-byte words."""

IS_X86_64 = os.uname().machine == "x86_64"
ENTRY = "kernel"
"""Name of the function in an object."""

_ELF = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QIIq")
_DISTANCE = struct.Struct("<i")
_ALLOCATED = 2
_PROGBITS, _RELA = 1, 4
_PC32, _PLT32 = 2, 4
_READ_EXECUTE = 5

_prototype = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p)
_loaded: list[object] = []
"""What holds loaded code, which is never unloaded."""


class ImageError(Exception):
    """The kernel cannot be made an image, or the image cannot be loaded."""


def link(code: bytes) -> bytes:
    """Return the block of an x86-64 ELF object, which begins with the only function.

    Raises:
        ImageError: the function needs others, or variables.
    """
    _, _, _, _, _, _, table, _, _, _, _, _, count, _ = _ELF.unpack_from(code)
    sections = list(_SECTION.iter_unpack(code[table : table + count * _SECTION.size]))
    block = bytearray()
    begins: dict[int, int] = {}
    for k, (_, kind, flags, _, offset, size, _, _, alignment, _) in enumerate(sections):
        if kind == _PROGBITS and flags & _ALLOCATED:
            block += bytes(-len(block) % alignment)
            begins[k] = len(block)
            block += code[offset : offset + size]
    for _, kind, _, _, offset, size, symbols, changed, _, _ in sections:
        if kind == _RELA and changed in begins:
            for at, how, symbol, addend in _RELOCATION.iter_unpack(code[offset : offset + size]):
                where = sections[symbols][4] + symbol * _SYMBOL.size
                _, _, _, section, value, _ = _SYMBOL.unpack_from(code, where)
                if how not in (_PC32, _PLT32) or section not in begins:
                    raise ImageError("the kernel needs functions or variables")
                at += begins[changed]
                _DISTANCE.pack_into(block, at, begins[section] + value + addend - at)
    return bytes(block)


def load(image: bytes) -> Function:
    """Load an image.

    Raises:
        ImageError: it is damaged, or memory cannot be made executable.
    """
    try:
        address = _load_block(image) if IS_X86_64 else _load_object(image)
    except (OSError, ValueError, RuntimeError) as error:
        raise ImageError(str(error)) from error
    return _prototype(address)


def _load_block(block: bytes) -> int:
    memory = mmap.mmap(-1, len(block))
    memory[:] = block
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    if protect(ctypes.c_void_p(address), ctypes.c_size_t(len(block)), _READ_EXECUTE):
        raise OSError(ctypes.get_errno(), "memory cannot be made executable")
    _loaded.append(memory)
    return address


def _load_object(code: bytes) -> int:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _loaded.append(engine)
    return int(engine.get_function_address(ENTRY))
