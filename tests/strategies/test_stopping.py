"""Stop rules: their figures against theory, and what they do in a loop."""

from __future__ import annotations

import random
from fractions import Fraction
from math import comb
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartloop.errors import UnknownName, UsageError
from heartloop.strategies.stopping import (
    STOP_RULES,
    Agreement,
    Confidence,
    ExpectedGain,
    Seen,
    Stability,
    StopRule,
    leader_stays,
    stop_from_spec,
)
from heartloop.types import (
    Attempt,
    Completion,
    Problem,
    Request,
    Solution,
    StopReason,
    TraceConfidence,
    Verdict,
)
from tests.loop.helpers import NO_ANSWER, answers_by_round, boxed, loop, run, scripted

PROBLEM = Problem("p", "What is six times seven?", reference="42")


def line(*groups: int | None, branch: str = "0", **measures: float) -> list[Seen]:
    return [Seen(group, branch, round, measures) for round, group in enumerate(groups, 1)]


# --- the rules -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("leader", "rival"), [(0, 0), (1, 0), (3, 1), (5, 5), (9, 2)])
def test_the_posterior_is_the_mass_of_a_beta_above_one_half(leader: int, rival: int) -> None:
    # By the integral of x^a (1-x)^b, term by term, instead of by the binomial's sum.
    a, b = leader, rival

    def integral(low: Fraction) -> Fraction:
        terms = (comb(b, j) * Fraction((-1) ** j, a + j + 1) * (1 - low ** (a + j + 1)) for j in range(b + 1))
        return sum(terms, Fraction(0))

    assert leader_stays(leader, rival) == pytest.approx(
        float(integral(Fraction(1, 2)) / integral(Fraction(0)))
    )


def test_agreement_stops_when_the_mode_is_sure_whether_or_not_it_is_right() -> None:
    rule = Agreement(level=0.95)
    assert not rule.stops([line(1, 1, 1)])  # 15/16
    assert rule.stops([line(1, 1, 1, 1)])  # 31/32
    assert not rule.stops([line(1, 1, 1, 2, 1)])
    assert not rule.stops([line(None, None, None, None)])
    shared = [line(1, 1), [line(1)[0], Seen(1, "1", 2)]]
    assert not rule.stops(shared)  # the first attempt, common to both lines, is one vote


def test_agreement_keeps_its_level_for_independent_answers() -> None:
    """Of the times it stops, the mode of the population is missed about as rarely as it says."""
    rng, rule = random.Random(7), Agreement(level=0.9)
    stopped = missed = 0
    for _ in range(600):
        share = rng.random()  # uniform, as the prior has it
        seen: list[int | None] = []
        while len(seen) < 30:
            seen.append(0 if rng.random() < share else 1)
            if rule.stops([line(*seen)]):
                stopped += 1
                leading = 0 if seen.count(0) > seen.count(1) else 1
                missed += leading != (0 if share > 0.5 else 1)
                break
    assert stopped > 400
    assert missed / stopped < 0.15


def test_stability_looks_at_every_line() -> None:
    rule = Stability(rounds=2)
    assert rule.stops([line(1, 2, 2)])
    assert not rule.stops([line(1, 2, 2), line(1, 2, 3, branch="1")])
    assert not rule.stops([line(None, None)])
    assert not rule.stops([line(2)])


def test_confidence_is_that_of_the_leading_answer() -> None:
    rule = Confidence(level=0.8)
    sure, unsure = {"score": 0.9}, {"score": 0.1}
    assert rule.stops([[Seen(1, "0", 1, sure), Seen(1, "0", 2, sure), Seen(2, "0", 3, unsure)]])
    assert not rule.stops([[Seen(1, "0", 1, unsure), Seen(1, "0", 2, unsure), Seen(2, "0", 3, sure)]])
    assert not rule.stops([line(None, score=1.0)])
    assert not Confidence(level=0.8, least=2).stops([line(1, score=1.0)])


def test_the_expected_gain_falls_with_the_lead_and_is_never_negative() -> None:
    rule = ExpectedGain(cost=0.01)
    gains = [rule.gain(leader, 0) for leader in range(1, 9)]
    assert gains == sorted(gains, reverse=True)
    assert min(gains) >= 0
    assert rule.gain(3, 3) > rule.gain(5, 1)
    assert ExpectedGain(horizon=1).gain(2, 0) == pytest.approx(0, abs=1e-12)  # one vote can't overturn two
    assert rule.gain(2, 0) > 0
    assert not rule.stops([line(1, 2)])
    assert rule.stops([line(1, 1, 1, 1, 1)])


def test_the_gain_of_one_more_attempt_by_hand() -> None:
    # Beta(2, 2): the next answer makes it 3 to 2 either way, so 3/5 instead of 1/2.
    assert ExpectedGain(horizon=1).gain(1, 1) == pytest.approx(0.1)


groups = st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=1, max_size=12)


@given(groups, st.sampled_from(sorted(STOP_RULES)), st.permutations(range(4)))
def test_a_rule_is_a_pure_function_that_does_not_care_for_names(
    seen: list[int | None], name: str, renamed: list[int]
) -> None:
    rule = stop_from_spec(name)
    stops = rule.stops([line(*seen, score=0.5)])
    other = [None if group is None else renamed[group] for group in seen]
    if name != "confidence":  # a tie of leaders goes to whoever came first
        assert rule.stops([line(*other, score=0.5)]) == stops
    assert rule.stops([line(*seen, score=0.5)]) == stops


# --- by name ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        Stability(2),
        Agreement(0.9, 3),
        Confidence(0.7, "tail", 2),
        ExpectedGain(0.005, 4, 3),
        *(stop_from_spec(name) for name in STOP_RULES),
    ],
)
def test_a_rules_name_is_its_spec(rule: StopRule) -> None:
    assert stop_from_spec(rule.name) == rule


@pytest.mark.parametrize(
    ("spec", "kind", "said"),
    [
        ("agrement", UnknownName, "agreement"),
        ("agreement:", UsageError, "option is missing"),
        ("agreement:lvl=1", UnknownName, "level"),
        ("agreement:level=high", UsageError, "number"),
        ("agreement:level", UsageError, "option is missing"),
        ("agreement:level=1.5", UsageError, "between 0.5 and 1"),
        ("stability:rounds=1", UsageError, "at least 2"),
        ("gain:cost=0", UsageError, "between 0 and 1"),
        ("agreement(gain)", UsageError, "nothing in parentheses"),
        ("agreement:level=0.9 gain", UsageError, "number"),
        ("confidence:level=nan", UsageError, "number"),
    ],
)
def test_a_bad_spec_says_what_is_wrong(spec: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        stop_from_spec(spec)


# --- in a loop -------------------------------------------------------------------------------------


class Scoring:
    """A verifier-free judge that gives every answer the same score."""

    name, needs_reference = "scoring", False

    def __init__(self, score: float | None) -> None:
        self.score = score

    async def assess(self, problem: Problem, attempt: Attempt, session: Any) -> Verdict:
        return Verdict(None, self.name, score=self.score)

    async def select(self, problem: Problem, attempts: Any, session: Any) -> Attempt:
        return attempts[-1]


async def solve(script: Any, **settings: Any) -> Solution:
    async with loop(scripted(script), **settings) as held:
        return await held.solve(PROBLEM)


@pytest.mark.parametrize("strategy", ["heart", "resample", "self_reflection"])
@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ("agreement:level=0.85", StopReason.AGREED),
        ("stability:rounds=2", StopReason.STABLE),
        ("gain:cost=0.05", StopReason.NO_GAIN),
    ],
)
def test_a_loop_whose_answers_agree_ends_early(strategy: str, stop: str, reason: StopReason) -> None:
    solution = run(solve(answers_by_round(41), strategy=strategy, max_rounds=6, stop=stop))
    assert (solution.stop_reason, solution.answer) == (reason, "41")  # wrong, and agreed upon
    assert 2 <= len(solution.attempts) < 6


@pytest.mark.parametrize("strategy", ["heart", "resample", "self_reflection"])
def test_a_loop_without_answers_runs_all_rounds(strategy: str) -> None:
    solution = run(solve(lambda _: NO_ANSWER, strategy=strategy, max_rounds=4, stop="agreement"))
    assert (solution.stop_reason, len(solution.attempts)) == (StopReason.ROUNDS, 4)


def test_a_sure_judge_ends_the_loop() -> None:
    stop = "confidence:level=0.8"
    sure = run(solve(answers_by_round(1, 2), judge=Scoring(0.9), max_rounds=4, stop=stop))
    assert (sure.stop_reason, len(sure.attempts)) == (StopReason.CONFIDENT, 1)
    unsure = run(solve(answers_by_round(1, 2), judge=Scoring(0.2), max_rounds=4, stop=stop))
    assert (unsure.stop_reason, len(unsure.attempts)) == (StopReason.ROUNDS, 4)


def test_log_probabilities_end_the_loop_when_they_are_sure() -> None:
    def script(request: Request) -> Completion:
        sure = 3.0 if len(request.messages) > 1 else 1.0
        traced = TraceConfidence(
            9, 5, -0.1, mean=sure, lowest=sure, bottom=sure, tail=sure, entropy=0.1, window=9
        )
        return Completion(boxed(7), confidence=traced)

    solution = run(solve(script, max_rounds=5, stop="confidence:of=tail,level=2,least=2"))
    # One sure and one unsure attempt are at 2 on average.
    assert (solution.stop_reason, len(solution.attempts)) == (StopReason.CONFIDENT, 2)


@pytest.mark.parametrize(
    ("judge", "stop", "said"),
    [
        ("oracle", "confidence", "would be the answer"),
        ("majority", "confidence", "gave none"),
        ("majority", "confidence:of=tail,level=2", "log-probabilities"),
    ],
)
def test_a_confidence_rule_without_confidence_says_so(judge: str, stop: str, said: str) -> None:
    solution = run(solve(answers_by_round(1), judge=judge, stop=stop))
    assert solution.stop_reason is StopReason.FAILED
    assert said in str(solution.error)


def test_the_decision_is_in_the_journal_and_is_not_made_again(tmp_path: Path) -> None:
    settings = {"stop": "agreement:level=0.85", "journal": tmp_path / "j.db", "max_rounds": 6}
    first = run(solve(answers_by_round(1), **settings))

    async def never(a: str, b: str, kind: str) -> bool:
        raise AssertionError("the answers are compared again")

    again = run(solve([], equivalent=never, **settings))
    assert again == first
    # Another rule's decisions were not recorded: that run can't be gone on with.
    other = run(solve([], **{**settings, "stop": "agreement:level=0.99"}))
    assert "ReplayMismatch" in str(other.error)


def test_more_rounds_do_not_undo_a_stop(tmp_path: Path) -> None:
    settings = {"stop": "agreement:level=0.85", "journal": tmp_path / "j.db"}
    short = run(solve(lambda _: boxed(1), max_rounds=2, **settings))
    longer = run(solve(lambda _: boxed(1), max_rounds=6, **settings))
    assert (len(short.attempts), len(longer.attempts)) == (2, 2)


def test_answers_are_grouped_by_equivalence() -> None:
    async def same_number(a: str, b: str, kind: str) -> bool:
        return float(a) == float(b)

    script = answers_by_round("1", "1.0", "1.00", "1.000")
    stop = "stability:rounds=3"
    solution = run(solve(script, max_rounds=4, stop=stop, equivalent=same_number))
    assert (solution.stop_reason, len(solution.attempts)) == (StopReason.STABLE, 3)
