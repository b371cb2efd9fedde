"""Policies over waiting calls, without a network."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartloop.engine.scheduler import SCHEDULERS, Waiting, scheduler_from_name
from heartloop.errors import UnknownName

SETTINGS = settings(max_examples=100, deadline=None, derandomize=True)
NAMES = sorted(SCHEDULERS)
ROUNDS = 6


def waiting(round: int, arrival: int) -> Waiting:
    return Waiting("p", round, "generator", arrival)


@pytest.mark.parametrize("name", NAMES)
@SETTINGS
@given(st.integers(1, ROUNDS), st.integers(0, 10**6), st.integers(1, ROUNDS))
def test_whoever_has_waited_long_enough_is_ahead_of_every_newcomer(
    name: str, round: int, arrival: int, other: int
) -> None:
    policy = scheduler_from_name(name)
    long_enough = 1_000 * ROUNDS
    newcomer = waiting(other, arrival + long_enough)
    assert policy.priority(waiting(round, arrival)) < policy.priority(newcomer)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("favoured", [1, ROUNDS])
def test_nothing_starves_under_a_flood_of_favoured_calls(name: str, favoured: int) -> None:
    """One arrival and one departure a step, for ever: the call that was there first still leaves."""
    policy = scheduler_from_name(name)
    first = waiting(ROUNDS + 1 - favoured, 0)
    queue = [(policy.priority(first), 0)]
    for arrival in range(1, 20_000):
        heapq.heappush(queue, (policy.priority(waiting(favoured, arrival)), arrival))
        if heapq.heappop(queue)[1] == 0:
            return
    pytest.fail("it never left")


@pytest.mark.parametrize("name", NAMES)
@SETTINGS
@given(st.integers(1, ROUNDS), st.integers(0, 100), st.integers(1, 100))
def test_calls_of_one_round_leave_in_order_of_arrival(
    name: str, round: int, arrival: int, later: int
) -> None:
    policy = scheduler_from_name(name)
    assert policy.priority(waiting(round, arrival)) < policy.priority(waiting(round, arrival + later))


def test_an_unknown_policy_lists_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="breadth_first, deadline, depth_first"):
        scheduler_from_name("best")
