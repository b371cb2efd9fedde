"""What every strategy must do, whatever it is, on scripted models.

A strategy that is known by name is here by itself; only its cap has to be written down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from heartloop import Budget, HeartLoop, Model, RetryPolicy
from heartloop.emotions import ROTATIONS, Deck
from heartloop.emotions.deck import asserted_wrongness
from heartloop.engine.engine import Engine
from heartloop.engine.solving import Arm
from heartloop.errors import BadRequest
from heartloop.judges import judge_from_name
from heartloop.judges.oracle import Oracle
from heartloop.responders.chat import ChatResponder
from heartloop.strategies import known_strategies, options_of, strategy_from_name
from heartloop.strategies.prompts import Prompts
from heartloop.types import Problem, Request, Solution, StopReason, text_of
from tests.loop.helpers import (
    NO_ANSWER,
    answers_by_round,
    asked,
    boxed,
    by_text,
    random_answers,
    run,
    same_text,
)
from tests.support.memory_journal import MemoryJournal

PROBLEM = Problem("p", "What is six times seven?", reference="42")
ROUNDS, WIDTH = 3, 2
UNLIMITED = Budget()

Cap = Callable[[int, int], int]
LINES: Cap = lambda rounds, width: 1 + (rounds - 1) * width  # noqa: E731
ALL: Cap = lambda rounds, width: rounds * width  # noqa: E731
ONE_LINE: Cap = lambda rounds, width: rounds  # noqa: E731
SINGLE: Cap = lambda rounds, width: 1  # noqa: E731

CAPS: dict[str, Cap] = {
    "single_pass": SINGLE,
    "chain_of_thought": SINGLE,
    "resample": ALL,
    "self_consistency": ALL,
    "best_of_n": ALL,
    "emotion_prompt": ALL,
    "negative_prompt": ALL,
    "stress_prompt": ALL,
    "persona": ALL,
    "rsa": ALL,
    "pdr": LINES,
    "heart": LINES,
    "parallel_heart": LINES,
    "bare_retry": LINES,
    "self_reflection": LINES,
    "self_refine": ONE_LINE,
    "reflexion": ONE_LINE,
}
"""How many attempts each makes at most, given max_rounds and width; docs/strategies.md says the same."""

ELSEWHERE = {"deepconf": "needs log-probabilities and a backend that cuts: tests/confidence/test_judges.py"}
EVERY = pytest.mark.parametrize("name", sorted(CAPS))
EVERY_JUDGE = pytest.mark.parametrize("judge", ["oracle", "majority"])


async def solve(
    name: str,
    script: Any,
    *,
    judge: str = "majority",
    journal: MemoryJournal | None = None,
    budget: Budget = UNLIMITED,
    **settings: Any,
) -> tuple[Solution, list[Request]]:
    from heartloop.backends.scripted import ScriptedBackend

    settings = {"max_rounds": ROUNDS, "width": WIDTH, **settings}
    backend = ScriptedBackend(script)
    engine = Engine(
        {"generator": Model(backend=backend)},
        journal=journal,
        budget=budget,
        retry=RetryPolicy(attempts=1),
        equivalent=same_text,
    )
    arm = Arm(
        name="main",
        strategy=strategy_from_name(name, **settings),
        judge=Oracle(by_text) if judge == "oracle" else judge_from_name(judge),
        responder=ChatResponder(),
        prompts=Prompts.default(),
        scorer=by_text,
    )
    try:
        return await engine.solve(PROBLEM, arm), backend.requests
    finally:
        await engine.aclose()


def said(request: Request) -> str:
    """All that we said in a request; what the model said before is the model's."""
    return "\n".join(text_of(message.content) for message in request.messages if message.role != "assistant")


def test_every_strategy_is_here() -> None:
    assert {*CAPS, *ELSEWHERE} == set(known_strategies()), "write down the cap of attempts of a new strategy"


@EVERY
@EVERY_JUDGE
@pytest.mark.parametrize(("rounds", "width"), [(1, 2), (2, 3), (4, 2)])
def test_it_reaches_its_cap_and_never_exceeds_it(name: str, judge: str, rounds: int, width: int) -> None:
    script = answers_by_round(*range(100, 120))
    solution, requests = run(solve(name, script, judge=judge, max_rounds=rounds, width=width))
    assert solution.stop_reason is StopReason.ROUNDS
    assert len(solution.attempts) == CAPS[name](rounds, width)
    assert solution.calls == len(requests)
    assert solution.chosen is not None
    assert max(attempt.round for attempt in solution.attempts) <= rounds


@EVERY
@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_answers_are_the_cap_holds(name: str, seed: int) -> None:
    for judge in ("oracle", "majority"):
        solution, _ = run(solve(name, random_answers(seed, failures=0.2), judge=judge))
        assert len(solution.attempts) <= CAPS[name](ROUNDS, WIDTH)


@EVERY
@EVERY_JUDGE
def test_under_every_budget_it_ends_with_its_best_so_far(name: str, judge: str) -> None:
    script = answers_by_round(*range(100, 120))
    whole, requests = run(solve(name, script, judge=judge))
    for calls in range(1, len(requests) + 1):
        solution, sent = run(solve(name, script, judge=judge, budget=Budget(calls=calls)))
        assert len(sent) <= calls
        assert solution.attempts
        assert solution.answer in {attempt.answer for attempt in solution.attempts}
        if calls < len(requests):
            assert solution.stop_reason is StopReason.BUDGET
        else:
            assert solution == whole


@EVERY
def test_a_budget_in_tokens_holds_at_every_size(name: str) -> None:
    """Each call reserves its worst case, so the last tokens may stay unspent; none is overspent."""
    for tokens in range(2_500, 16_000, 1_900):
        solution, _ = run(solve(name, random_answers(2), budget=Budget(tokens=tokens)))
        assert solution.usage.total_tokens <= tokens
        assert solution.stop_reason in (StopReason.BUDGET, StopReason.ROUNDS, StopReason.VERIFIED)
        assert solution.attempts


@EVERY
@EVERY_JUDGE
def test_it_replays_to_the_same_without_a_call(name: str, judge: str) -> None:
    journal = MemoryJournal()
    script = random_answers(5, failures=0.1)
    first, _ = run(solve(name, script, judge=judge, journal=journal))
    replayed = journal.cut(len(journal.kept))
    again, requests = run(solve(name, script, judge=judge, journal=replayed))
    if first.stop_reason is not StopReason.FAILED:  # a failure at the end is tried again
        assert not requests
    assert again == first
    assert len(replayed.kept) == len(journal.kept) or first.stop_reason is StopReason.FAILED


@EVERY
@EVERY_JUDGE
@pytest.mark.parametrize("stop", [None, "agreement:level=0.8"])
def test_cut_off_after_any_event_it_ends_the_same(name: str, judge: str, stop: str | None) -> None:
    if stop is not None and "stop" not in (options_of(name) or ()):
        pytest.skip(f"{name} makes all its attempts at once, or one: it has no rule to stop by")
    journal = MemoryJournal()
    script = random_answers(3)
    whole, requests = run(solve(name, script, judge=judge, journal=journal, stop=stop))
    for after in range(len(journal.kept)):
        resumed = journal.cut(after)
        again, sent = run(solve(name, script, judge=judge, journal=resumed, stop=stop))
        assert again == whole
        confirmed = sum(event.key.kind == "completion" for event in journal.kept[:after])
        assert len(sent) == len(requests) - confirmed
        assert {event.key for event in resumed.kept} == {event.key for event in journal.kept}


@EVERY
def test_an_oracles_yes_ends_it(name: str) -> None:
    if name == "self_consistency":
        pytest.skip("self-consistency votes; it asks no judge")
    solution, _ = run(solve(name, lambda _: boxed(42), judge="oracle"))
    assert (solution.stop_reason, solution.answer) == (StopReason.VERIFIED, "42")


@EVERY
@pytest.mark.parametrize("judge", ["majority", "synthesis"])
def test_without_an_oracle_nothing_ever_claims_that_an_answer_was_wrong(name: str, judge: str) -> None:
    """The text of every request: attempts, critiques, reflections, notes, syntheses."""
    for script in (answers_by_round(1, 2, 3), lambda _: NO_ANSWER):
        _, requests = run(solve(name, script, judge=judge, max_rounds=4))
        assert requests
        assert {asserted_wrongness(said(request)) for request in requests} == {None}


@EVERY
def test_scored_afterwards_it_does_what_it_does_without_an_oracle(name: str) -> None:
    """Also a judge that could tell tells nothing: neither verdicts nor words."""
    from tests.loop.helpers import loop, scripted

    async def once(**settings: Any) -> list[Request]:
        backend = scripted(answers_by_round(1, 42, 3))
        held: HeartLoop = loop(backend, strategy=name, max_rounds=ROUNDS, width=WIDTH, **settings)
        async with held:
            await held.solve(PROBLEM)
        return backend.requests

    assert run(once(judge="oracle", score_after=True)) == run(once(judge="majority"))


@EVERY
@EVERY_JUDGE
def test_it_survives_attempts_without_answers(name: str, judge: str) -> None:
    solution, _ = run(solve(name, lambda _: NO_ANSWER, judge=judge))
    assert solution.stop_reason is StopReason.ROUNDS
    assert solution.answer is None
    assert len(solution.attempts) == CAPS[name](ROUNDS, WIDTH)


@EVERY
@EVERY_JUDGE
@pytest.mark.parametrize("bad", range(5))
def test_a_failing_call_costs_no_more_than_what_hangs_on_it(name: str, judge: str, bad: int) -> None:
    count = iter(range(1000))

    def script(request: Request) -> Any:
        return BadRequest("no") if next(count) == bad else boxed(bad)

    solution, _ = run(solve(name, script, judge=judge))
    assert solution.stop_reason in (StopReason.ROUNDS, StopReason.FAILED)
    if bad > 0:
        assert solution.answer == str(bad)
    elif solution.stop_reason is StopReason.FAILED:
        assert "no" in str(solution.error)


@EVERY
def test_the_model_sees_the_question_in_every_call(name: str) -> None:
    _, requests = run(solve(name, answers_by_round(1, 2, 3)))
    assert all(str(PROBLEM.question) in said(request) for request in requests)
    assert all(asked(request).strip() for request in requests)


# --- every rotation, in a loop ---------------------------------------------------------------------

EVERY_ROTATION = pytest.mark.parametrize(
    "rotation",
    [
        *(name for name in ROTATIONS if name not in ("pair", "fixed", "memory")),
        *(
            "pair:anger,happiness",
            "fixed:fear",
            "adaptive:ucb",
            "neutral:adaptive",
            "irrelevant:personality:bold",
        ),
        "memory",
    ],
)


@EVERY_ROTATION
@pytest.mark.parametrize("name", ["heart", "parallel_heart"])
@EVERY_JUDGE
def test_with_every_rotation_a_cut_and_a_replay_change_nothing(rotation: str, name: str, judge: str) -> None:
    if (rotation, judge) == ("memory", "majority"):
        pytest.skip("refused: tests/emotions/test_memory.py")
    journal, script = MemoryJournal(), random_answers(4)
    settings: dict[str, Any] = {"judge": judge, "rotation": rotation, "max_rounds": 4}
    whole, requests = run(solve(name, script, journal=journal, **settings))
    for after in range(0, len(journal.kept) + 1, 3):
        again, sent = run(solve(name, script, journal=journal.cut(after), **settings))
        assert again == whole
        assert len(sent) <= len(requests)
    if judge == "majority":
        assert {asserted_wrongness(said(request)) for request in requests} == {None}


def test_the_default_deck_is_what_heart_speaks_with() -> None:
    solution, _ = run(solve("heart", answers_by_round(1, 2, 3)))
    texts = {entry.cue.text for entry in Deck.default().entries}
    assert all(a.cue is not None and a.cue.text in texts for a in solution.attempts if a.round > 1)
