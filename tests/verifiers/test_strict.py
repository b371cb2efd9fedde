"""The strict rules, by pairs of texts: what must count as the same answer, and what must not."""

from __future__ import annotations

import pytest

from heartloop_verifiers import Pool, equivalent, verify, verify_many

_SAME = r"""
\frac{3}{4} | 0.75
\frac 34 | 3/4
75\% | \frac34
\frac{1}{2} | \frac{-1}{-2}
\frac{1}{\sqrt{2}} | \frac{\sqrt{2}}{2}
\sqrt{2}+\sqrt{3} | \sqrt{5+2\sqrt6}
2\sqrt{3} | 3.4641
3.14159 | \pi
\ln(e^3) | 3
\log_{10}100 | 2
\log(100) | 2
\sin 30^\circ | \frac12
\frac{\sqrt{6}-\sqrt{2}}{4} | \sin 15^\circ
\sin 2x | 2\sin x\cos x
\frac{x^2-1}{x-1} | x+1
2^{n+1} | 2\cdot 2^n
n! | n(n-1)!
{n \choose 2} | \frac{n(n-1)}{2}
C(n,2) | \binom n2
(-1)^n | (-1)^{n+2}
\lfloor (n+1)/2\rfloor | \lceil n/2\rceil
|x| | \sqrt{x^2}
x = 2 \text{ or } x = 3 | 3, 2
x \in \{2,3\} | 2,3
2, 3, and 5 | 5, 3, 2
x=\pm 3 | -3, 3
\frac{1\pm\sqrt5}{2} | \frac{1+\sqrt5}{2},\frac{1-\sqrt5}{2}
[1,2) | 1 \le x < 2
]-1, 2] | (-1,2]
(-\infty,1)\cup(2,\infty) | x<1 \text{ or } x>2
[0,1]\cup[1,2] | [0,2]
\mathbb{R}\setminus\{0\} | (-\infty,0)\cup(0,\infty)
\{x \mid x > 2\} | (2,\infty)
y = 2x+3 | 4x - 2y + 6 = 0
3x+4y\le 12 | 12 \ge 3x+4y
12\text{ cm} | 12
5000 m | 5 km
36 km/h | 10 m/s
90 s | 1.5 min
90^{\circ} | 90
45° | \frac{\pi}{4}
62.5\% | 62.5
0.\overline{3} | \frac13
1\,938 | 1938
1{,}938 | 1938
1,938 | 1938
1 938 | 1938
6.02 \times 10^{23} | 6.02e23
√6 | \sqrt{6}
x² | x^2
3 × 4 − 2 | 10
１２ | 12
three | 3
twenty-one | 21
none | \emptyset
No real solutions | no solution
3+4i | 4i + 3
\frac{1}{i} | -i
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | [[1,2],[3,4]]
\langle 1, 2, 3 \rangle | (1,2,3)
\{3,2,1\} | 1,2,3
f(x)=x+1 | f(t)=t+1
f(x)=x^2 | y=x^2
(a,b)=(1,2) | (1,2)
y=2, x=1 | (1,2)
1\frac{1}{2} | 3/2
m\cdot 6 | 6m
\frac{1}{3} \approx 0.333 | \frac13
July 4th, 1776 | 4 July 1776
The Beatles | Beatles
17 (mod 5) | 2 \pmod 5
1010_2 | 1010_{2}
10^{10^{10}} | 10^{10^{5+5}}
(C) 5 | C
A B = 7 | 7
"""

_DIFFERENT = r"""
1-1/e | 1+1/e
1/2^{99} | 1/2^{98}
1/2004! | 1/2006!
1/2004! | 0
1.6\times10^{-19} | 9.1×10^{-31}
(1,3) | [1,3]
(2,251,252) | (2,251)
(2,1) | (1,2)
5 | 0.05
5 km | 5 m
5 kg | 5 km
0.333 | 1/3
0.6666 | 2/3
3.14 | \pi
\frac{22}{7} | \pi
1.2345 | 1.2346
3.98673e6 | 3986729
1e-10 | 2e-10
2 3 | 23
x=1 | y=1
x | \sqrt{x^2}
x+1 | x-1
2^n | n^2
\sin 2x | 2\sin x
\lfloor n/2 \rfloor | \lceil n/2 \rceil
x>2 | x\ge 2
3x+4y\le 12 | 3x+4y\ge 12
2, 3 | 2, 3, 5
16,3,1 | 16,3,1,1
[1,2] | 1,2
a=1, b=2 | a=2, b=1
3-4i | 3+4i
2^{100} | 1267650600228229401496703205377
10^{10^{10}} | 10^{10^{9}}
e^{\pi\sqrt{163}} | 262537412640768744
120_5 | 120_6
no | yes
-5 | 5
12:00 | 12:01
O(n) | O(n^2)
1/2n+2 | \frac{1}{2n+2}
\begin{bmatrix} 1 & 0 \\ 0 & 1 \end{bmatrix} | \begin{pmatrix} 1 & 0 \\ 1 & 0 \end{pmatrix}
x_1 | x_2
\log_2 3 | \log_3 2
"""


def _pairs(block: str) -> list[tuple[str, str]]:
    pairs = [line.split(" | ") for line in block.strip().splitlines()]
    return [(left, right) for left, right in pairs]


@pytest.mark.parametrize(("prediction", "reference"), _pairs(_SAME))
def test_the_same_answer(prediction: str, reference: str, pool: Pool) -> None:
    verdict = verify(prediction, reference, pool=pool, timeout=20)
    assert verdict.correct is True, verdict


@pytest.mark.parametrize(("prediction", "reference"), _pairs(_DIFFERENT))
def test_another_answer(prediction: str, reference: str, pool: Pool) -> None:
    verdict = verify(prediction, reference, pool=pool, timeout=20)
    assert verdict.correct is False, verdict


def test_equivalent_is_symmetric(pool: Pool) -> None:
    pairs = [*_pairs(_SAME), *_pairs(_DIFFERENT)]
    for a, b in pairs[::4]:
        assert equivalent(a, b, pool=pool, timeout=20) == equivalent(b, a, pool=pool, timeout=20), (a, b)


def test_long_answers_against_themselves_and_reordered(pool: Pool) -> None:
    terms = [f"{n}x_{{{n}}}" for n in range(1, 401)]
    elements = [str(n * n) for n in range(2000)]
    matrix = (
        r"\begin{pmatrix}"
        + r"\\".join("&".join(str(i * j % 17) for j in range(60)) for i in range(60))
        + r"\end{pmatrix}"
    )
    other = matrix.replace("&16&", "&15&", 1)
    digits = "7" * 5000
    cases = [
        ("+".join(terms), "+".join(reversed(terms)), True),
        ("+".join(terms), "+".join(reversed(terms[1:])), False),
        (r"\{" + ",".join(elements) + r"\}", r"\{" + ", ".join(reversed(elements)) + r"\}", True),
        (r"\{" + ",".join(elements) + r"\}", r"\{" + ", ".join(reversed(elements[1:])) + r"\}", False),
        (matrix, matrix.replace("&", " & "), True),
        (matrix, other, False),
        (digits, digits + ".0", True),
        (digits, digits[:-1] + "8", False),
    ]
    verdicts = verify_many([(a, b) for a, b, _ in cases], pool=pool, timeout=20)
    assert [v.correct for v in verdicts] == [right for _, _, right in cases]


def test_several_references_are_alternatives(pool: Pool) -> None:
    assert verify("1/3", ["0.5", "2/6"], pool=pool).correct is True
    assert verify("1/4", ["0.5", "2/6"], pool=pool).correct is False
    assert verify("1", [], pool=pool).correct is None


@pytest.mark.parametrize(
    ("prediction", "reference", "options", "right"),
    [
        ("45 minutes", "45", {"unit": "minute"}, True),
        ("0.75 hours", "45", {"unit": "minute"}, True),
        ("45 hours", "45", {"unit": "minute"}, False),
        ("166 cm^2", "166", {"unit": "$cm^2$"}, True),
        ("4.2%", "4.2", {"unit": "%"}, True),
        ("0.042", "4.2", {"unit": "%"}, False),
        ("4.3", "4.2", {"unit": "%", "precision": "1e-1"}, True),
        ("4.5", "4.2", {"precision": 0.1}, False),
        ("0.333", "1/3", {"significant": 3}, True),
        ("54,108", "54108", {}, True),
        ("54,108", "54, 108", {"multiple": True}, True),
    ],
)
def test_options(
    prediction: str, reference: str, options: dict[str, object], right: bool, pool: Pool
) -> None:
    assert verify(prediction, reference, pool=pool, **options).correct is right  # type: ignore[arg-type]


def test_a_verdict_says_how_it_was_reached(pool: Pool) -> None:
    verdict = verify(r"So the final answer is $\boxed{\frac{2}{4}}$.", "0.5", pool=pool)
    assert (verdict.correct, verdict.method) == (True, "exact")
    assert (verdict.prediction, verdict.reference) == (r"\frac{2}{4}", "0.5")
    assert 0 < verdict.seconds < 1


def test_graded_verdicts_give_the_share_that_is_right(pool: Pool) -> None:
    assert verify("1, 2", "1, 2, 3, 4", graded=True, pool=pool).score == 0.5
    assert verify("(1, 2, 9)", "(1, 2, 3)", graded=True, pool=pool).score == pytest.approx(2 / 3)
    assert verify("1/2", "0.5", graded=True, pool=pool).score == 1.0
    assert verify("7", "8", graded=True, pool=pool).score == 0.0
