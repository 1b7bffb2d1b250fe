"""pread/pwrite from compiled code without the GIL.

A thread that returns to Python for each quarter of a megabyte waits there for the others, tens of microseconds each
time. A kernel that reads for itself works on blocks that fit a core's own cache, and returns after megabytes. Errors
are returned as (operation, errno) in `io_status`; the caller raises.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from qdqcli.op.file_range import READING, WRITING
from qdqcli.op.jit.register import inlined


def _positional(name: str) -> Any:
    """Return an intrinsic call(descriptor, array, done, count, offset) on the array's bytes [done, done + count)."""

    @intrinsic
    def call(_context, descriptor, array, done, count, offset):
        def generate(context, builder, sig, args):
            data = context.make_array(sig.args[1])(context, builder, args[1]).data
            pointer = builder.gep(builder.bitcast(data, ir.IntType(8).as_pointer()), [args[2]])
            integer = ir.IntType(64)
            kind = ir.FunctionType(integer, [ir.IntType(32), pointer.type, integer, integer])
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            return builder.call(function, [builder.trunc(args[0], ir.IntType(32)), pointer, args[3], args[4]])

        return types.int64(types.int64, array, types.int64, types.int64, types.int64), generate

    return call


_pread, _pwrite = _positional("pread"), _positional("pwrite")


@intrinsic
def _errno(_context):
    """This thread's errno."""

    def generate(_context, builder, _sig, _args):
        integer = ir.IntType(32)
        kind = ir.FunctionType(integer.as_pointer(), [])
        place = builder.call(cgutils.get_or_insert_function(builder.module, kind, "__errno_location"), [])
        return builder.zext(builder.load(place), ir.IntType(64))

    return types.int64(), generate


@inlined
def read_at(descriptor, offset, array, count, io_status):
    """Fill the first `count` elements of `array` with the bytes from `offset` on; return whether all were read."""
    done, wanted = 0, count * array.itemsize
    while done < wanted:
        got = _pread(descriptor, array, done, wanted - done, offset + done)
        if got <= 0:
            io_status[0], io_status[1] = READING, _errno() if got < 0 else 0
            return False
        done += got
    return True


@inlined
def write_at(descriptor, offset, array, count, io_status):
    """Write the first `count` elements of `array` from `offset` on; return whether all were written."""
    done, wanted = 0, count * array.itemsize
    while done < wanted:
        got = _pwrite(descriptor, array, done, wanted - done, offset + done)
        if got <= 0:
            io_status[0], io_status[1] = WRITING, _errno() if got < 0 else 0
            return False
        done += got
    return True
