"""Records to JSON and back: what is read equals what was written, and damage is named."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartloop.engine import serial
from heartloop.engine.fingerprint import fingerprint
from heartloop.errors import JournalCorrupt
from heartloop.types import (
    Attempt,
    Completion,
    Cue,
    Directive,
    Emotion,
    Intensity,
    Message,
    Problem,
    Request,
    Sampling,
    SpeechAct,
    TokenLogprob,
    Usage,
    Verdict,
)

text = st.text(max_size=20)
count = st.integers(0, 2**40)
number = st.floats(allow_nan=False, allow_infinity=False)
usages = st.builds(Usage, count, count, count, count)
finishes = st.sampled_from(["stop", "length", "content_filter", "refusal", "other"])
parts = st.fixed_dictionaries({"type": st.just("text"), "text": text})
contents = st.one_of(text, st.lists(parts, max_size=2).map(tuple))
messages = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), contents)
logprobs = st.builds(TokenLogprob, text, number, st.lists(st.tuples(text, number), max_size=2).map(tuple))
completions = st.builds(
    Completion,
    text,
    finishes,
    st.none() | usages,
    text,
    text,
    st.none() | st.lists(logprobs, max_size=2).map(tuple),
    number,
)
samplings = st.builds(
    Sampling,
    temperature=st.none() | number,
    top_p=st.none() | number,
    max_tokens=count,
    stop=st.lists(text, max_size=2).map(tuple),
    seed=st.none() | count,
    logprobs=st.none() | st.integers(0, 20),
    extra=st.dictionaries(text, count | text, max_size=2),
)
requests = st.builds(Request, text, st.lists(messages, max_size=3).map(tuple), samplings)
problems = st.builds(
    Problem,
    text,
    contents,
    st.none() | text | st.lists(text, max_size=2).map(tuple),
    text,
    st.dictionaries(text, text, max_size=2),
)
verdicts = st.builds(
    Verdict,
    correct=st.sampled_from([True, False, None]),
    method=text,
    reason=text,
    score=st.none() | number,
    prediction=st.none() | text,
    reference=st.none() | text,
    seconds=number,
)
cues = st.builds(
    Cue,
    text,
    st.none() | st.sampled_from(Emotion),
    st.none() | st.sampled_from(Intensity),
    st.sampled_from(SpeechAct),
    st.sampled_from(Directive),
    text,
    st.booleans(),
)
attempts = st.builds(
    Attempt,
    problem_id=text,
    branch=text,
    round=count,
    text=text,
    answer=st.none() | text,
    cue=st.none() | cues,
    reasoning=text,
    finish_reason=finishes,
    usage=usages,
    model=text,
    verdict=st.none() | verdicts,
    score=st.none() | verdicts,
)

KINDS = {
    "usage": usages,
    "completion": completions,
    "message": messages,
    "request": requests,
    "problem": problems,
    "verdict": verdicts,
    "attempt": attempts,
}


def codec(kind: str) -> tuple[Any, Any]:
    return getattr(serial, f"{kind}_to_dict"), getattr(serial, f"{kind}_from_dict")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_equals_what_was_written(kind: str) -> None:
    to_dict, from_dict = codec(kind)

    @given(KINDS[kind])
    def law(value: Any) -> None:
        data = to_dict(value)
        assert from_dict(orjson.loads(orjson.dumps(data))) == value
        assert from_dict({**data, "of a later version": 1}) == value

    law()


@given(requests)
def test_a_request_read_back_has_the_same_fingerprint(request: Request) -> None:
    data = orjson.loads(orjson.dumps(serial.request_to_dict(request)))
    assert fingerprint(serial.request_from_dict(data)) == fingerprint(request)


@pytest.mark.parametrize(
    ("kind", "data", "match"),
    [
        ("completion", {"finish_reason": "stop"}, "lacks the field 'text'"),
        ("completion", {"text": "x", "finish_reason": "because"}, "because"),
        ("completion", {"text": 3, "finish_reason": "stop"}, "can't be read"),
        ("completion", {"text": "x", "finish_reason": "stop", "logprobs": [[1]]}, "can't be read"),
        ("completion", ["x"], "can't be read"),
        ("usage", {"prompt_tokens": "3"}, "prompt_tokens"),
        ("message", {"role": "robot", "content": ""}, "robot"),
        ("message", {"role": "user", "content": 3}, "content"),
        ("request", {"model": "m", "messages": []}, "sampling"),
        ("verdict", {"correct": "yes", "method": "text"}, "correct"),
        ("attempt", {"problem_id": "p"}, "branch"),
        ("problem", {"id": "p", "question": "q", "kind": "auto", "reference": 3}, "reference"),
    ],
)
def test_damage_is_named(kind: str, data: Any, match: str) -> None:
    with pytest.raises(JournalCorrupt, match=match):
        codec(kind)[1](data)
