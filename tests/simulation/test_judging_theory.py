"""Judges on candidates with known truth: what each does is what theory says."""

from __future__ import annotations

import asyncio
import itertools
import math
from dataclasses import replace
from functools import cache

import pytest

from heartloop.simulation.critics import Critic
from heartloop.simulation.crowds import CROWDS, RIGHT, TEMPTING, Crowd, Drawn, majority_accuracy
from heartloop.simulation.judged import judged
from heartloop.types import Solution

EVEN = CROWDS["correlated errors"]


@cache
def crowd(which: Crowd, problems: int, width: int, seed: int = 0) -> tuple[Drawn, ...]:
    return tuple(which.draw(problems, width, seed))


def solutions(
    which: Crowd, judge: str, *, problems: int = 600, width: int = 5, critic: Critic | None = None
) -> list[Solution]:
    return asyncio.run(judged(crowd(which, problems, width), judge, critic))


def right(found: list[Solution]) -> list[bool]:
    return [solution.answer == RIGHT for solution in found]


def share(flags: list[bool]) -> float:
    return sum(flags) / len(flags)


def within_sampling_error(measured: float, expected: float, count: int) -> bool:
    return abs(measured - expected) < 3.5 * math.sqrt(max(expected * (1 - expected), 0.01) / count)


def better(one: list[bool], other: list[bool]) -> float:
    """Paired difference in standard errors."""
    differences = [a - b for a, b in zip(one, other, strict=True)]
    mean = sum(differences) / len(differences)
    spread = math.sqrt(sum((d - mean) ** 2 for d in differences) / len(differences) ** 2)
    return mean / spread if spread else 0.0


# --- the majority ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chance", "temptation", "others"), [(0.4, 0.5, 2), (0.3, 0.9, 3), (0.6, 0.0, 1)])
def test_the_formula_for_a_majority_is_an_enumeration(chance: float, temptation: float, others: int) -> None:
    rest = (1 - chance) * (1 - temptation) / others
    law = {RIGHT: chance, TEMPTING: (1 - chance) * temptation} | {f"w{k}": rest for k in range(others)}
    for attempts in (1, 2, 4):
        total = 0.0
        for drawn in itertools.product(law, repeat=attempts):
            votes = {answer: drawn.count(answer) for answer in drawn}  # in order of their first
            if max(votes, key=lambda answer: votes[answer]) == RIGHT:
                total += math.prod(law[answer] for answer in drawn)
        assert majority_accuracy(chance, temptation, others, attempts) == pytest.approx(total, abs=1e-12)


def test_with_one_wrong_answer_a_majority_is_binomial() -> None:
    for p in (0.3, 0.5, 0.8):
        binomial = sum(math.comb(7, k) * p**k * (1 - p) ** (7 - k) for k in range(4, 8))
        assert majority_accuracy(p, 1.0, 6, 7) == pytest.approx(binomial)


@pytest.mark.parametrize("name", ["independent errors", "correlated errors", "strongly correlated errors"])
def test_a_majoritys_accuracy_is_the_multinomial_value(name: str) -> None:
    population = CROWDS[name]
    drawn = crowd(population, 600, 5)
    each = [majority_accuracy(d.chance, d.temptation, population.others, 5) for d in drawn]
    expected = sum(each) / len(each)
    assert within_sampling_error(share(right(solutions(population, "majority"))), expected, len(drawn))


def test_a_majority_fails_where_the_mode_is_wrong_and_more_votes_make_it_worse() -> None:
    population = Crowd("wrong mode", right=300, wrong=700, resisted=0)  # 0.3 right, all errors alike
    accuracies = [share(right(solutions(population, "majority", width=width))) for width in (1, 5, 15)]
    assert accuracies[0] > accuracies[1] > accuracies[2]
    assert accuracies[2] < 0.1
    assert any(RIGHT in {a.answer for a in d.attempts} for d in crowd(population, 600, 15))


# --- weights -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("judge", ["weighted", "weighted:by=bottom,power=4", "deepconf:keep=0.5"])
def test_weights_help_exactly_where_they_inform(judge: str) -> None:
    plain = right(solutions(CROWDS["informative confidence"], "majority"))
    assert better(right(solutions(CROWDS["informative confidence"], judge)), plain) > 3
    blind = CROWDS["uninformative confidence"]
    assert better(right(solutions(blind, judge)), right(solutions(blind, "majority"))) < 0
    # Confidence in the wrong things is worse than none.
    believing = replace(EVEN, name="believing", informs=0.0, biased=2.0)
    assert better(right(solutions(believing, judge)), right(solutions(believing, "majority"))) < -3


def test_power_zero_is_the_majority() -> None:
    chosen = [s.answer for s in solutions(EVEN, "weighted:power=0")]
    assert chosen == [s.answer for s in solutions(EVEN, "majority")]


# --- models that judge -------------------------------------------------------------------------------


def mixed_only(width: int = 2, problems: int = 250) -> Crowd:
    return Crowd("two answers", resisted=0)


def test_position_bias_decides_in_one_order_and_cancels_in_both() -> None:
    population = mixed_only()
    fair, biased = Critic(skill=1.5), Critic(skill=1.5, first=4.0)
    settings = {"problems": 300, "width": 2}
    one = "pairwise:both_orders=false,budget=1"
    both = "pairwise:budget=2"
    fair_one = right(solutions(population, one, critic=fair, **settings))  # type: ignore[arg-type]
    biased_one = right(solutions(population, one, critic=biased, **settings))  # type: ignore[arg-type]
    biased_both = right(solutions(population, both, critic=biased, **settings))  # type: ignore[arg-type]
    assert better(fair_one, biased_one) > 3
    assert better(biased_both, biased_one) > 3
    assert abs(better(biased_both, fair_one)) < 3


def test_both_orders_cost_twice() -> None:
    population = mixed_only()
    calls = {
        judge: sum(s.calls for s in solutions(population, judge, problems=60, width=2, critic=Critic()))
        for judge in ("pairwise:both_orders=false,budget=1", "pairwise:budget=2")
    }
    one, both = calls.values()
    assert both == 2 * one > 0


def test_a_judge_that_shares_the_models_mistakes_is_no_better_than_them() -> None:
    population = CROWDS["strongly correlated errors"]
    settings = {"problems": 200, "width": 6}
    apart = right(solutions(population, "pointwise", critic=Critic(skill=2.0), **settings))  # type: ignore[arg-type]
    alike = Critic(skill=2.0, tempted=2.0)
    same = right(solutions(population, "pointwise", critic=alike, **settings))  # type: ignore[arg-type]
    assert better(apart, same) > 3


# --- chains ------------------------------------------------------------------------------------------


def test_a_chain_of_rounds_has_the_accuracy_of_its_law() -> None:
    population = Crowd("chain", right=500, wrong=500, rounds=5, lost=0.2, found=0.5)
    drawn = crowd(population, 1500, 1)
    accuracy = 0.5
    for round in range(1, 6):
        made = [d.attempts[round - 1].answer == RIGHT for d in drawn]
        assert within_sampling_error(share(made), accuracy, len(drawn))
        accuracy = accuracy * (1 - 0.2) + (1 - accuracy) * 0.5 * 0.5


def test_keeping_the_first_answer_protects_against_drift_and_costs_where_chains_mend() -> None:
    drifting, mending = CROWDS["chains that drift"], CROWDS["chains that mend"]
    keep = "keep_first(majority):margin=0.9"
    settings = {"width": 1}
    assert (
        better(
            right(solutions(drifting, keep, **settings)), right(solutions(drifting, "majority", **settings))
        )
        > 3
    )
    assert (
        better(right(solutions(mending, keep, **settings)), right(solutions(mending, "majority", **settings)))
        < -3
    )
