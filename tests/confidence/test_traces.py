"""Log-probabilities of a trace: summed up once, journalled small, replayed alike, cut early."""

from __future__ import annotations

import math
import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartloop import Model
from heartloop.backends import VllmBackend
from heartloop.confidence import WHOLE_VOCABULARY, ConfidenceWatch, confidence_of, window_for
from heartloop.engine.serial import (
    attempt_from_dict,
    attempt_to_dict,
    completion_from_dict,
    completion_to_dict,
)
from heartloop.errors import CallTimeout, ConnectionLost, LogprobsMissing, ServerError, UsageError
from heartloop.judges.majority import Majority
from heartloop.types import (
    Attempt,
    Completion,
    ConfidenceCut,
    Message,
    Problem,
    Request,
    Sampling,
    StopReason,
    TokenLogprob,
    Usage,
)
from tests.loop.helpers import boxed, exported, loop, run, scripted
from tests.support.loopback import Handler, listening


def table(confidences: list[float], k: int = 4) -> tuple[TokenLogprob, ...]:
    """One token for each confidence: all its alternatives have that log-probability, negated."""
    return tuple(
        TokenLogprob(f"t{i} ", -value, tuple((f"a{j}", -value) for j in range(k)))
        for i, value in enumerate(confidences)
    )


def random_table(rng: random.Random, tokens: int, k: int = 5) -> tuple[TokenLogprob, ...]:
    rows = []
    for i in range(tokens):
        logs = sorted((-rng.expovariate(0.5) for _ in range(k)), reverse=True)
        total = math.log(sum(map(math.exp, logs))) + rng.random()
        top = tuple((f"w{j}", value - total) for j, value in enumerate(logs))
        rows.append(TokenLogprob(f"w{i} ", top[0][1], top))
    return tuple(rows)


# --- the summary -----------------------------------------------------------------------------------


@given(st.integers(1, 400), st.integers(0, 2**32))
def test_the_summary_is_what_its_definitions_say(tokens: int, seed: int) -> None:
    rows = random_table(random.Random(seed), tokens)
    summary = confidence_of(rows)
    assert summary is not None
    each = [-sum(value for _, value in row.top) / len(row.top) for row in rows]
    window = summary.window
    assert window == window_for(tokens) <= tokens
    groups = sorted(sum(each[i : i + window]) / window for i in range(tokens - window + 1))
    worst = groups[: math.ceil(0.1 * len(groups))]
    assert summary.mean == pytest.approx(sum(each) / tokens, abs=1e-4)
    assert summary.lowest == pytest.approx(groups[0], abs=1e-4)
    assert summary.bottom == pytest.approx(sum(worst) / len(worst), abs=1e-4)
    assert summary.tail == pytest.approx(sum(each[-window:]) / window, abs=1e-4)
    assert summary.lowest <= summary.bottom <= groups[-1] + 1e-4
    assert (summary.tokens, summary.alternatives, summary.self_certainty) == (tokens, 5, None)
    assert 0 <= summary.entropy <= math.log(6) + 1e-4


def test_windows_scale_with_the_trace() -> None:
    assert [window_for(n) for n in (1, 10, 100, 800, 10**6)] == [1, 10, 16, 100, 2048]


def test_entropy_and_self_certainty_are_exact_for_a_whole_distribution() -> None:
    size = 300
    uniform = tuple((str(j), -math.log(size)) for j in range(size))
    sharp = ((("0"), math.log(0.5)), *((str(j), math.log(0.5 / (size - 1))) for j in range(1, size)))
    whole = confidence_of([TokenLogprob("0", uniform[0][1], uniform)], alternatives=WHOLE_VOCABULARY)
    assert whole is not None
    assert whole.entropy == pytest.approx(math.log(size), abs=1e-3)
    assert whole.self_certainty == pytest.approx(0.0, abs=1e-4)
    surer = confidence_of([TokenLogprob("0", sharp[0][1], sharp)], alternatives=WHOLE_VOCABULARY)
    assert surer is not None
    divergence = sum(math.log(1 / size) - value for _, value in sharp) / size
    assert surer.self_certainty == pytest.approx(divergence, abs=1e-3)
    # Twenty alternatives are not the whole vocabulary, whatever was asked for.
    part = confidence_of([TokenLogprob("0", sharp[0][1], sharp[:20])], alternatives=WHOLE_VOCABULARY)
    assert part is not None
    assert part.self_certainty is None


def test_nothing_is_summed_up_without_alternatives_and_minus_infinity_weighs_little() -> None:
    assert confidence_of(None) is None
    assert confidence_of(()) is None
    assert confidence_of([TokenLogprob("a", -0.1)]) is None
    broken = confidence_of([TokenLogprob("a", -9999.0, (("a", -0.1), ("b", -9999.0)))])
    assert broken is not None
    assert broken.mean < 100


def test_summaries_come_back_from_json_and_older_records_read_without() -> None:
    summary = confidence_of(random_table(random.Random(1), 90))
    attempt = Attempt("p", "0", 1, "text", "1", confidence=summary)
    completion = Completion("text", confidence=summary)
    for value, write, read in (
        (attempt, attempt_to_dict, attempt_from_dict),
        (completion, completion_to_dict, completion_from_dict),
    ):
        data = orjson.loads(orjson.dumps(write(value)))  # type: ignore[operator]
        assert read(data) == value
        del data["confidence"]
        assert read(data) == replace(value, confidence=None)


# --- asked for by a judge, through the loop ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanting(Majority):
    """A majority that has no use for the log-probabilities it asks for."""

    name: str = "wanting"
    logprobs: int | None = 20


def answer(tokens: int = 60) -> Any:
    def script(request: Request) -> Completion:
        seed = request.sampling.seed or 0
        rows = random_table(random.Random(seed), tokens, 20) if request.sampling.logprobs else None
        return Completion(boxed(seed % 3), usage=Usage(20, tokens), logprobs=rows)

    return script


PROBLEM = Problem("p", "Which number?", reference="1")


def solved(path: Path | None = None, script: Any = None, **settings: Any) -> Any:
    backend = scripted(script or answer())
    settings = {"strategy": "resample", "max_rounds": 3, "judge": Wanting(), **settings}

    async def scene() -> Any:
        model = settings.pop("model", backend)
        held = loop(model, journal=path, **settings)
        async with held:
            return await held.solve(PROBLEM), backend.requests

    return run(scene())


def test_a_judges_need_reaches_the_requests_and_the_attempts() -> None:
    solution, requests = solved()
    assert [(r.sampling.logprobs, r.sampling.logprobs_as) for r in requests] == [(20, "summary")] * 3
    assert all(a.confidence.alternatives == 20 for a in solution.attempts)
    solution, requests = solved(judge="majority")
    assert [r.sampling.logprobs for r in requests] == [None] * 3
    assert [a.confidence for a in solution.attempts] == [None] * 3


def test_a_journal_replays_the_same_confidence_and_holds_no_table(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    first, _ = solved(path)
    before = exported(path)
    again, requests = solved(path)
    assert not requests
    assert again.attempts == first.attempts
    assert exported(path) == before
    events = [orjson.loads(line) for line in before.splitlines()]
    kept = [e["data"]["completion"] for e in events if e["kind"] == "completion"]
    assert all("logprobs" not in completion and completion["confidence"] for completion in kept)


def test_the_table_is_kept_for_whoever_asks_for_it(tmp_path: Path) -> None:
    sizes = {}
    for name, sampling in (("summary", Sampling()), ("table", Sampling(logprobs=20))):
        path = tmp_path / name
        backend = scripted(answer(400))
        solution, _ = solved(path, model=Model(backend=backend, sampling=sampling))
        assert all(a.confidence is not None for a in solution.attempts)
        with sqlite3.connect(path) as db:
            rows = db.execute("SELECT sum(length(data)) FROM events WHERE kind = 'completion'").fetchone()
        sizes[name] = rows[0]
    assert sizes["table"] > 50 * sizes["summary"]


def test_a_model_without_logprobs_is_named_with_the_judge_and_ends_the_run() -> None:
    with pytest.raises(LogprobsMissing, match=r"'wanting'.*top 20.*'scripted'.*'majority'"):
        solved(script=lambda request: boxed(1))
    assert LogprobsMissing.ends_run


# --- early stop --------------------------------------------------------------------------------------


def test_a_watch_cuts_where_a_window_falls_and_not_before() -> None:
    watch = ConfidenceWatch(ConfidenceCut(window=4, below=1.0))
    fell = [watch.falls(row) for row in table([0.5, 2, 2, 2, 2, 1, 0.5, 0.4, 0.4])]
    means = [sum([0.5, 2, 2, 2, 2, 1, 0.5, 0.4, 0.4][i - 3 : i + 1]) / 4 for i in range(3, 9)]
    assert fell[3:] == [mean < 1.0 for mean in means]


def sse(*pieces: Any, done: bool = True) -> bytes:
    lines = [b"data: " + orjson.dumps(piece) + b"\n\n" for piece in pieces]
    return b": hello\n\n" + b"".join(lines) + (b"data: [DONE]\n\n" if done else b"")


def piece(word: str, confidence: float, count: int, finish: str | None = None) -> dict[str, Any]:
    top = [{"token": f"a{j}", "logprob": -confidence} for j in range(3)]
    row = {"token": word, "logprob": -0.1, "top_logprobs": top}
    return {
        "model": "m",
        "choices": [{"delta": {"content": word}, "logprobs": {"content": [row]}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count},
    }


@contextmanager
def serving(content: bytes) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    bodies: list[dict[str, Any]] = []

    class Streaming(Handler):
        def do_POST(self) -> None:
            bodies.append(orjson.loads(self.content()))
            with suppress(OSError):  # whoever has read enough hangs up
                self.answer(content, content_type="text/event-stream")

    with listening(Streaming) as root:
        yield f"{root}/v1", bodies


def streamed(content: bytes, cut: ConfidenceCut) -> tuple[Completion, dict[str, Any]]:
    sampling = Sampling(max_tokens=50, logprobs=3, cut=cut)

    async def scene(url: str) -> Completion:
        backend = VllmBackend("m", base_url=url)
        try:
            return await backend.complete(Request("m", (Message("user", "?"),), sampling))
        finally:
            await backend.aclose()

    with serving(content) as (url, bodies):
        completion = run(scene(url))
    return completion, bodies[0]


def test_a_vllm_answer_is_left_when_its_confidence_falls_and_charged_as_far_as_it_went() -> None:
    values = [3.0, 3.0, 3.0, 1.0, 1.0, 3.0, 3.0]
    content = sse(*(piece(f"w{i} ", c, i + 1) for i, c in enumerate(values)))
    completion, body = streamed(content, ConfidenceCut(window=2, below=1.5))
    assert body["stream"] is True
    assert body["stream_options"]["continuous_usage_stats"] is True
    assert completion.text == "w0 w1 w2 w3 w4 "
    assert completion.finish_reason == "cut"
    assert completion.usage == Usage(7, 5)
    assert completion.logprobs is not None
    assert len(completion.logprobs) == 5


def test_a_confident_vllm_answer_is_read_to_its_end() -> None:
    pieces = [piece("one ", 3.0, 1), piece("two", 3.0, 2, "stop")]
    completion, _ = streamed(sse(*pieces), ConfidenceCut(window=1, below=1.5))
    assert (completion.text, completion.finish_reason, completion.usage) == ("one two", "stop", Usage(7, 2))


def test_a_stream_that_breaks_off_or_fails_is_an_error_by_its_cause() -> None:
    cut = ConfidenceCut(window=9, below=0.0)
    with pytest.raises(ConnectionLost, match="broke off"):
        streamed(sse(piece("one", 3.0, 1), done=False), cut)
    with pytest.raises(ServerError, match="engine died"):
        streamed(sse(piece("one", 3.0, 1), {"error": {"message": "engine died", "code": 500}}), cut)


def test_a_stream_that_pauses_for_too_long_is_given_up() -> None:
    begun = threading.Event()

    class Pausing(Handler):
        def do_POST(self) -> None:
            self.content()
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(sse(piece("one", 3.0, 1), done=False))
            self.wfile.flush()
            begun.wait(30)

    async def scene(url: str) -> None:
        backend = VllmBackend("m", base_url=url, idle_timeout=0.05)
        sampling = Sampling(max_tokens=50, logprobs=3, cut=ConfidenceCut(window=9, below=0.0))
        try:
            with pytest.raises(CallTimeout, match=r"paused for more than 0\.05 s"):
                await backend.complete(Request("m", (Message("user", "?"),), sampling))
        finally:
            begun.set()
            await backend.aclose()

    with listening(Pausing) as root:
        run(scene(f"{root}/v1"))


def test_backends_that_cant_be_left_in_the_middle_say_so() -> None:
    class Plain:
        """Like a scripted backend, without the offer."""

        cuts = False

        def __init__(self) -> None:
            self._inner = scripted(answer())

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    @dataclass(frozen=True, slots=True)
    class Cutting:
        name: str = "cutting"

        async def solve(self, problem: Problem, session: Any) -> Any:
            branch = session.branch(0)
            branch.cut_answers(ConfidenceCut(4, 1e9))
            return session.finish(await branch.respond(), StopReason.ROUNDS)

    settings: dict[str, Any] = {"strategy": Cutting(), "max_rounds": None}
    solution, requests = solved(**settings)
    assert requests[0].sampling.cut == ConfidenceCut(4, 1e9)
    assert solution.chosen.finish_reason == "cut"
    with pytest.raises(UsageError, match="streaming backend"):
        solved(model=Plain(), **settings)
    with pytest.raises(UsageError, match="asks for log-probabilities"):
        solved(judge="majority", **settings)
