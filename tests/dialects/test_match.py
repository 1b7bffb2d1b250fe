"""Patterns of other tools mean the same as patterns of a recipe."""

import re
from fnmatch import fnmatchcase

import pytest

from qdqcli.dialects import match
from qdqcli.errors import UsageError
from qdqcli.recipe.patterns import compile_pattern

MODULES = ["lm_head", "lm_head2", "model.layers.1.mlp.gate", "model.layers.11.mlp.gate", "model.layers.1.mlp.gate_proj",
           "model.layers.1.mlp", "visual.blocks.0.attn", "model.layers.1.mlp.weight", "a[0].b", "a0.b",
           "x$"]  # fmt: skip
EXPRESSIONS = [
    "lm_head", "lm_head$", ".*gate$", ".*gate", "^model", r"model\.layers\.1\.", "gate", "(?i).*GATE", "(?i)lm_head$",
    "^(?!.*visual).*$", r".*\.mlp\.(gate|up)_proj$", "[$]", r"x\$", "[^$]+$", "a|lm_head$", r"lm_head\Z", ".*weight",
    "[]$a]", r"model.layers.1.mlp.gate$", "",
]  # fmt: skip


def agreeing(pattern: str | None) -> list[str]:
    """Modules whose weight the pattern of a recipe matches."""
    if pattern is None:
        return []
    matches = compile_pattern(pattern)
    return [module for module in MODULES if matches(f"{module}.weight")]


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize(
    ("translate", "test"), [(match.matched, re.match), (match.searched, re.search), (match.whole, re.fullmatch)]
)
def test_expressions_on_modules(translate: object, test: object, expression: str) -> None:
    assert agreeing(translate(expression)) == [name for name in MODULES if test(expression, name)]  # type: ignore[operator]


@pytest.mark.parametrize("name", MODULES)
def test_an_exact_name_means_one_module(name: str) -> None:
    assert agreeing(match.exact(name)) == [name]


@pytest.mark.parametrize("text", ["gate", "layers.1", "lm_head", "[0]", "x$"])
def test_part_of_a_name(text: str) -> None:
    assert agreeing(match.containing(text)) == [name for name in MODULES if text in name]


@pytest.mark.parametrize(
    "glob",
    ["*", "*lm_head*", "*weight_quantizer", "*quantizer", "*mlp.gate.weight_quantizer", "*gate*weight_quantizer",
     "model.layers.1*", "*input_quantizer", "*_quantizer", "*r", "lm_head.weight_quantizer", "*layers.1.*_quantizer",
     "*gate*weight_quant*"],
)  # fmt: skip
def test_globs_on_quantizers(glob: str) -> None:
    modules = [module for module in MODULES if not module.endswith("weight")]
    expected = [module for module in modules if fnmatchcase(f"{module}.weight_quantizer", glob)]
    assert [name for name in agreeing(match.on_weights(glob)) if name in modules] == expected


@pytest.mark.parametrize("glob", ["lm_head", "*gate", "*gate*", "model.layers.1*", "*[0-9].mlp.gate"])
def test_globs_on_modules(glob: str) -> None:
    assert agreeing(match.on_module(glob)) == [name for name in MODULES if fnmatchcase(name, glob)]


@pytest.mark.parametrize(
    "expression",
    ["(a+)+", r"(\w+\.?)*x$", "(a|a)*b", "(?:a*)*", "((a|b)c)+", "(a*){3}", "(a{1,9})+", ".*.*.*.*.*.*x", "(?x)(a+) +",
     "(a+)(?#b)+"],
)  # fmt: skip
def test_an_expression_that_may_take_forever_is_refused(expression: str) -> None:
    with pytest.raises(UsageError, match="can take longer than anyone waits"):
        match.matched(expression)


@pytest.mark.parametrize(
    "expression", [r"(a|b)c*", "(a+)?b+", "[(*]+|(x)+", r"\(a+\)+", "(ab)+", r"(\d{2}){2}", "(a+){1}", "{2}a{"]
)
def test_other_expressions_are_taken(expression: str) -> None:
    match.check_cost(expression)
