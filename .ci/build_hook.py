"""Build hook of release wheels: compiles the kernels for levels of x86-64, so that the first process need not.

HATCH_BUILD_HOOK_ENABLE_CUSTOM=1 python -m build

Other builds do without: their kernels are compiled where they are first called. The kernels are those of `qdq info
--warmup`; any x86-64 processor compiles those of all levels, but runs those of the lowest alone.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # a process that compiles for one level
    BuildHookInterface = object

_LLVM_NAMES = {"pni": "sse3", "sse4_1": "sse4.1", "sse4_2": "sse4.2", "lahf_lm": "sahf", "bmi1": "bmi", "abm": "lzcnt"}
"""Features that LLVM spells otherwise than /proc/cpuinfo."""


class KernelHook(BuildHookInterface):
    """Adds compiled kernels to the wheel, and the platform to its tag."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the kernels for each level, the lowest first, which finds them, and then the others at once."""
        if version == "editable":
            return
        self.folder = TemporaryDirectory(prefix="qdq-kernels-")
        objects = Path(self.folder.name, "objects")
        environment = os.environ | {"PYTHONPATH": self.root, "QDQ_CACHE_DIR": f"{self.folder.name}/cache"}
        for levels in (["x86-64-v2"], ["x86-64-v3", "x86-64-v4"]):
            commands = [[sys.executable, __file__, objects, level] for level in levels]
            processes = [subprocess.Popen(command, env=environment) for command in commands]
            codes = [process.wait() for process in processes]
            if any(codes):
                raise RuntimeError("the kernels were not compiled")
        build_data["force_include"][str(objects)] = "qdqcli/op/jit/objects"
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-manylinux_2_17_x86_64"  # code of no Python; of the C library only what 2.17 has

    def finalize(self, _version: str, _build_data: dict[str, Any], _artifact_path: str) -> None:
        """Delete the compiled kernels."""
        if hasattr(self, "folder"):
            self.folder.cleanup()


def compile_level(objects: Path, level: str) -> None:
    """Write the images of all kernels for a level to a folder of `objects`."""
    from qdqcli.op.jit import cache

    names = list(cache.LEVELS)
    features = [feature for name in names[: names.index(level) + 1] for feature in cache.LEVELS[name]]
    os.environ["NUMBA_CPU_NAME"] = level
    os.environ["NUMBA_CPU_FEATURES"] = ",".join(
        ["-prefer-256-bit", *(f"+{_LLVM_NAMES.get(feature, feature)}" for feature in features)]
    )
    from qdqcli.op.jit.kernel import compile_image

    folder = objects / level
    folder.mkdir(parents=True)
    for source, kinds in _list_kernels(objects.with_name("kernels.json")):
        image = next(cache.images(source, kinds), None) or compile_image(source, kinds)
        cache.write(folder, source, cache.release_manifest(source, kinds, level), image)


def _list_kernels(path: Path) -> list[tuple[str, Any]]:
    """Return each kernel with the types of its arguments, from `path` or found by a warm-up and written there."""
    if not path.exists():
        from qdqcli.op import kernels
        from qdqcli.op.jit.kernel import Kernel
        from qdqcli.ranges.warm_up import warm_up_estimators
        from qdqcli.run.warm_up import warm_up

        for _ in (*warm_up(), *warm_up_estimators()):
            pass
        found = [kernel for kernel in vars(kernels).values() if isinstance(kernel, Kernel)]
        path.write_text(json.dumps([(kernel.source, kinds) for kernel in found for kinds in kernel.codes]))
    return [(source, _tuples(kinds)) for source, kinds in json.loads(path.read_text())]


def _tuples(kinds: Any) -> Any:
    return tuple(map(_tuples, kinds)) if isinstance(kinds, list) else kinds


if __name__ == "__main__":
    compile_level(Path(sys.argv[1]), sys.argv[2])
