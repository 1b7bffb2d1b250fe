"""`--help`, `--version`, completion: what a user meets first."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

import qdqcli
from qdqcli.cli.help import GROUPS
from qdqcli.cli.main import COMMANDS, cli
from tests.cli.process import environment, run_process
from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors
from tests.tensors.packed.gguf_files import write_gguf
from tests.tensors.packed.golden import GOLDEN

MEASURING = ("run", "stats", "check", "compare", "inspect", "calibrate")


def command_of(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_the_commands(qdq: Qdq, flag: str) -> None:
    outcome = qdq(flag)
    assert (outcome.code, outcome.err) == (0, "")
    for name, (_, text) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text[:30])}", outcome.out, re.MULTILINE)


def test_help_says_what_cannot_be_left_out(qdq: Qdq) -> None:
    assert qdq("--help").out.startswith("Usage: qdq [OPTIONS] COMMAND [ARGS]...\n")
    assert qdq("run", "--help").out.startswith("Usage: qdq run -o OUTPUT [OPTIONS] [INPUT...]\n")


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version(qdq: Qdq, flag: str) -> None:
    assert qdq(flag).out == f"qdq {qdqcli.__version__}\n"


def test_the_help_says_what_is_simulated_and_how_to_read_it(qdq: Qdq) -> None:
    text = " ".join(qdq("--help").out.split())
    assert "linear, symmetric, no zero point" in text
    assert "Not simulated: FP8, NF4, MX and GGUF types" in text
    assert "a bit is worth 6 dB" in text


@pytest.mark.parametrize("name", MEASURING)
def test_short_help_has_examples_and_fits_a_screen(qdq: Qdq, name: str) -> None:
    outcome = qdq(name, "-h")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert len(lines) <= 35
    assert lines[-1] == f"All options: qdq {name} --help"
    assert lines.index("  Examples:") < lines.index("Options of every day:")
    assert {"--scheme", "--include", "--report"} <= set(re.findall(r"--[\w-]+", outcome.out)) or name == "compare"


def test_an_option_without_its_value_leads_to_the_help_of_the_command(qdq: Qdq) -> None:
    assert qdq("check", "--budget").error == "error: Option '--budget' requires an argument; see 'qdq check --help'"


def test_every_command_has_short_help(qdq: Qdq) -> None:
    for name in COMMANDS:
        assert qdq(name, "-h").out.startswith(f"Usage: qdq {name} "), name


@pytest.mark.parametrize("name", MEASURING)
def test_long_help_is_in_groups_with_examples_before_them(qdq: Qdq, name: str) -> None:
    out = qdq(name, "--help").out
    titles = re.findall(r"^([A-Z][\w ]+):$", out, re.MULTILINE)
    assert titles == [title for title in (*GROUPS, "Other") if title in titles]
    assert {"Which tensors", "Report", "Resources", "Other"} <= set(titles)
    assert out.index("Examples:") < out.index(f"\n{titles[0]}:")
    others = re.findall(r"^  (?:-\w, )?(--[\w-]+)", out.partition("\nOther:\n")[2], re.MULTILINE)
    assert others[-4:] == ["--quiet", "--verbose", "--debug", "--help"]


def test_quantize_is_run(qdq: Qdq) -> None:
    assert "Quantize and dequantize tensors" in qdq("quantize", "--help").out
    assert qdq("quantise").error.endswith("there is no command 'quantise'; the nearest is 'quantize'; see 'qdq --help'")


def test_help_of_a_command(qdq: Qdq) -> None:
    assert qdq("help", "stats").out == qdq("stats", "--help").out
    assert qdq("help", "recipe", "lint").out == qdq("recipe", "lint", "--help").out
    assert qdq("help").out.startswith(qdq("--help").out)
    outcome = qdq("help", "stat")
    assert (outcome.code, "stats" in outcome.error) == (2, True)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_documents_every_option(qdq: Qdq, name: str) -> None:
    outcome = qdq(name, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    for option in command_of(name).params:
        if isinstance(option, click.Option) and not option.hidden:
            assert option.opts[0] in outcome.out
            assert option.help, f"{name} {option.opts[0]} has no help"


def choices(name: str) -> list[tuple[str, str, str]]:
    return [
        (name, option.opts[-1], str(getattr(choice, "value", choice)))
        for option in command_of(name).params
        if isinstance(option, click.Option) and isinstance(option.type, click.Choice)
        for choice in option.type.choices
    ]


@pytest.mark.parametrize(
    ("name", "option", "choice"), [row for name in COMMANDS for row in choices(name)], ids=lambda value: str(value)
)
def test_every_choice_is_shown_as_it_must_be_typed(qdq: Qdq, name: str, option: str, choice: str) -> None:
    (entry,) = re.findall(rf"^  (?:-\w, )?{option} .*\n(?: {{10,}}.*\n)*", qdq(name, "--help").out, re.MULTILINE)
    assert re.search(rf"\b{choice}\b", entry), entry


def examples() -> list[Any]:
    return [
        pytest.param(name, line.strip(), marks=[pytest.mark.slow] if "--warmup" in line else [])
        for name in COMMANDS
        for line in (command_of(name).epilog or "").splitlines()
        if line.strip().startswith("qdq ")
    ]


@pytest.mark.parametrize(("name", "example"), examples())
def test_every_example_works(
    qdq: Qdq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, example: str
) -> None:
    monkeypatch.chdir(tmp_path)
    tensors = {"layer.weight": sample((4, 256)), "embed": sample((6, 128)), "bias": sample((4,))}
    for folder in ("MODEL_FOLDER", "GRADIENTS_FOLDER"):
        write_safetensors(tmp_path / folder / "model.safetensors", tensors)
    write_safetensors(tmp_path / "model.safetensors", tensors)
    write_gguf(tmp_path / "model-Q4_K_M.gguf", tensors)
    shutil.copytree(GOLDEN / "gptq" / "packed", tmp_path / "PACKED_FOLDER")
    (tmp_path / "budget.toml").write_text("schema = 1\n[limits]\nmin_sqnr_db = 3\n")
    (tmp_path / "recipe.toml").write_text('schema = 1\n[[rules]]\nmatch = "layer.*"\nnum_bits = 4\n')
    if "before.json" in example:
        for report in ("before.json", "after.json"):
            assert qdq("stats", "MODEL_FOLDER", "--report", report, "--format", "none").code == 0
    if example == "qdq check":
        assert qdq("init", "MODEL_FOLDER").code == 0
    if "report.json" in shlex.split(example)[2:4]:
        assert qdq("stats", "MODEL_FOLDER", "--report", "report.json", "--format", "none").code == 0
    if name == "finish":
        assert qdq("run", "MODEL_FOLDER", "-o", "MODEL_INT4", "--scheme", "int4-g128", "--part", "1/1").code == 0
    np.save("weights.npy", sample((4, 6)))
    np.save("gradients.npy", sample((4, 6)))
    arguments = shlex.split(example.partition(" > ")[0])[1:]
    assert arguments[0] == name
    outcome = qdq(*arguments)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    process = run_process(env=environment(_QDQ_COMPLETE=f"{shell}_source"))
    if shell == "bash" and process.returncode:
        pytest.skip(f"click needs a newer bash: {process.stderr}")
    assert process.returncode == 0
    assert "_QDQ_COMPLETE" in process.stdout


def test_completion_that_fails_is_not_exit_code_1() -> None:
    assert run_process(env=environment(_QDQ_COMPLETE="nonsense_source")).returncode == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("qdq s", "stats"),
        ("qdq stats --group", "--group-size"),
        ("qdq stats --round-mode half_u", "half_up"),
        ("qdq stats --sort sha", "share"),
        ("qdq stats --preset lin", "linear-only"),
        ("qdq stats --scheme int4-g1", "int4-g128"),
        ("qdq stats --compute-dtype n", "native"),
        ("qdq sweep model --scheme int4-g", "int4-g128"),
        ("qdq help ga", "gate"),
        ("qdq help sw", "sweep"),
        ("qdq recipe show lin", "linear-only"),
    ],
)
def test_completion(words: str, expected: str) -> None:
    variables = {"_QDQ_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    process = run_process(env=environment(**variables))
    assert process.returncode == 0
    assert f"plain,{expected}" in process.stdout.replace("HALF_UP", "half_up").splitlines()


@pytest.mark.parametrize("words", ["qdq stats mod", "qdq compare mod", "qdq recipe explain mod", "qdq run m -o mod"])
def test_completion_of_files(words: str) -> None:
    variables = {"_QDQ_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    assert run_process(env=environment(**variables)).stdout.splitlines() == ["file,mod"]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("stats", "x", "--bits", 4), "Did you mean '--num-bits'?"),
        (("run", "x", "--out", "y"), "Did you mean '--output'?"),
        (("check", "x", "--ignore", "y"), "Did you mean '--exclude'?"),
        (("info", "--bits", 4), "No such option '--bits'"),
        (("version",), "'qdq --version' shows it"),
        (("stats", "x", "-s", "int4g128"), "did you mean int4-g128"),
    ],
)
def test_words_of_other_tools_are_answered(qdq: Qdq, words: tuple[object, ...], answer: str) -> None:
    outcome = qdq(*words)
    assert outcome.code == 2
    assert answer in outcome.error


def test_sorted_by_size(qdq: Qdq, tmp_path: Path) -> None:
    tensors = {"small": sample((2, 2)), "large": sample((8, 8), seed=1), "medium": sample((4, 4), seed=2)}
    path = write_safetensors(tmp_path / "m.safetensors", tensors)
    for options in ((), ("--by", "kind")):
        lines = qdq("stats", path, "--sort", "size", *options).out.splitlines()
        assert [line.split()[0] for line in lines[2:5]] == ["large", "medium", "small"]
