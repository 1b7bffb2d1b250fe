"""`qdq info`: facts on the installation, for bug reports."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from time import perf_counter

import click

from qdqcli import __version__
from qdqcli.cli.environment import PREFIX
from qdqcli.cli.help import Command
from qdqcli.cli.limits import prepare_libraries
from qdqcli.cli.options import verbosity_options
from qdqcli.cli.progress import counting, duration
from qdqcli.cli.session import Session, pass_session
from qdqcli.cli.streams import write
from qdqcli.errors import OutputError, QdqError
from qdqcli.escape import show_path
from qdqcli.gate.project import find_project
from qdqcli.report.escape import json_text, terminal
from qdqcli.report.html.metric_page import metrics_page

PACKAGES = ("numba", "llvmlite", "numpy", "ml-dtypes", "safetensors", "click", "rich", "numba-cuda")


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  qdq info
  qdq info --format json
  qdq info --metrics
  qdq info --warmup""",
)
@click.option("--format", "format_name", type=click.Choice(["table", "json"]), default="table", show_default=True,
              help="Choose what standard output gets.")  # fmt: skip
@click.option("--warmup", is_flag=True, help="Compile the kernels into the cache, so that no later run has to.")
@click.option("--metrics", is_flag=True, help="Show what each metric is and which way it is better, as Markdown.")
@verbosity_options
@pass_session
def info(session: Session, /, format_name: str, warmup: bool, metrics: bool) -> None:
    """Show versions, processor, threads, kernel cache and CUDA devices."""
    if metrics:
        write(metrics_page())
        return
    prepare_libraries()
    if warmup:
        _warm_up(session)
    facts = gather()
    if format_name == "json":
        write(json_text(facts, indent=2) + "\n")
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        write(f"{name.replace('_', ' '):<{width}}  {terminal(str(value)) if value is not None else 'none'}\n")


def _warm_up(session: Session) -> None:
    """Compile the kernels: a minute or two, or a second where they are cached.

    Raises:
        OutputError: there is no folder for cached kernels.
    """
    from qdqcli.op.jit.cache import folder
    from qdqcli.ranges import warm_up as estimators
    from qdqcli.run import warm_up as kernels

    cache = folder()
    if cache is None:
        raise OutputError("the kernel cache has no folder that only this user can write; name one in QDQ_CACHE_DIR")
    with counting(session, len(kernels.STEPS) + len(estimators.STEPS)) as begin:
        for step in chain(kernels.warm_up(), estimators.warm_up_estimators()):
            session.interruption.check()
            begin(f"compiling for {step}")
    session.tell(f"compiled the kernels into {show_path(cache)} in {duration(perf_counter() - session.began)}")


def gather() -> dict[str, object]:
    """Return fact -> JSON value."""
    import llvmlite.binding as llvm

    from qdqcli.op.jit.cache import folder
    from qdqcli.op.threads import available_threads

    kernels = folder()
    return {
        "qdq": __version__,
        "python": platform.python_version(),
        **{package: _installed(package) for package in PACKAGES},
        "platform": platform.platform(),
        "processor": llvm.get_host_cpu_name(),
        "vectors": _vectors(dict(llvm.get_host_cpu_features())),
        "threads": available_threads(),
        "kernel_cache": None if kernels is None else show_path(kernels),
        "cuda": _cuda_device(),
        "project_file": _project_file(),
        "environment": ", ".join(name for name in sorted(os.environ) if name.startswith(PREFIX)) or None,
    }


def _project_file() -> str | None:
    """Return the file that commands without INPUT take here, or the reason why it cannot be read."""
    try:
        path = find_project()
    except QdqError as error:
        return str(error)
    return None if path is None else show_path(path)


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _vectors(features: dict[str, bool]) -> str:
    known = ("avx512f", "avx2", "f16c", "fma", "sse2", "neon")
    return " ".join(name for name in known if features.get(name)) or "none that is known"


def _cuda_device() -> str:
    """Return the name of the device, or the reason why there is none."""
    from qdqcli.op.backend import backend, missing_for_cuda

    return missing_for_cuda() or backend("cuda").name
