"""The walk of one tensor: functions, files and frames of `qdq stats FILE --axis 0 --format none`, counted by a profile
hook.

    python tests/benchmarks/walk.py [--run] [--list] [--root FOLDER]

The input is one F32 matrix, the first call is not counted (it compiles), and only functions of `qdqcli` are. Frames
are the deepest stack of them; what is submitted to a thread runs in place, so that a stack has no gap.
`--run` counts `qdq run` with the same options.
`--root` counts another checkout, to compare.
"""

import argparse
import io
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np


def _in_place(_pool: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
    done: Future[Any] = Future()
    done.set_result(function(*arguments))
    return done


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[2], help="checkout to count")
    parser.add_argument("--run", action="store_true", help="count `qdq run`")
    parser.add_argument("--list", action="store_true", help="print the functions in the order of their first call")
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.root))
    from safetensors.numpy import save_file

    from qdqcli.cli.main import run

    package = str(arguments.root / "qdqcli")
    calls: Counter[tuple[str, str]] = Counter()
    deepest = [0]
    moves = [0]
    last = [""]

    def depth_of(frame: FrameType | None) -> int:
        depth = 0
        while frame is not None:
            depth += frame.f_code.co_filename.startswith(package)
            frame = frame.f_back
        return depth

    def hook(frame: FrameType, event: str, _argument: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(package) or code.co_name in ("<module>", "<genexpr>"):
            return
        if code.co_name.startswith("<"):  # comprehensions are no functions
            return
        calls[code.co_filename, code.co_qualname] += 1
        moves[0] += code.co_filename != last[0]
        last[0] = code.co_filename
        deepest[0] = max(deepest[0], depth_of(frame))

    ThreadPoolExecutor.submit = _in_place  # type: ignore[method-assign, assignment]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "one.safetensors"
        save_file({"w": np.linspace(-1, 1, 64 * 256, dtype=np.float32).reshape(64, 256)}, file)
        for counted in (False, True):
            if counted:
                sys.setprofile(hook)
            with redirect_stdout(io.StringIO()):
                output = ["-o", str(Path(folder) / f"{counted}.safetensors")] if arguments.run else []
                command = "run" if arguments.run else "stats"
                code = run([command, str(file), *output, "--axis", "0", "--format", "none", "--quiet"])
            sys.setprofile(None)
            if code:
                raise SystemExit(code)
    if arguments.list:
        for (path, name), count in calls.items():
            print(f"{Path(path).relative_to(package)}:{name} {count}")
    files = len({path for path, _ in calls})
    print(
        f"{calls.total()} calls, {len(calls)} functions, {files} files, {moves[0]} changes of file, "
        f"{deepest[0]} frames deep"
    )


if __name__ == "__main__":
    main()
