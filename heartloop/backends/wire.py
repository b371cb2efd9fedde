"""The chat-completions format: requests out, answers in.

Field names are those of OpenAI's API reference (platform.openai.com/docs/api-reference/chat); where
other servers put the same thing elsewhere, the server is named at the line that reads it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import orjson

from heartloop.errors import BadRequest, BadResponse
from heartloop.types import Completion, FinishReason, Request, TokenLogprob, Usage

__all__ = [
    "clean",
    "completion_of",
    "credible",
    "decode",
    "error_in_success",
    "finish_reason_of",
    "logprobs_of",
    "prompt_logprobs_of",
    "refuse_broken_off",
    "request_body",
    "usage_of",
]

OWNED = frozenset(("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens"))
"""Fields that ``Sampling.extra`` may not set: reservations and the reading of answers rest on them."""

SEVERAL = ("n", "n_cmpl", "best_of")
"""Fields that ask for several answers at once. Never sent: llama.cpp's usage is that of a single one of them
(seen of its server: ``n`` 3, 20 tokens each, ``completion_tokens`` 20), and a reservation is for one."""

LOWEST_LOGPROB = -9999.0
"""What stands for a log-probability of minus infinity (the value vLLM uses)."""

_FINISH: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "eos": "stop",  # Together
    "end_turn": "stop",  # proxies in front of Anthropic
    "max_tokens": "length",
}

_BROKEN_OFF = frozenset(("error", "abort"))
"""Words for an answer that the server did not finish: OpenRouter's (the choice has an ``error``), vLLM's."""


# --- out ---------------------------------------------------------------------------------------------


def request_body(request: Request) -> dict[str, Any]:
    """The body of ``request``, for one answer that is not streamed.

    Raises:
        BadRequest: ``sampling.extra`` sets what the engine must own.
    """
    s = request.sampling
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [message.as_dict() for message in request.messages],
        "max_tokens": s.max_tokens,
    }
    for name in ("temperature", "top_p", "seed"):
        value = getattr(s, name)
        if value is not None:
            body[name] = value
    if s.stop:
        body["stop"] = list(s.stop)
    if s.logprobs is not None:
        body["logprobs"] = True
        if s.logprobs:
            body["top_logprobs"] = s.logprobs
    if s.extra:
        owned = sorted(OWNED.intersection(s.extra))
        several = [name for name in SEVERAL if s.extra.get(name, 1) != 1]
        if owned or several:
            raise BadRequest(f"sampling.extra can't set {', '.join(owned or several)}: HeartLoop does")
        body.update(s.extra)
    return body


# --- in ----------------------------------------------------------------------------------------------


def decode(content: bytes) -> Any:
    """The JSON in ``content``. Raises BadResponse for anything else."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        # Nothing of the content: it may hold what must not be shown.
        why = f"{error}, in {len(content)} bytes"
    try:
        # NaN and Infinity as Python servers write them, lone surrogates in model output.
        return json.loads(content)
    except (ValueError, RecursionError):
        pass
    raise BadResponse(f"the answer is not JSON ({why})")


def error_in_success(content: bytes) -> tuple[int, bytes] | None:
    """Status and body of an error that came with status 200, as OpenRouter sends them, else None."""
    if b'"error"' not in content or b'"choices"' in content:
        return None
    data = decode(content)
    error = data.get("error") if isinstance(data, dict) else None
    if not error:
        return None
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str) and len(code) == 3 and code.isascii() and code.isdecimal():
        code = int(code)
    if not isinstance(code, int) or not 400 <= code < 600:
        raise BadResponse("the answer is an error without a status")
    return code, content


def completion_of(data: Any, *, seconds: float = 0.0) -> Completion:
    """The completion in the body of a successful answer, its first choice.

    Raises:
        BadResponse: no choices, values of the wrong kind, or an answer that broke off at the server.
    """
    if not isinstance(data, dict):
        raise BadResponse(f"the answer is a JSON {_kind(data)}, not an object")
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices:
        raise BadResponse("the answer has no choices")
    choice = choices[0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise BadResponse("the answer's first choice has no message")
    refuse_broken_off(choice)
    text = _text(message.get("content"), "content")
    reasoning = ""
    # vLLM and DeepSeek say reasoning_content; OpenRouter and newer vLLM say reasoning.
    for name in ("reasoning_content", "reasoning"):
        if message.get(name):
            reasoning = _text(message[name], name)
            break
    else:
        reasoning = _thinking(message.get("content"))
    finish_reason = finish_reason_of(choice.get("finish_reason"))
    refusal = message.get("refusal")
    if refusal:
        finish_reason = "refusal"
        text = text or _text(refusal, "refusal")
    model = data.get("model")
    # One answer was asked for. Where more came, nobody knows which of them the count is of.
    usage = usage_of(data.get("usage")) if len(choices) == 1 else None
    return Completion(
        text=text,
        finish_reason=finish_reason,
        usage=credible(usage, text or reasoning),
        model=clean(model) if isinstance(model, str) else "",
        reasoning=reasoning,
        logprobs=logprobs_of(choice.get("logprobs")),
        seconds=seconds,
        prompt_logprobs=prompt_logprobs_of(data.get("prompt_logprobs")),
    )


def refuse_broken_off(choice: Mapping[str, Any]) -> None:
    """Raise BadResponse for a choice that is the beginning of an answer, or none, since the server failed."""
    if choice.get("error") or str(choice.get("finish_reason")) in _BROKEN_OFF:
        raise BadResponse("the answer broke off at the server")


def credible(usage: Usage | None, said: str) -> Usage | None:
    """``usage``, or None where it can't be true of the answer ``said``.

    No text comes of no tokens, and no call takes none at all: zeros are of servers that don't count.
    """
    if usage is None or (not usage.completion_tokens and (said or not usage.prompt_tokens)):
        return None
    return usage


def usage_of(data: Any) -> Usage | None:
    """Token counts, or None where there are none that make sense (the call is then charged in full)."""
    if not isinstance(data, dict):
        return None
    prompt, completion = _count(data.get("prompt_tokens")), _count(data.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    reasoning = _detail(data, "completion_tokens_details", "reasoning_tokens")
    cached = _detail(data, "prompt_tokens_details", "cached_tokens")
    cached = cached or _count(data.get("prompt_cache_hit_tokens")) or 0  # DeepSeek
    # xAI and Gemini's compatible endpoint leave reasoning out of completion_tokens, not out of the total.
    total = _count(data.get("total_tokens"))
    if reasoning and total is not None and total >= prompt + completion + reasoning:
        completion += reasoning
    return Usage(prompt, completion, min(reasoning, completion), min(cached, prompt))


def logprobs_of(data: Any) -> tuple[TokenLogprob, ...] | None:
    """``choices[0].logprobs``, or None where there are none. Raises BadResponse where it is malformed."""
    if not isinstance(data, dict) or not isinstance(data.get("content"), list):
        return None
    try:
        return tuple(
            TokenLogprob(
                clean(row["token"]),
                _logprob(row["logprob"]),
                tuple((clean(t["token"]), _logprob(t["logprob"])) for t in row.get("top_logprobs") or ()),
            )
            for row in data["content"]
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise BadResponse("the answer's logprobs are malformed") from None


def prompt_logprobs_of(data: Any) -> tuple[TokenLogprob | None, ...] | None:
    """vLLM's ``prompt_logprobs``, or None where there are none. Raises BadResponse where it is malformed.

    A row is None or ``{token id: {"logprob", "rank", "decoded_token"}}``, the prompt's own token first.
    """
    if not isinstance(data, list):
        return None
    try:
        return tuple(_prompt_row(row) if row else None for row in data)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise BadResponse("the answer's prompt_logprobs are malformed") from None


def _prompt_row(row: Mapping[str, Any]) -> TokenLogprob:
    tokens = [(clean(t.get("decoded_token") or ""), _logprob(t["logprob"])) for t in row.values()]
    return TokenLogprob(tokens[0][0], tokens[0][1], tuple(tokens))


def finish_reason_of(value: Any) -> FinishReason:
    """A server's word for why an answer ended, as ours; ``"other"`` where it is unknown."""
    return _FINISH.get(value.lower(), "other") if isinstance(value, str) else "other"


def _text(value: Any, name: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):  # Mistral: parts of type text and thinking
        parts = [p["text"] for p in value if isinstance(p, dict) and isinstance(p.get("text"), str)]
        return clean("".join(parts))
    raise BadResponse(f"the answer's {name} is a JSON {_kind(value)}, not text")


def _thinking(content: Any) -> str:
    """The reasoning among Mistral's content parts: ``{"type": "thinking", "thinking": [{"text": ...}]}``."""
    if not isinstance(content, list):
        return ""
    inner = [p.get("thinking") for p in content if isinstance(p, dict) and p.get("type") == "thinking"]
    return "".join(_text(part, "thinking") for part in inner)


def clean(text: str) -> str:
    """``text`` without lone surrogates, which nothing behind this could store or send."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _count(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        return None
    return value


def _detail(data: Mapping[str, Any], group: str, name: str) -> int:
    details = data.get(group)
    return (_count(details.get(name)) or 0) if isinstance(details, dict) else 0


def _logprob(value: Any) -> float:
    if value is None:  # llama.cpp, for minus infinity
        return LOWEST_LOGPROB
    number = float(value)
    if math.isnan(number):
        raise ValueError("NaN")
    return min(max(number, LOWEST_LOGPROB), -LOWEST_LOGPROB)


def _kind(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
