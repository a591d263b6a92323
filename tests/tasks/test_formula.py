"""Formulas: values against SymPy's, laws that equal formulas obey, and what must not be read."""

from __future__ import annotations

from fractions import Fraction

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from lensrl.tasks.answers import formula
from lensrl.tasks.answers.spelling import cleaned
from lensrl.tasks.answers.values import Unreadable

x, y = sympy.symbols("x y", positive=True)
LEAVES = st.one_of(
    st.integers(-9, 12).map(sympy.Integer),
    st.fractions(-5, 5, max_denominator=12).map(lambda value: sympy.Rational(value.numerator, value.denominator)),
    st.sampled_from([x, y, sympy.pi, sympy.E, sympy.sqrt(2), sympy.sqrt(7) / 3]),
)


def combined(parts: st.SearchStrategy[sympy.Expr]) -> st.SearchStrategy[sympy.Expr]:
    return st.one_of(
        st.tuples(parts, parts).map(lambda pair: pair[0] + pair[1]),
        st.tuples(parts, parts).map(lambda pair: pair[0] * pair[1]),
        st.tuples(parts, parts).map(lambda pair: pair[0] / (pair[1] ** 2 + 1)),
        st.tuples(parts, st.integers(2, 4)).map(lambda pair: pair[0] ** pair[1]),
        parts.map(lambda part: sympy.sqrt(part**2 + 1)),
        parts.map(lambda part: sympy.log(part**2 + 2)),
        parts.map(sympy.sin),
        parts.map(sympy.Abs),
    )


EXPRESSIONS = st.recursive(LEAVES, combined, max_leaves=6).filter(lambda expression: expression.is_finite is not False)


@settings(max_examples=200, deadline=None)
@given(EXPRESSIONS)
def test_a_formula_has_the_value_that_sympy_computes(expression: sympy.Expr) -> None:
    """SymPy writes the formula as LaTeX and computes its value by itself."""
    try:
        read = formula.read(cleaned(sympy.latex(expression, ln_notation=True)))
    except Unreadable:
        assert len(sympy.latex(expression)) > formula.LENGTH / 2
        return
    assert read.symbols == {str(symbol) for symbol in expression.free_symbols}
    at = {"x": Fraction(7, 5), "y": Fraction(11, 3)}
    wanted = expression.subs({x: sympy.Rational(7, 5), y: sympy.Rational(11, 3)}).evalf(40)
    assert abs(complex(formula.value(read, at)) - complex(wanted)) <= 1e-9 * max(1, abs(complex(wanted)))


@settings(max_examples=100, deadline=None)
@given(EXPRESSIONS, EXPRESSIONS)
def test_an_expanded_formula_is_the_same_and_a_shifted_one_is_not(first: sympy.Expr, second: sympy.Expr) -> None:
    product = sympy.latex(first * (second + 1), ln_notation=True)
    expanded = sympy.latex(sympy.expand(first * (second + 1)), ln_notation=True)
    shifted = sympy.latex(first * (second + 1) + sympy.Rational(1, 1000), ln_notation=True)
    try:
        a, b, c = (formula.read(cleaned(text)) for text in (product, expanded, shifted))
    except Unreadable:
        return
    assert formula.same(a, b)
    assert not formula.same(a, c)


@pytest.mark.parametrize(
    "text",
    ["", "5+", "(5", "5)", "5^", r"\frac{5}{", r"\frac{5}", "1 8", "5 7", r"3 \clubsuit", r"\int_0^1 x", "hello",
     "so x", "x is 5", "5:1", "5,6", "[7]", "5 = 5", "x < 5", r"1 + \ldots + 5", "|5", "5 mod 7",
     "x" + "+1" * 400],
)  # fmt: skip
def test_what_is_no_whole_formula_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        formula.read(text)


@pytest.mark.parametrize(
    "text", ["9^{9^{9^9}}", "1/0", "0^{-1}", r"\ln 0", r"(10^7)!", r"\sin(10^{99})", r"10^{10^{12}}"]
)
def test_what_cannot_be_computed_has_no_value(text: str) -> None:
    with pytest.raises(Unreadable):
        formula.value(formula.read(text))
