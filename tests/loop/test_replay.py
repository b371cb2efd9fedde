"""Durable by replay: an interrupted loop ends as an undisturbed one would, and pays for nothing twice."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heartloop import Budget, HeartLoop, Prompts
from heartloop.engine.fingerprint import fingerprint
from heartloop.errors import (
    AuthenticationFailed,
    BadRequest,
    ContextOverflow,
    HeartLoopError,
    ReplayMismatch,
    UsageError,
)
from heartloop.journal.reader import JournalReader
from heartloop.journal.sqlite import SqliteJournal
from heartloop.types import Problem, Request, Solution, StopReason
from tests.loop.helpers import asked, boxed, exported, loop, random_answers, run, scripted

ARMS: dict[str, dict[str, Any]] = {
    "single_pass": {"strategy": "single_pass"},
    "chain_of_thought": {"strategy": "chain_of_thought", "judge": "oracle"},
    "resample": {"strategy": "resample", "max_rounds": 3, "width": 2},
    "resample S1": {"strategy": "resample", "judge": "oracle", "max_rounds": 4},
    "self_reflection": {"strategy": "self_reflection", "max_rounds": 4, "stable_rounds": 2},
    "self_reflection S1": {"strategy": "self_reflection", "judge": "oracle"},
    "heart S1": {"strategy": "heart", "judge": "oracle", "max_rounds": 4, "width": 2},
    "heart S2": {"strategy": "heart", "judge": "synthesis", "max_rounds": 3, "width": 3},
    "heart stable": {"strategy": "heart", "stable_rounds": 2, "width": 2},
    "heart drawn": {"strategy": "heart", "judge": "synthesis", "rotation": "alternating:random"},
    "heart scored": {"strategy": "heart", "judge": "oracle", "max_rounds": 3, "score_after": True},
}
EVERY_ARM = pytest.mark.parametrize("arm", ARMS)

PROBLEMS = [Problem(f"p{n}", f"Question {n}?", reference=str(n % 3)) for n in range(4)]


def outcome(solutions: list[Solution]) -> list[Any]:
    """All that must be equal: answers, attempts, cues, usage and verdicts, but no times."""
    return [repr(s) for s in sorted(solutions, key=lambda s: s.problem_id)]


class Shaky:
    """Random latencies: the order in which calls end differs from run to run."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def __call__(self, request: Request) -> float:
        return self.rng.choice([0, 0, 0.0005, 0.002])


async def solved(held: HeartLoop) -> list[Solution]:
    try:
        return await held.solve_many(PROBLEMS)
    finally:
        await held.aclose()


@EVERY_ARM
@pytest.mark.parametrize("failures", [0.0, 0.08])
def test_same_recorded_answers_same_solution_same_bytes(arm: str, failures: float, tmp_path: Path) -> None:
    """The law of all strategies; order and concurrency leave no trace."""
    found = []
    for number, concurrency in enumerate((1, 16, 16)):
        backend = scripted(random_answers(7, failures=failures), latency=Shaky(number))
        path = tmp_path / f"{number}.db"
        solutions = run(solved(loop(backend, journal=path, concurrency=concurrency, **ARMS[arm])))
        assert len(solutions) == 4
        found.append((outcome(solutions), exported(path)))
    assert found[0] == found[1] == found[2]
    assert b'"kind":"completion"' in found[0][1]


async def interrupted(make: Callable[[], HeartLoop], backend: Any, after: int) -> bool:
    """Solve until ``after`` requests have come, then cancel. Whether it was still at work."""
    held = make()
    work = asyncio.create_task(held.solve_many(PROBLEMS))
    while len(backend.requests) < after and not work.done():  # noqa: ASYNC110
        await asyncio.sleep(0)
    for _ in range(random.Random(after).randint(0, 6)):
        await asyncio.sleep(0)
    cut = work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    await held.aclose()
    return cut


@EVERY_ARM
@pytest.mark.parametrize("seed", range(3))
def test_cancelled_again_and_again_it_ends_as_if_undisturbed(arm: str, seed: int, tmp_path: Path) -> None:
    rng = random.Random(f"{arm}{seed}")
    script = random_answers(seed)
    undisturbed = scripted(script)
    expected = run(solved(loop(undisturbed, journal=tmp_path / "undisturbed.db", seed=seed, **ARMS[arm])))

    path = tmp_path / "journal.db"
    requests: Counter[str] = Counter()
    cut_off = 0
    for _ in range(4):
        backend = scripted(script, latency=Shaky(seed))
        settings = {"journal": path, "seed": seed, "concurrency": rng.choice([1, 2, 8]), **ARMS[arm]}
        run(interrupted(lambda b=backend, s=settings: loop(b, **s), backend, rng.randint(1, 7)))  # type: ignore[misc]
        requests.update(fingerprint(r) for r in backend.requests)
        cut_off += backend.cancelled
    last = scripted(script)
    assert outcome(run(solved(loop(last, journal=path, seed=seed, **ARMS[arm])))) == outcome(expected)
    requests.update(fingerprint(r) for r in last.requests)

    assert exported(path) == exported(tmp_path / "undisturbed.db")
    # Repeated are at most the calls that were in flight when it was cut off: no confirmed one.
    needed = Counter(fingerprint(r) for r in undisturbed.requests)
    assert requests >= needed
    assert (requests - needed).total() <= cut_off
    with JournalReader(path) as reader:
        totals = reader.charges()
        assert totals.confirmed.calls == len(undisturbed.requests)
        assert totals.assumed.calls == cut_off
        assert totals.open.calls == 0


@pytest.mark.parametrize("seed", range(10))
def test_killed_between_commits_it_ends_as_if_undisturbed(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal stops committing at a random moment, as in a process that was killed there.

    The moment is counted in records, whose number is the same in every run: how many of them go into one
    commit depends on the machine, so a number of commits might never be reached.
    """
    arm = ARMS[sorted(ARMS)[seed % len(ARMS)]]
    rng = random.Random(seed)
    script = random_answers(seed)
    undisturbed = scripted(script)
    created = SqliteJournal.create
    committed = 0
    last: float = math.inf

    def counts(records: int) -> None:
        nonlocal committed
        committed += records
        if committed >= last:
            raise RuntimeError("killed after this commit")  # nobody hears that it was committed

    monkeypatch.setattr(
        SqliteJournal, "create", lambda path, meta: created(path, meta=meta, on_commit=counts)
    )
    expected = run(solved(loop(undisturbed, journal=tmp_path / "undisturbed.db", **arm)))

    path = tmp_path / "journal.db"
    last, committed = rng.randint(2, committed), 0
    first = scripted(script, latency=Shaky(seed))

    async def doomed() -> None:
        held = loop(first, journal=path, concurrency=3, **arm)
        with pytest.raises(HeartLoopError):
            await held.solve_many(PROBLEMS)
        with pytest.raises(HeartLoopError):
            await held.solve("more")
        try:
            await held.aclose()
        except HeartLoopError:
            pass

    run(doomed())
    second = scripted(script)
    assert outcome(run(solved(loop(second, journal=path, **arm)))) == outcome(expected)
    assert exported(path) == exported(tmp_path / "undisturbed.db")
    with JournalReader(path) as reader:
        totals = reader.charges()
    assert totals.confirmed.calls == len(undisturbed.requests)
    # Sent without a record of the answer: repeated, and charged as assumed.
    assert totals.assumed.calls <= 3
    assert len(first.requests) + len(second.requests) <= len(undisturbed.requests) + totals.assumed.calls


# --- what differs is noticed -----------------------------------------------------------------------


async def once(backend: Any, path: Path, question: Any = PROBLEMS[0], **settings: Any) -> Solution:
    async with loop(backend, journal=path, **settings) as held:
        return await held.solve(question)


def always(answer: object) -> Callable[[Request], str]:
    return lambda request: boxed(answer)


def test_a_changed_prompt_is_noticed_and_the_earlier_result_stands(tmp_path: Path) -> None:
    path, prompts = tmp_path / "j.db", tmp_path / "mine.toml"
    prompts.write_text("[question]\nchain_of_thought = 'Well: $question'\n")
    first = run(once(scripted(always(1)), path, max_rounds=2))
    before = exported(path)
    with pytest.raises(ReplayMismatch, match=r"'p0'.*[Pp]rompts"):
        run(once(scripted(always(1)), path, max_rounds=2, prompts=prompts))
    assert exported(path) == before
    again = scripted([])
    assert run(once(again, path, max_rounds=2)) == first
    assert not again.requests


@pytest.mark.parametrize(
    "changed",
    [
        {"question": Problem("p0", "Another question?", reference="0")},
        {"seed": 1},
        {"judge": "oracle"},
        {"rotation": "round_robin"},
    ],
)
def test_changed_data_and_settings_are_noticed(changed: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    run(once(scripted(always(1)), path, max_rounds=3))
    backend = scripted(always(1))
    try:
        solution = run(once(backend, path, **{"max_rounds": 3, **changed}))
    except ReplayMismatch:
        pass
    else:  # noticed when there was an attempt already
        assert solution.stop_reason is StopReason.FAILED
        assert "ReplayMismatch" in str(solution.error)
    assert not backend.requests


def test_in_a_stream_a_mismatch_is_that_problems_failure_alone(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    run(once(scripted(always(1)), path, max_rounds=2))
    changed = [Problem("p0", "Changed?", reference="0"), PROBLEMS[1]]

    async def scene() -> list[Solution]:
        async with loop(scripted(always(1)), journal=path, max_rounds=2) as held:
            return await held.solve_many(changed)

    failed, fine = run(scene())
    assert failed.stop_reason is StopReason.FAILED
    assert "ReplayMismatch" in str(failed.error)
    assert fine.stop_reason is StopReason.ROUNDS


def test_two_at_once_with_one_id_are_refused_where_a_journal_is_kept(tmp_path: Path) -> None:
    async def scene(**settings: Any) -> list[Any]:
        async with loop(scripted(always(1)), max_rounds=1, **settings) as held:
            return await asyncio.gather(held.solve("q"), held.solve("q"), return_exceptions=True)

    with_journal = run(scene(journal=tmp_path / "j.db"))
    assert [type(o) for o in with_journal] == [Solution, UsageError]
    assert [type(o) for o in run(scene())] == [Solution, Solution]


# --- failures --------------------------------------------------------------------------------------


def failing_in_round(number: int, error: Exception) -> Callable[[Request], Any]:
    def script(request: Request) -> Any:
        rounds = 1 + sum(m.role == "assistant" for m in request.messages)
        return error if rounds == number else boxed(rounds)

    return script


def test_a_failure_at_the_end_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    first = run(once(scripted(failing_in_round(2, BadRequest("no"))), path, max_rounds=3))
    assert first.stop_reason is StopReason.FAILED
    assert first.answer == "1"
    assert "BadRequest" in str(first.error)
    again = scripted(failing_in_round(9, BadRequest("no")))
    second = run(once(again, path, max_rounds=3))
    assert second.stop_reason is StopReason.ROUNDS
    assert [a.answer for a in second.attempts] == ["1", "2", "3"]
    assert len(again.requests) == 2


def test_a_failure_that_the_strategy_went_on_after_is_replayed(tmp_path: Path) -> None:
    """One branch of three fails; the others go on. Later, though the backend has recovered, it stays so."""
    path = tmp_path / "j.db"
    failed: list[str] = []

    def script(request: Request) -> Any:
        if len(request.messages) == 3 and not failed:
            failed.append(asked(request))
        if failed and asked(request) == failed[0]:
            return BadRequest("no")
        return boxed(len(request.messages))

    first = run(once(scripted(script), path, max_rounds=3, width=3))
    assert first.stop_reason is StopReason.ROUNDS
    assert [(a.branch, a.round) for a in first.attempts].count(("0", 1)) == 1
    assert len(first.attempts) == 5
    again = scripted([])
    assert run(once(again, path, max_rounds=3, width=3)) == first
    assert not again.requests


def test_a_bad_key_is_never_replayed(tmp_path: Path) -> None:
    """Even if a branch beside it was answered later: with the right key the problem goes on."""
    path = tmp_path / "j.db"
    seen: list[str] = []

    async def script(request: Request) -> Any:
        if len(request.messages) == 1:
            return boxed(0)
        seen.append(asked(request))
        if len(seen) == 1:
            return AuthenticationFailed("the key is bad")
        await asyncio.sleep(0.01)
        return boxed(1)

    first = run(once(scripted(script), path, max_rounds=2, width=2))
    assert first.stop_reason is StopReason.FAILED
    good = scripted(always(2))
    second = run(once(good, path, max_rounds=2, width=2))
    assert second.stop_reason is StopReason.ROUNDS
    assert len(good.requests) == 1


def test_an_overflow_that_was_worked_around_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "j.db"

    def script(request: Request) -> Any:
        return ContextOverflow("too long") if len(request.messages) > 3 else boxed(len(request.messages))

    first = run(once(scripted(script), path, max_rounds=4))
    assert first.stop_reason is StopReason.ROUNDS
    assert len(first.attempts) == 4
    assert run(once(scripted([]), path, max_rounds=4)) == first
    prompts = Prompts.from_dict({**Prompts.default().as_dict(), "system": "Be brief."})
    with pytest.raises(ReplayMismatch):
        run(once(scripted([]), path, max_rounds=4, prompts=prompts))


# --- extension -------------------------------------------------------------------------------------


@pytest.mark.parametrize("judge", ["majority", "synthesis"])
@pytest.mark.parametrize("width", [1, 3])
def test_more_rounds_replay_the_old_ones_and_pay_for_the_new(judge: str, width: int, tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    script = random_answers(3)
    settings = {"judge": judge, "width": width}
    short = run(once(scripted(script), path, max_rounds=2, **settings))
    backend = scripted(script)
    longer = run(once(backend, path, max_rounds=4, **settings))
    assert longer.attempts[: len(short.attempts)] == short.attempts
    assert len(longer.attempts) == 1 + 3 * width
    assert len(backend.requests) == 2 * width + (judge == "synthesis")
    fresh = run(once(scripted(script), tmp_path / "fresh.db", max_rounds=4, **settings))
    assert (longer.answer, longer.attempts) == (fresh.answer, fresh.attempts)
    with JournalReader(path) as reader:
        result = reader.result("main", "p0")
        assert result is not None
        assert len(result.data["attempts"]) == len(longer.attempts)


def test_a_wider_second_round_replays_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    run(once(scripted(random_answers(3)), path, max_rounds=2, width=1))
    backend = scripted(random_answers(3))
    wide = run(once(backend, path, max_rounds=2, width=3))
    assert len(wide.attempts) == 4
    assert len(backend.requests) == 2


@pytest.mark.parametrize("seed", range(4))
def test_widening_later_rounds_goes_on_or_says_that_it_cannot(seed: int, tmp_path: Path) -> None:
    """Cues don't repeat within a problem, so a wider round may have to give a branch another one."""
    path = tmp_path / "j.db"
    run(once(scripted(random_answers(seed)), path, max_rounds=4, width=1, seed=seed))
    before = exported(path)
    wide = scripted(random_answers(seed))
    try:
        solution = run(once(wide, path, max_rounds=4, width=2, seed=seed))
    except ReplayMismatch:
        return
    if solution.stop_reason is StopReason.FAILED:
        assert "ReplayMismatch" in str(solution.error)
        result = b'"kind":"result"'
        assert next(line for line in before.splitlines() if result in line) in exported(path)
    else:
        assert len(solution.attempts) == 7


def test_a_larger_budget_goes_on_where_the_smaller_one_ended(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    short = run(once(scripted(always(1)), path, max_rounds=4, budget=Budget(calls=2)))
    assert short.stop_reason is StopReason.BUDGET
    assert len(short.attempts) == 2
    backend = scripted(always(1))
    again = run(once(backend, path, max_rounds=4, budget=Budget(calls=2)))
    assert again.stop_reason is StopReason.BUDGET
    assert again.attempts == short.attempts
    assert not backend.requests
    backend = scripted(always(1))
    longer = run(once(backend, path, max_rounds=4, budget=Budget(calls=9)))
    assert longer.stop_reason is StopReason.ROUNDS
    assert len(backend.requests) == 2
