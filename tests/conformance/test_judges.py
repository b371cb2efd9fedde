"""What every judge must do, whoever wrote it.

The judges are those that are registered, our own and installed ones: a new one is checked by being there. One
that can't be made by its bare name, or that needs something of its own, has its spec in ``SPECS``.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from heartloop import HeartLoop
from heartloop.backends.scripted import ScriptedBackend
from heartloop.judges import judge_from_name, known_judges
from heartloop.types import (
    Attempt,
    Completion,
    Problem,
    Request,
    Solution,
    StopReason,
    TokenLogprob,
    Verdict,
    text_of,
)
from tests.loop.helpers import Independent

SPECS: dict[str, list[str]] = {
    "cascade": ["cascade(majority,pairwise)", "cascade(genselect:votes=3,panel(usc,caps)):margin=0.9"],
    "panel": ["panel(majority,pairwise,synthesis:allow_new=true):weights=2/1/0.5"],
    "keep_first": ["keep_first(pointwise:think=false)"],
    "synthesis": ["synthesis", "synthesis:allow_new=true"],
    "weighted": ["weighted", "weighted:by=logprob,power=0.5"],
    "deepconf": ["deepconf", "deepconf:keep=0.1,measure=tail"],
    "follow_up": ["follow_up", "follow_up:pick=votes,each=true"],
    "reward": ["reward", "reward:pick=votes"],
    "pointwise": ["pointwise", "pointwise:votes=3,think=false"],
    "pairwise": ["pairwise", "pairwise:both_orders=false,budget=5"],
    "genselect": ["genselect", "genselect:window=3,votes=2"],
}
EVERY = [spec for name in known_judges() for spec in SPECS.get(name, [name])]
FREE = [spec for spec in EVERY if not judge_from_name(spec).needs_reference]

QUESTION = "How many legs have 3 cats and 2 birds?"
PROBLEM = Problem("p", QUESTION, reference="16")


def texts(case: str) -> list[str]:
    def boxed(answer: int, way: int) -> str:
        return f"Counting in way {way}: that makes \\boxed{{{answer}}}"

    return {
        "mixed": [boxed(16, 1), boxed(14, 2), boxed(16, 3), "I lost count on the way, somehow", boxed(20, 4)],
        "no answers": ["I lost count on the way, somehow", "It can not be told by anybody here"],
        "one": [boxed(16, 1)],
        "one without an answer": ["I lost count on the way, somehow"],
        "equal": [boxed(16, 1)] * 4,
        "agreeing": [boxed(16, n) for n in range(4)],
        "forty": [boxed(10 + n % 7, n) for n in range(40)],
    }[case]


def judgement(request: Request) -> Any:
    """What a judge's model says: a function of the request, now and then unreadable."""
    drawn = blake2b(repr(request.as_dict()).encode(), digest_size=4).digest()
    if "prompt_logprobs" in request.sampling.extra:
        words = text_of(request.messages[-1].content).split(" ")
        rows = tuple(TokenLogprob(word, -drawn[0] / 50 - k) for k, word in enumerate(words))
        return Completion("x", prompt_logprobs=(None, *rows))
    said = (
        f"Both were read.\nScore A: {drawn[0] % 10}\nScore B: {drawn[1] % 10}\n"
        f"Score: {drawn[2] % 10}\nChoice: {drawn[3] % 3 + 1}\n\\boxed{{{10 + drawn[0] % 10}}}"
    )
    return "No opinion." if drawn[3] < 20 else with_logprobs(request, said)


def with_logprobs(request: Request, text: str) -> Completion:
    if request.sampling.logprobs is None:
        return Completion(text)
    # A whole vocabulary of 300, where all of it is asked for.
    rest = (
        [(str(k), -3.0 - math.log(300)) for k in range(299)]
        if request.sampling.logprobs < 0
        else [("9", -3.0)]
    )
    words = [TokenLogprob(word, -0.1 - len(word) / 50, ((word, -0.1), *rest)) for word in text.split(" ")]
    return Completion(text, logprobs=tuple(words))


class RewardModel(ScriptedBackend):
    """Scores what it is given: the number is a function of the conversation."""

    scores = True


def reward(request: Request) -> str:
    return str(blake2b(repr(request.messages).encode(), digest_size=1).digest()[0] / 255)


@dataclass
class Scene:
    """One problem judged once: its solution, and what was sent to whom."""

    solution: Solution
    made: list[Request]
    judged: list[Request]


def judge(spec: str, case: str, problem: Problem = PROBLEM, journal: Path | None = None) -> Scene:
    said = texts(case)
    left = list(said)
    maker = ScriptedBackend(lambda r: with_logprobs(r, left.pop(0)), name="maker")
    critic = ScriptedBackend(judgement, name="critic")
    rewarding = RewardModel(reward, name="rewarding")

    async def verify(problem: Problem, answer: str | None) -> Verdict:
        return Verdict(answer == problem.reference, "text")

    async def same(a: str, b: str, kind: str) -> bool:
        return a == b

    async def scene() -> Solution:
        async with HeartLoop(
            maker,
            judge=spec,
            strategy=Independent(len(said)),
            judge_model=critic,
            synthesiser_model=critic,
            reward_model=rewarding,
            verify=verify,
            equivalent=same,
            journal=journal,
        ) as loop:
            async with asyncio.timeout(20):
                return await loop.solve(problem)

    return Scene(asyncio.run(scene()), maker.requests, [*critic.requests, *rewarding.requests])


CASES = ["mixed", "no answers", "one", "one without an answer", "equal", "agreeing", "forty"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("spec", EVERY)
def test_the_choice_is_an_attempt_or_a_new_one_and_every_call_is_accounted(spec: str, case: str) -> None:
    scene = judge(spec, case)
    solution = scene.solution
    assert solution.stop_reason is StopReason.ROUNDS, solution.error
    assert solution.chosen is not None
    plain = [replace(a, verdict=None, score=None) for a in solution.attempts]
    new = replace(solution.chosen, verdict=None, score=None) not in plain
    assert not new or solution.chosen.usage.total_tokens > 0
    assert solution.calls == len(scene.made) + len(scene.judged)
    if any(a.answer is not None for a in solution.attempts):
        assert solution.answer is not None
    if case in ("one", "equal") or (case == "agreeing" and "allow_new=true" not in spec):
        assert solution.answer == "16"
    words = sum(
        sum(len(text_of(m.content).split()) for m in request.messages)
        for request in [*scene.made, *scene.judged]
    )
    assert solution.usage.prompt_tokens == words


@pytest.mark.parametrize("spec", EVERY)
def test_a_replay_chooses_the_same_without_a_call(spec: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    first = judge(spec, "mixed", journal=path)
    again = judge(spec, "mixed", journal=path)
    # The decision gone, as after a kill before it was written: the judge works again, on recorded answers.
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM events WHERE kind IN ('decision', 'verdict')")
        connection.execute("DELETE FROM results")
    half = judge(spec, "mixed", journal=path)
    for other in (again, half):
        assert not other.made
        assert not other.judged
        assert other.solution.chosen == first.solution.chosen
        assert (other.solution.calls, other.solution.usage) == (first.solution.calls, first.solution.usage)


def poisoned() -> Iterator[Problem]:
    yield replace(PROBLEM, reference=None)
    yield replace(PROBLEM, reference="20")
    yield replace(PROBLEM, reference=("14", "POISON"))
    yield replace(
        PROBLEM, reference="POISON", metadata={"answer": "14", "solution": "POISON \\boxed{20}", "score": 1}
    )


@pytest.mark.parametrize("spec", FREE)
def test_a_verifier_free_judge_is_blind_to_what_is_known_of_the_answer(spec: str) -> None:
    clean = judge(spec, "mixed")
    for problem in poisoned():
        other = judge(spec, "mixed", problem)
        assert [r.as_dict() for r in other.judged] == [r.as_dict() for r in clean.judged]
        assert [r.as_dict() for r in other.made] == [r.as_dict() for r in clean.made]
        assert other.solution.answer == clean.solution.answer
        assert unscored(other.solution.chosen) == unscored(clean.solution.chosen)
        assert [unscored(a) for a in other.solution.attempts] == [
            unscored(a) for a in clean.solution.attempts
        ]
        assert not any("POISON" in text_of(m.content) for r in other.judged for m in r.messages)


def unscored(attempt: Attempt | None) -> Attempt | None:
    return None if attempt is None else replace(attempt, score=None)


def test_the_oracle_is_not_blind() -> None:
    """What the test above would see, did it look at a judge that peeks."""
    right = judge("oracle", "mixed", replace(PROBLEM, reference="20"))
    assert right.solution.answer == "20" != judge("oracle", "mixed").solution.answer


@pytest.mark.parametrize("spec", EVERY)
def test_a_judge_says_who_it_is(spec: str) -> None:
    made = judge_from_name(spec)
    assert made.name == spec
    assert isinstance(made.needs_reference, bool)
