"""Laws over generated texts: nothing raises, every answer equals itself, equivalence is symmetric."""

from __future__ import annotations

import json
from fractions import Fraction

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heartloop.answers import extract_choice
from heartloop_verifiers import Pool, equivalent, extract_answer, verify
from heartloop_verifiers.clean import clean
from heartloop_verifiers.lexer import ParseError
from heartloop_verifiers.parser import parse

_PIECES = [
    "\\frac", "\\sqrt", "{", "}", "(", ")", "[", "]", "\\{", "\\}", "^", "_", "|", ",", ";", "=", "<",
    "\\le", "+", "-", "*", "/",
    "\\pm", "\\cdot", "!", "%", "^\\circ", "x", "n", "\\pi", "e", "i", "1", "2", "10", "0.5", "1,000",
    "\\infty", "\\cup", "\\in",
    "\\log", "_{2}", "\\sin", "\\lfloor", "\\rfloor", "\\binom", "\\text{ or }", "and", "or", "km", "three",
    "none", "\\begin{pmatrix}",
    "\\end{pmatrix}", "&", "\\\\", "\\left", "\\right", "\\boxed{", "$", "√", "²", "π", "½", "°", "\\mod",
    "\\approx", "The answer is ",
    "<think>", "</think>", "####", " ", ".", "\n", "\\overline{3}", "f(x)", "'", "\\sum", "C(", "\\dots",
]  # fmt: skip
_texts = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(_PIECES), max_size=14).map("".join))
_quick = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@_quick
@given(_texts)
def test_parsing_gives_a_node_or_a_parse_error(text: str) -> None:
    try:
        node = parse(clean(text))
    except ParseError:
        return
    assert isinstance(node, tuple)


@_quick
@given(_texts)
def test_extraction_never_raises_and_leaves_no_reasoning(text: str) -> None:
    answer = extract_answer(text)
    assert answer is None or isinstance(answer, str)
    letter = extract_choice(text)
    assert letter is None or (len(letter) == 1 and letter.isupper())


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    _texts,
    _texts,
    st.sampled_from(["strict", "official"]),
    st.sampled_from(["auto", "choice", "text", "tuple"]),
)
def test_verify_never_raises(pool: Pool, prediction: str, reference: str, mode: str, kind: str) -> None:
    verdict = verify(prediction, reference, mode=mode, kind=kind, pool=pool, timeout=1.0)
    assert verdict.correct in (True, False, None)
    assert verdict.correct is not None or verdict.reason


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_texts, _texts)
def test_equivalence_is_symmetric(pool: Pool, a: str, b: str) -> None:
    assert equivalent(a, b, pool=pool, timeout=1.0) == equivalent(b, a, pool=pool, timeout=1.0)


_atoms = st.one_of(
    st.integers(-50, 50).map(str),
    st.sampled_from(["x", "n", r"\pi", r"\sqrt{2}", r"\sqrt{3}", "0.25"]),
    st.tuples(st.integers(1, 30), st.integers(1, 30)).map(lambda p: rf"\frac{{{p[0]}}}{{{p[1]}}}"),
)
_expressions = st.recursive(
    _atoms,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: f"({p[0]})+({p[1]})"),
        st.tuples(inner, inner).map(lambda p: f"({p[0]})({p[1]})"),
        st.tuples(inner, st.integers(1, 3)).map(lambda p: f"({p[0]})^{{{p[1]}}}"),
        inner.map(lambda a: f"-({a})"),
    ),
    max_leaves=6,
)


@_quick
@given(_expressions)
def test_every_expression_equals_itself_rewritten_and_no_other(pool: Pool, text: str) -> None:
    same = rf"\left({text}\right) \cdot 3 - 2\cdot({text})"
    assert verify(same, text, pool=pool, timeout=20, extract=False).correct is True
    assert verify(f"{text}+1", text, pool=pool, timeout=20, extract=False).correct is False


@_quick
@given(st.fractions(max_denominator=10_000), st.integers(4, 9))
def test_a_rounded_decimal_counts_at_the_digits_it_shows(pool: Pool, value: Fraction, digits: int) -> None:
    reference = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    shown = f"{float(value):.{digits - 1}e}"
    mantissa, _, exponent = shown.partition("e")
    text = rf"{mantissa} \times 10^{{{int(exponent)}}}"
    ulp = Fraction(10) ** (int(exponent) - digits + 1)
    exact = Fraction(mantissa) * Fraction(10) ** int(exponent)
    if value.denominator > 1:
        assert abs(exact - value) <= ulp / 2
        assert verify(text, reference, pool=pool, extract=False).correct is True
    off = Fraction(mantissa) + Fraction(2, 10 ** (digits - 1))
    wrong = rf"{float(off):.{digits - 1}f} \times 10^{{{int(exponent)}}}"
    assert verify(wrong, reference, pool=pool, extract=False).correct is False


@settings(max_examples=50, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda c: st.lists(c) | st.dictionaries(st.text(), c),
    )
)
def test_graders_replies_never_raise(data: object) -> None:
    from heartloop_verifiers import parse_hle, parse_simpleqa

    for text in (json.dumps(data), f"correct: {data!r}", str(data)):
        parse_simpleqa(text)
        judgement = parse_hle(text)
        assert judgement is None or 0 <= judgement.confidence <= 100
