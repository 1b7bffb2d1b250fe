"""The floors of the house: imports go down only, and only the command line speaks."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import qdqcli

FLOORS = [
    {"cli"},
    {"studies"},
    {"api"},
    {"report"},
    {"study"},
    {"run", "gate", "dialects"},
    {"recipe"},
    {"measure"},
    {"result", "output"},
    {"ranges"},
    {"tensors"},
    {"op"},
    {"stats"},
    {"escape", "interrupt"},
    {"errors", "plain"},
]
"""From the top. Rooms of one floor do not know each other."""

PACKAGE = Path(qdqcli.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
INSIDE = [path for path in FILES if path.parent != PACKAGE or path.stem not in ("__init__", "__main__")]
"""All but `__init__` and `__main__`, which stand above the top floor."""


def room_of(module: str) -> str:
    """`qdqcli.op.cpu.dispatch` is in the room `op`; the package's own names (`__version__`) are in none."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def floor_of(room: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, inside functions too, and of every `module:attribute` of a registry."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, level=level):
                assert level == 0, f"{path}:{node.lineno}: a relative import"
                assert module is not None
                if module == "qdqcli":  # a room, or a name of the package itself
                    yield from (
                        (node.lineno, f"qdqcli.{alias.name}" if (PACKAGE / alias.name).is_dir() else module)
                        for alias in node.names
                    )
                else:
                    yield node.lineno, module
            case ast.Constant(value=str(text)) if re.fullmatch(r"qdqcli(\.\w+)+:\w+", text):
                yield node.lineno, text.split(":")[0]


def relative(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_every_room_has_a_floor() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in INSIDE}
    assert rooms == {room for floor in FLOORS for room in floor}


@pytest.mark.parametrize("path", INSIDE, ids=relative)
def test_imports_go_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for line, module in imports_of(path):
        room = room_of(module)
        if module.split(".")[0] == "qdqcli" and room and room != own:
            assert floor_of(room) > floor_of(own), f"{path}:{line}: {own} imports {module}"


@pytest.mark.parametrize("path", [path for path in INSIDE if path.relative_to(PACKAGE).parts[0] != "op"], ids=relative)
def test_only_the_protocol_knows_the_back_ends(path: Path) -> None:
    """A new one is a line in `BACKENDS`, and nothing above changes."""
    for line, module in imports_of(path):
        assert not re.match(r"qdqcli\.op\.(cpu|cuda)", module), f"{path}:{line}: imports {module}"


def test_this_test_sees_imports_inside_functions_and_names_in_registries() -> None:
    found = {module for _, module in imports_of(PACKAGE / "cli" / "main.py")}
    assert "qdqcli.cli.stats" in found
    assert "qdqcli.errors" in found
    assert "qdqcli.run.execute" in {module for _, module in imports_of(PACKAGE / "cli" / "measure.py")}


@pytest.mark.parametrize("path", [path for path in INSIDE if path.relative_to(PACKAGE).parts[0] != "cli"], ids=relative)
def test_only_the_command_line_prints_or_exits(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Name(id=("print" | "input" | "exit" | "quit") as name)):
                raise AssertionError(f"{path}:{node.lineno}: calls {name}")
            case ast.Attribute(
                value=ast.Name(id="sys"), attr=("stdout" | "stderr" | "stdin" | "exit" | "argv") as name
            ):
                raise AssertionError(f"{path}:{node.lineno}: uses sys.{name}")
            case ast.Attribute(value=ast.Name(id="os"), attr="_exit"):
                raise AssertionError(f"{path}:{node.lineno}: exits")
            case ast.Name(id="SystemExit"):
                raise AssertionError(f"{path}:{node.lineno}: exits")
    assert "click" not in {module.split(".")[0] for _, module in imports_of(path)}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_an_init_file_holds_a_sentence_and_nothing_else(path: Path) -> None:
    if path.name == "__init__.py" and path.parent != PACKAGE:
        (only,) = ast.parse(path.read_text(encoding="utf-8")).body
        assert isinstance(only, ast.Expr)


def modules_after(code: str, *arguments: str) -> set[str]:
    """Top-level packages that are loaded once `code` has run."""
    script = f"import sys\n{code}\nprint('\\n' + ' '.join({{name.split('.')[0] for name in sys.modules}}))"
    process = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    return set(process.stdout.splitlines()[-1].split())


HEAVY = {"numpy", "numba", "llvmlite", "ml_dtypes", "safetensors", "tomlkit", "yaml"}


def test_importing_the_package_costs_nothing() -> None:
    assert not modules_after("import qdqcli") & (HEAVY | {"click", "rich"})


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["run", "--help"], ["inspect", "--help"], ["stats", "x"], ["check", "--schema"]],
)
def test_help_and_early_errors_import_neither_numpy_nor_numba(arguments: list[str]) -> None:
    loaded = modules_after("from qdqcli.cli.main import run\nrun(sys.argv[1:])", *arguments)
    assert "click" in loaded
    assert not loaded & HEAVY


def test_a_public_name_loads_what_it_needs() -> None:
    loaded = modules_after("from qdqcli import quantize_and_dequantize_v4")
    assert "numpy" in loaded
    assert not loaded & {"numba", "llvmlite"}  # for kernels that are not in the cache


def test_every_public_name_is_there() -> None:
    for name in qdqcli.__all__:
        assert getattr(qdqcli, name) is not None
    with pytest.raises(AttributeError):
        _ = qdqcli.no_such_name


def test_the_page_of_the_architecture_names_files_that_exist() -> None:
    root = PACKAGE.parent
    page = root / ".github" / "ARCHITECTURE.md"
    if not page.exists():
        pytest.skip("the sources are not here")
    found = re.findall(r"`([\w./-]+\.(?:py|md|toml|yaml))`", page.read_text(encoding="utf-8"))
    named = {name for name in found if "NAME" not in name and name != "qdq.toml"}
    assert len(named) > 80
    assert not [name for name in sorted(named) if not any((base / name).exists() for base in (root, PACKAGE))]
