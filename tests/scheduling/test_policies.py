"""Adaptive and deadline, without a network: pure, fair, and blind to names."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartloop.engine.adaptive import DOUBLING, HIGHEST, LOWEST, Adaptive, best_ratio, vote_gain
from heartloop.engine.hazards import BetaGeometric, fit
from heartloop.engine.scheduler import (
    Answered,
    Deadline,
    Ended,
    Judged,
    Learning,
    Made,
    Observation,
    Waiting,
    active_problems,
    scheduler_from_name,
)
from heartloop.simulation import POPULATIONS, Sample, simulate

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
SPAN = DOUBLING * (HIGHEST - LOWEST)

attempts = st.lists(
    st.tuples(
        st.integers(0, 7),  # problem
        st.integers(1, 5),  # round
        st.integers(1, 5_000),  # tokens
        st.sampled_from(["a", "b", "c", None]),
        st.sampled_from([True, False, None]),
    ),
    max_size=60,
)


def told(given_attempts: list[tuple[int, int, int, str | None, bool | None]]) -> list[Observation]:
    observations: list[Observation] = []
    for problem, round, tokens, answer, correct in given_attempts:
        observations.append(Made("main", str(problem), "0", round, tokens, answer))
        observations.append(Judged("main", str(problem), "0", round, answer, correct))
    return observations


def after(observations: list[Observation]) -> Adaptive:
    policy = Adaptive()
    for observation in observations:
        policy.observe(observation)
    return policy


def call(problem: str, round: int = 1, arrival: int = 0, **more: float) -> Waiting:
    return replace(Waiting(problem, round, "generator", arrival, arm="main"), **more)


def failed(problem: str, rounds: int, tokens: int = 100, answer: str | None = None) -> list[Observation]:
    found: list[Observation] = []
    for round in range(1, rounds + 1):
        said = answer or f"w{round}"
        found.append(Made("main", problem, "0", round, tokens, said))
        found.append(Judged("main", problem, "0", round, said, False))
    return found


# --- laws that hold whatever was seen ------------------------------------------------------------------


@SETTINGS
@given(attempts, st.integers(0, 8), st.integers(1, 9), st.integers(0, 8), st.integers(1, 9))
def test_whoever_has_waited_long_enough_is_ahead_of_every_newcomer(
    seen: list[tuple[int, int, int, str | None, bool | None]], old: int, round: int, new: int, other: int
) -> None:
    policy = after(told(seen))
    newcomer = call(str(new), other, arrival=int(SPAN) + 1)
    assert policy.priority(call(str(old), round)) < policy.priority(newcomer)


@SETTINGS
@given(attempts)
def test_priorities_are_a_function_of_what_was_told(
    seen: list[tuple[int, int, int, str | None, bool | None]],
) -> None:
    one, other = after(told(seen)), after(told(seen))
    for problem in range(9):
        asked = call(str(problem), 2, 7)
        before = one.priority(asked)
        assert before == one.priority(asked) == other.priority(asked)
    assert one.revision == other.revision


@SETTINGS
@given(attempts, st.permutations(range(8)))
def test_names_of_problems_do_not_matter(
    seen: list[tuple[int, int, int, str | None, bool | None]], names: list[int]
) -> None:
    renamed = [(names[problem], *rest) for problem, *rest in seen]
    one, other = after(told(seen)), after(told(renamed))
    for problem in range(8):
        assert one.priority(call(str(problem), 2, 3)) == other.priority(call(str(names[problem]), 2, 3))


@SETTINGS
@given(attempts)
def test_a_replay_tells_nothing_new(seen: list[tuple[int, int, int, str | None, bool | None]]) -> None:
    unique = list({(problem, round): (problem, round, *rest) for problem, round, *rest in seen}.values())
    once, twice = after(told(unique)), after(told(unique) + told(unique))
    for problem in range(8):
        assert once.priority(call(str(problem), 2)) == twice.priority(call(str(problem), 2))


@pytest.mark.parametrize("name", ["mixed", "late", "cheap ones impossible"])
def test_the_same_world_gives_the_same_run_and_no_call_for_a_solved_problem(name: str) -> None:
    world = POPULATIONS[name].draw(80, 8, 3)
    one, other = (simulate(world, Adaptive(), concurrency=4) for _ in range(2))
    assert one == other
    made = [0] * len(world)
    for problem in one.order:
        earlier = world[problem][: made[problem]]
        assert not any(sample.correct for sample in earlier)
        made[problem] += 1
    # Without a budget every problem gets all it could use: none is dropped for good.
    for problem, course in enumerate(world):
        right = next((k + 1 for k, sample in enumerate(course) if sample.correct), len(course))
        assert made[problem] == right


def test_a_hopeless_problem_is_still_served_under_a_flood_of_better_ones() -> None:
    policy = after(failed("hopeless", 30) + [o for i in range(40) for o in solved(f"s{i}")])
    queue = [(policy.priority(call("hopeless", 31, 0)), 0)]
    for arrival in range(1, int(SPAN) + 2):
        heapq.heappush(queue, (policy.priority(call(f"fresh {arrival}", 1, arrival)), arrival))
        if heapq.heappop(queue)[1] == 0:
            return
    pytest.fail("it never left")


def solved(problem: str, tokens: int = 100) -> list[Observation]:
    return [
        Made("main", problem, "0", 1, tokens, "right"),
        Judged("main", problem, "0", 1, "right", True),
    ]


# --- what adaptive prefers ----------------------------------------------------------------------------


def test_more_failures_sink_a_problem_and_a_solved_one_is_last() -> None:
    seen = [o for i in range(30) for o in (solved(f"s{i}") if i % 2 else failed(f"f{i}", 3))]
    policy = after(seen + failed("once", 1) + failed("thrice", 3) + solved("done"))
    levels = [policy.level(call(name)) for name in ("fresh", "once", "thrice", "done")]
    assert all(better > worse for better, worse in pairwise(levels))
    assert levels[-1] == LOWEST


def test_of_two_alike_the_cheaper_goes_first() -> None:
    policy = after(
        [o for i in range(20) for o in solved(f"s{i}")]
        + failed("cheap", 1, tokens=85)
        + failed("dear", 1, tokens=110)
    )
    assert policy.level(call("cheap", 2)) > policy.level(call("dear", 2))


def test_it_learns_that_problems_which_repeat_a_mistake_stay_unsolved() -> None:
    seen: list[Observation] = []
    for i in range(40):
        stuck = i % 2 == 0
        seen += failed(f"p{i}", 3, answer="same" if stuck else None)
        right = not stuck
        seen += [
            Made("main", f"p{i}", "0", 4, 100, "right" if right else "same"),
            Judged("main", f"p{i}", "0", 4, "right" if right else "same", right),
        ]
    policy = after(seen + failed("stuck", 3, answer="same") + failed("moving", 3))
    assert policy.level(call("moving", 4)) > policy.level(call("stuck", 4)) + 1


def test_it_learns_that_success_comes_late_and_pays_for_the_way_there() -> None:
    seen: list[Observation] = []
    for i in range(60):
        seen += failed(f"p{i}", 3)
        seen += [
            Made("main", f"p{i}", "0", 4, 100, "right"),
            Judged("main", f"p{i}", "0", 4, "right", True),
            Ended("main", f"p{i}"),
        ]
    policy = after(seen + failed("third", 3) + failed("first", 1))
    assert policy.level(call("third", 4)) > policy.level(call("first", 2)) + 1


def test_sorted_data_mislead_nobody_into_leaving_problems_untried() -> None:
    policy = after([o for i in range(200) for o in failed(f"p{i}", 2, tokens=10)])
    assert policy.priority(call("fresh", 1, 500)) < policy.priority(call("p0", 3, 0))


def test_a_judge_goes_before_further_attempts() -> None:
    policy = after(failed("a", 2))
    judge = Waiting("a", 2, "judge", 5, arm="main")
    assert policy.priority(judge) < policy.priority(call("fresh", 1, 0))


def test_without_verdicts_split_votes_gain_and_unanimous_ones_hardly() -> None:
    def votes(problem: str, *answers: str) -> list[Observation]:
        return [Made("main", problem, "0", i, 100, a) for i, a in enumerate(answers, 1)]

    policy = after(
        votes("split", "a", "b", "a", "b") + votes("leaning", "a", "a", "b") + votes("sure", *"aaaa")
    )
    levels = [policy.level(call(name, 5)) for name in ("fresh", "split", "leaning", "sure")]
    assert all(better > worse for better, worse in pairwise(levels))


def test_vote_gain_is_the_first_votes_at_most_and_falls_with_the_lead() -> None:
    gains = [vote_gain(1 + lead, 1) for lead in range(8)]
    assert all(better > worse > 0 for better, worse in pairwise(gains))
    assert max(gains) < vote_gain(0, 0)
    # One more vote on 1 : 1 makes it 2 : 1, which is right with chance 11/16 under Beta(3, 2).
    assert vote_gain(1, 1) == pytest.approx(11 / 16 - 1 / 2)


def test_gittins_index_looks_past_a_poor_step() -> None:
    assert best_ratio([0.1, 0.1], [1.0, 1.0]) == pytest.approx(0.1)
    assert best_ratio([0.0, 0.8], [1.0, 1.0]) == pytest.approx(0.4)
    assert best_ratio([0.5, 0.0], [2.0, 1.0]) == pytest.approx(0.25)


def test_the_fit_finds_the_law_it_is_given() -> None:
    law = BetaGeometric(0.4, 3.0)
    tried, solved_at, left = [], [], 100_000.0
    for failures in range(8):
        tried.append(int(left))
        solved_at.append(int(left * law.hazard(failures)))
        left *= 1 - law.hazard(failures)
    found = fit(solved_at, tried)
    assert found.mean == pytest.approx(law.mean, abs=0.01)
    assert found.strength == pytest.approx(law.strength, rel=0.1)


def test_asking_again_becomes_ever_rarer() -> None:
    policy = Adaptive()
    revisions = []
    for i in range(4_000):
        for observation in failed(f"p{i}", 1):
            policy.observe(observation)
        revisions.append(policy.revision)
    assert revisions[-1] < 60
    assert revisions[-1] - revisions[1_999] <= 6


# --- deadline -----------------------------------------------------------------------------------------


@SETTINGS
@given(st.tuples(st.floats(0, 1e5), st.integers(0, 499)), st.tuples(st.floats(0, 1e5), st.integers(500, 999)))
def test_the_earlier_deadline_goes_first_whoever_came_first(
    one: tuple[float, int], another: tuple[float, int]
) -> None:
    policy = Deadline()
    (due, arrival), (other, later) = one, another
    if abs(due - other) > 1:
        first = policy.priority(call("a", 1, arrival, deadline=due))
        assert (first < policy.priority(call("b", 1, later, deadline=other))) == (due < other)


def test_a_call_that_cannot_end_in_time_goes_behind_all_that_can() -> None:
    policy = Deadline()
    for _ in range(40):
        policy.observe(Answered("generator", 10.0))
    assert policy.revision > 0
    late = policy.priority(call("late", at=95.0, deadline=100.0))
    fine = policy.priority(call("fine", at=95.0, deadline=106.0))
    never = policy.priority(call("never", at=95.0, deadline=math.inf))
    assert fine < never < late


def test_a_call_without_deadline_is_served_under_a_flood_of_deadlines() -> None:
    policy = Deadline()
    rest = policy.priority(call("patient", 1, 0))
    assert rest < policy.priority(call("hasty", 1, int(1_000 * Deadline.HORIZON), deadline=1.0))


def test_learning_policies_say_so() -> None:
    kinds = {name: isinstance(scheduler_from_name(name), Learning) for name in ("adaptive", "deadline")}
    assert kinds == {"adaptive": True, "deadline": True}
    assert not isinstance(scheduler_from_name("breadth_first"), Learning)
    assert scheduler_from_name("adaptive") is not scheduler_from_name("adaptive")
    assert active_problems("breadth_first", 8) == 16 < active_problems("adaptive", 8)


# --- the simulator -------------------------------------------------------------------------------------


def test_a_curve_counts_what_was_paid_and_what_was_right() -> None:
    right, wrong = Sample(10, True, "right"), Sample(20, False, "w")
    curve = simulate([[wrong, right], [right]], scheduler_from_name("breadth_first"))
    assert (curve.tokens, curve.right, curve.order) == ((20, 30, 40), (0, 1, 2), (0, 1, 0))
    assert [curve.right_at(budget) for budget in (0, 29, 30, 39, 40, 99)] == [0, 0, 1, 1, 2, 2]
    assert curve.tokens_for(2) == 40
    assert curve.tokens_for(3) is None


def test_without_an_oracle_the_most_votes_win_and_ties_go_to_the_first() -> None:
    course = [Sample(1, False, "x"), Sample(1, True, "r"), Sample(1, True, "r"), Sample(1, False, "x")]
    curve = simulate([course], scheduler_from_name("breadth_first"), oracle=False)
    assert curve.right == (0, 0, 1, 0)


def test_no_more_problems_are_begun_than_may_be_active() -> None:
    world = POPULATIONS["all hard"].draw(20, 4, 0)
    curve = simulate(world, scheduler_from_name("breadth_first"), active=3, stop=False)
    made: Counter[int] = Counter()
    for problem in curve.order:
        made[problem] += 1
        assert sum(0 < count < 4 for count in made.values()) <= 3
    assert set(made.values()) == {4}


def test_depth_first_finishes_what_it_began() -> None:
    world = POPULATIONS["all hard"].draw(10, 4, 1)
    curve = simulate(world, scheduler_from_name("depth_first"), stop=False)
    assert list(curve.order) == [problem for problem in range(10) for _ in range(4)]
