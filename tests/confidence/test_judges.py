"""Judges that read log-probabilities, prompts' likelihoods and reward models: choices, costs, errors."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from heartloop import Model
from heartloop.backends import ScriptedBackend, make_backend
from heartloop.errors import BadResponse, LogprobsMissing, UsageError
from heartloop.judges import judge_from_name
from heartloop.judges.follow_up import DISSATISFIED, SATISFIED, log_odds
from heartloop.types import (
    Attempt,
    Completion,
    Message,
    Problem,
    Request,
    Sampling,
    Solution,
    StopReason,
    TokenLogprob,
    TraceConfidence,
    Usage,
    text_of,
)
from tests.loop.helpers import boxed, exported, loop, run
from tests.support.loopback import Handler, listening

PROBLEM = Problem("p", "Which number?", reference="1")


class Offline:
    """All that a judge without calls may ask of its session."""

    async def equivalent(self, a: str, b: str) -> bool:
        return a == b


def trace(
    answer: str | None, sure: float, *, entropy: float = 1.0, branch: str = "0", round: int = 1, **fields: Any
) -> Attempt:
    confidence = TraceConfidence(9, 20, -sure, sure, sure, sure, sure, entropy, 9, **fields)
    return Attempt("p", branch, round, f"{answer} {sure}", answer, confidence=confidence)


def pick(judge: str, *attempts: Attempt) -> Attempt:
    return asyncio.run(judge_from_name(judge).select(PROBLEM, attempts, Offline()))  # type: ignore[arg-type]


def branches(*made: Attempt) -> list[Attempt]:
    from dataclasses import replace

    return [replace(attempt, branch=str(k)) for k, attempt in enumerate(made)]


# --- votes with weights ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        "weighted:power=-1",
        "weighted:power=400",
        "weighted:logprobs=1",
        "deepconf:logprobs=none",
        "deepconf:logprobs=-5",
        "self_certainty:power=-0.5",
    ],
)
def test_settings_that_could_not_weigh_a_vote_are_refused(spec: str) -> None:
    with pytest.raises(UsageError, match=r"(power|logprobs) is from"):
        judge_from_name(spec)


def test_one_sure_vote_outweighs_two_unsure_ones_and_power_0_is_the_plain_vote() -> None:
    made = branches(trace("2", 1.0), trace("2", 1.0), trace("1", 5.0))
    assert pick("weighted:by=mean", *made).answer == "1"
    assert pick("weighted:by=mean,power=0", *made).answer == "2"
    assert pick("majority", *made).answer == "2"


def test_inverse_entropy_weighs_the_steps_of_a_chain() -> None:
    chain = [trace("1", 1, entropy=0.1, round=1)]
    chain += [trace("2", 1, entropy=0.5, round=r) for r in (2, 3, 4)]
    assert pick("weighted", *chain).answer == "1"  # 1/0.1 against 3/0.5
    assert pick("weighted", *chain, trace("2", 1, entropy=0.2, round=5)).answer == "2"


def test_a_longer_line_is_not_more_lines() -> None:
    line = [trace("2", 3.0, branch="0", round=r) for r in range(1, 6)]
    assert pick("weighted:by=mean", *line, trace("1", 3.1, branch="1")).answer == "1"


def test_deepconf_lets_only_the_surest_vote() -> None:
    made = branches(*[trace("2", 1.0 + k / 100) for k in range(8)], trace("1", 9.0), trace("3", 4.0))
    assert pick("deepconf:keep=0.1", *made).answer == "1"
    assert pick("deepconf:keep=0.9", *made).answer == pick("weighted:by=bottom", *made[1:]).answer
    nothing = branches(trace(None, 9.0), trace("7", 1.0))
    assert pick("deepconf:keep=0.1", *nothing).answer == "7"
    with pytest.raises(UsageError, match="share"):
        judge_from_name("deepconf:keep=0")


def test_self_certainty_ranks_and_refuses_what_is_not_the_whole_distribution() -> None:
    made = branches(
        trace("2", 1, self_certainty=5.0),
        trace("2", 1, self_certainty=6.0),
        trace("1", 1, self_certainty=9.0),
    )
    assert pick("self_certainty:power=0", *made).answer == "2"
    assert pick("self_certainty:power=9", *made).answer == "1"
    with pytest.raises(UsageError, match=r"max-logprobs -1.*deepconf"):
        pick("self_certainty", trace("1", 1.0))


@pytest.mark.parametrize("judge", ["weighted", "deepconf", "self_certainty"])
def test_attempts_without_log_probabilities_are_refused_by_name(judge: str) -> None:
    with pytest.raises(UsageError, match=rf"{judge}.*--logprobs"):
        pick(judge, Attempt("p", "0", 1, "text", "1"))
    empty = Attempt("p", "0", 1, "", None)
    assert pick("deepconf", empty, trace("1", 2.0, branch="1")).answer == "1"


# --- DeepConf online ---------------------------------------------------------------------------------


def traces(values: dict[int, float], agree: int) -> Any:
    """Trace k has a confidence of its own; a poor one is long, so that leaving it saves something."""
    order: dict[int, int] = {}

    def script(request: Request) -> Completion:
        k = order.setdefault(request.sampling.seed or 0, len(order))
        sure = values.get(k, 3.0)
        rows = tuple(TokenLogprob("x ", -0.1, tuple((str(j), -sure) for j in range(5))) for _ in range(200))
        answer = 2 if agree and k % agree == 0 else 1
        return Completion(boxed(answer), logprobs=rows, usage=Usage(10, 200))

    return script


def test_deepconf_leaves_poor_traces_and_charges_what_they_had_produced(tmp_path: Path) -> None:
    poor = {5: 1.0, 6: 1.0}
    backend = ScriptedBackend(traces(poor, 2))
    strategy = "deepconf:attempts=8,warm_up=4,keep=0.9,width=4,agreement=1.0"
    path = tmp_path / "j.sqlite"

    async def scene() -> Solution:
        async with loop(backend, judge="deepconf", strategy=strategy, journal=path) as held:
            return await held.solve(PROBLEM)

    solution = run(scene())
    ends = [a.finish_reason for a in solution.attempts]
    assert ends.count("cut") == 2
    assert [a.answer for a in solution.attempts if a.finish_reason == "cut"] == [None, None]
    assert solution.usage.completion_tokens < 8 * 200 - 300
    asked = len(backend.requests)
    before = exported(path)
    assert run(scene()).attempts == solution.attempts
    assert len(backend.requests) == asked
    assert exported(path) == before


def test_deepconf_counts_no_vote_of_a_warm_up_trace_below_the_threshold() -> None:
    def script(request: Request) -> Completion:
        k = len(backend.requests)
        answer, sure = (2, 2.9) if k <= 3 else (1, 3.0)  # three of five say 2, and none of the two surest
        rows = tuple(TokenLogprob("x ", -0.1, tuple((str(j), -sure) for j in range(5))) for _ in range(50))
        return Completion(boxed(answer), logprobs=rows, usage=Usage(10, 50))

    backend = ScriptedBackend(script)
    strategy = "deepconf:attempts=5,warm_up=5,keep=0.4"

    async def scene() -> Solution:
        async with loop(backend, judge="deepconf:keep=1", strategy=strategy) as held:
            return await held.solve(PROBLEM)

    assert run(scene()).answer == "1"


def test_deepconf_stops_when_the_sure_ones_agree_and_refuses_what_it_cant_do() -> None:
    async def scene(judge: str) -> Solution:
        backend = ScriptedBackend(traces({}, 0))
        strategy = "deepconf:attempts=12,warm_up=4,width=4"
        async with loop(backend, judge=judge, strategy=strategy) as held:
            return await held.solve(PROBLEM)

    solution = run(scene("deepconf"))
    assert (len(solution.attempts), solution.stop_reason) == (4, StopReason.AGREED)
    with pytest.raises(UsageError, match="log-probabilities"):
        run(scene("majority"))
    with pytest.raises(UsageError, match="warm_up"):
        loop(ScriptedBackend(["x"]), strategy="deepconf:attempts=2")


# --- follow-up likelihood ----------------------------------------------------------------------------


def rows(words: list[tuple[str, float]]) -> tuple[TokenLogprob | None, ...]:
    return (None, *(TokenLogprob(word, value) for word, value in words))


def test_only_what_differs_counts_even_where_beginnings_are_missing_or_noisy() -> None:
    start = [(f"w{k}", -0.1) for k in range(9)]
    noisy = [(word, value - 0.3) for word, value in start]
    one = Completion("", prompt_logprobs=rows([*start, ("yes", -1.0), (".", -0.5)]))
    other = Completion("", prompt_logprobs=rows([*noisy, ("no", -2.0), ("way", -1.0), (".", -0.5)]))
    assert log_odds(one, other) == pytest.approx(-1.5 + 3.5)
    short = Completion("", usage=Usage(12, 1), prompt_logprobs=(one.prompt_logprobs or ())[-5:])
    whole = Completion("", usage=Usage(13, 1), prompt_logprobs=other.prompt_logprobs)
    assert log_odds(short, whole) == pytest.approx(2.0)


def conversational(request: Request) -> Completion:
    """Generates 1 and 2 in turn; a satisfied turn after "1" is likely."""
    if "prompt_logprobs" not in request.sampling.extra:
        return Completion(boxed((request.sampling.seed or 0) % 2 + 1), usage=Usage(5, 5))
    answer, turn = (text_of(m.content) for m in request.messages[-2:])
    pleased = turn == SATISFIED
    value = -1.0 if pleased == ("{1}" in answer) else -3.0
    return Completion("x", usage=Usage(2, 1), prompt_logprobs=rows([(turn, value)]))


def test_the_answer_that_would_please_is_chosen_at_two_calls_a_candidate() -> None:
    backend = ScriptedBackend(conversational)

    async def scene() -> Solution:
        async with loop(backend, judge="follow_up", strategy="resample", max_rounds=6) as held:
            return await held.solve(PROBLEM)

    solution = run(scene())
    distinct = len({a.text for a in solution.attempts})
    assert distinct == 2
    assert solution.answer == "1"
    judged = [r for r in backend.requests if "prompt_logprobs" in r.sampling.extra]
    assert len(judged) == 2 * distinct
    assert solution.calls == 6 + len(judged)
    assert {text_of(r.messages[-1].content) for r in judged} == {SATISFIED, DISSATISFIED}
    assert all(r.sampling.max_tokens == 1 for r in judged)


def test_scores_given_as_attempts_are_made_are_in_their_verdicts_and_not_asked_for_again() -> None:
    backend = ScriptedBackend(conversational)

    async def scene() -> Solution:
        settings: dict[str, Any] = {"strategy": "resample", "max_rounds": 4}
        async with loop(backend, judge="follow_up:each=true", **settings) as held:
            return await held.solve(PROBLEM)

    solution = run(scene())
    odds = 1 / (1 + math.exp(-2.0))
    scores = {a.answer: a.verdict.score for a in solution.attempts if a.verdict is not None}
    assert scores == {"1": pytest.approx(odds), "2": pytest.approx(1 - odds)}
    assert solution.answer == "1"
    assert solution.calls == 4 + 2 * 4


def test_a_backend_without_prompt_log_probabilities_is_named() -> None:
    async def scene() -> Solution:
        backend = ScriptedBackend(lambda r: boxed((r.sampling.seed or 0) % 3), name="plain")
        async with loop(backend, judge="follow_up", strategy="resample", max_rounds=4) as held:
            return await held.solve(PROBLEM)

    solution = run(scene())
    assert solution.stop_reason is StopReason.FAILED
    assert "follow_up" in str(solution.error)
    assert "'plain'" in str(solution.error)
    assert LogprobsMissing.__name__ in str(solution.error)


# --- reward models -----------------------------------------------------------------------------------


@contextmanager
def serving(answer: Any) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    asked: list[tuple[str, Any]] = []

    class Answering(Handler):
        def do_POST(self) -> None:
            body = orjson.loads(self.content())
            asked.append((self.path, body))
            self.answer(orjson.dumps(answer(body) if callable(answer) else answer))

    with listening(Answering) as root:
        yield root, asked


USAGE = {"prompt_tokens": 11, "total_tokens": 11}


@pytest.mark.parametrize(
    ("spec", "path", "options", "answer", "score"),
    [
        ("vllm-score", "/score", {}, {"data": [{"score": 0.25}], "usage": USAGE}, 0.25),
        ("vllm-classify", "/classify", {}, {"data": [{"probs": [0.1, 0.9]}], "usage": USAGE}, 0.9),
        ("vllm-classify", "/classify", {"label": 0}, {"data": [{"probs": [0.1, 0.9]}], "usage": USAGE}, 0.1),
        ("vllm-pooling", "/pooling", {}, {"data": [{"data": [-1.5]}], "usage": USAGE}, -1.5),
        ("vllm-pooling", "/pooling", {"steps": "least"}, {"data": [{"data": [[0.5, 0.2], [0.1, 0.9]]}]}, 0.2),
        ("vllm-pooling", "/pooling", {"steps": "product"}, {"data": [{"data": [0.5, 0.5]}]}, 0.25),
        ("http-score", "/v1/rate", {"field": "result.0.reward"}, {"result": [{"reward": 3}]}, 3.0),
    ],
)
def test_reward_endpoints_give_a_number_and_their_usage(
    spec: str, path: str, options: dict[str, Any], answer: Any, score: float
) -> None:
    async def scene(url: str) -> Completion:
        base = url + (path if spec == "http-score" else "/v1")
        backend = make_backend(f"{spec}/rm", base_url=base, **options)
        try:
            messages = (Message("user", "3 + 4?"), Message("assistant", "7"))
            return await backend.complete(Request("rm", messages, Sampling(max_tokens=1)))
        finally:
            await backend.aclose()

    with serving(answer) as (url, asked):
        completion = run(scene(url))
    assert float(completion.text) == score
    assert completion.usage == (Usage(11, 0) if "usage" in answer else None)
    assert asked[0][0] == path
    sent = orjson.dumps(asked[0][1])
    assert b"3 + 4?" in sent
    assert b'"7"' in sent


@pytest.mark.parametrize(
    "answer", [{}, {"data": []}, {"data": [{"score": "high"}]}, {"data": [{"score": None}]}]
)
def test_an_answer_without_a_score_is_a_bad_response(answer: Any) -> None:
    async def scene(url: str) -> Completion:
        backend = make_backend("vllm-score/rm", base_url=url)
        try:
            messages = (Message("user", "q"), Message("assistant", "a"))
            return await backend.complete(Request("rm", messages))
        finally:
            await backend.aclose()

    with serving(answer) as (url, _), pytest.raises(BadResponse, match="no score"):
        run(scene(url))


def test_a_reward_model_chooses_is_charged_and_replayed(tmp_path: Path) -> None:
    def rate(body: dict[str, Any]) -> Any:
        return {"data": [{"score": 0.9 if "{1}" in body["text_2"] else 0.2}], "usage": USAGE}

    generator = ScriptedBackend(lambda r: boxed((r.sampling.seed or 0) % 3))
    path = tmp_path / "j.sqlite"

    async def scene(url: str) -> Solution:
        reward = Model("vllm-score/rm", base_url=url)
        settings: dict[str, Any] = {"judge": "reward", "strategy": "resample", "max_rounds": 6}
        async with loop(generator, reward_model=reward, journal=path, **settings) as held:
            return await held.solve(PROBLEM)

    with serving(rate) as (url, asked):
        solution = run(scene(url))
        before, calls = exported(path), len(asked)
        again = run(scene(url))
        assert len(asked) == calls == len({a.text for a in solution.attempts})
    assert solution.answer == again.answer == "1"
    assert solution.usage == again.usage
    assert solution.calls == 6 + calls
    assert solution.usage.prompt_tokens == sum(a.usage.prompt_tokens for a in solution.attempts) + 11 * calls
    assert exported(path) == before


@pytest.mark.parametrize("said", ["nan", "inf", "", "fine"])
def test_a_score_that_is_no_finite_number_decides_nothing(said: str) -> None:
    class Rewarding(ScriptedBackend):
        scores = True

    answers = iter([1, 2, 2])
    generator = ScriptedBackend(lambda r: boxed(next(answers)))

    async def scene() -> Solution:
        rewarding = Rewarding(lambda r: said)
        settings: dict[str, Any] = {"judge": "reward", "strategy": "resample", "max_rounds": 3}
        async with loop(generator, reward_model=rewarding, **settings) as held:
            return await held.solve(PROBLEM)

    solution = run(scene())
    assert solution.stop_reason is StopReason.FAILED
    assert "BadResponse" in str(solution.error)
    assert solution.answer == "2"  # the majority's


def test_a_reward_judge_without_a_reward_model_says_what_to_give() -> None:
    async def scene() -> Solution:
        backend = ScriptedBackend(lambda r: boxed((r.sampling.seed or 0) % 3))
        async with loop(backend, judge="reward", strategy="resample", max_rounds=3) as held:
            return await held.solve(PROBLEM)

    solution = run(scene())
    assert solution.stop_reason is StopReason.FAILED
    assert "--reward-model" in str(solution.error)


def test_votes_by_reward_survive_one_lucky_score() -> None:
    def rate(body: dict[str, Any]) -> Any:
        return {"score": 5.0 if "lucky" in body["answer"] else 1.0}

    texts = ["\\boxed{1} a", "\\boxed{1} b", "\\boxed{1} c", "\\boxed{2} lucky"]

    async def scene(url: str, judge: str) -> Solution:
        reward = Model("http-score/rm", base_url=url)
        generator = ScriptedBackend(list(texts))
        held = loop(
            generator, reward_model=reward, judge=judge, strategy="resample", max_rounds=4, concurrency=1
        )
        async with held:
            return await held.solve(PROBLEM)

    with serving(rate) as (url, _):
        assert run(scene(url, "reward")).answer == "2"
        assert run(scene(url, "reward:pick=votes")).answer == "1"
