"""The lines of OpenAI's batch files, which vLLM's ``run-batch`` reads and writes too.

Out: ``{"custom_id", "method", "url", "body"}``. Back: ``{"custom_id", "response": {"status_code", "body"},
"error"}`` (platform.openai.com/docs/guides/batch). A line that failed at the model has the error in
``response.body`` at OpenAI and in ``error`` at vLLM; one that was never run has no response, and an ``error``
with a code.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson

from heartloop.backends.openai_errors import ErrorBody, from_status, refused_parameter
from heartloop.backends.waves import Outcome
from heartloop.backends.wire import completion_of, decode
from heartloop.errors import BadRequest, BadResponse, BatchEnded, RateLimited, ServerError

__all__ = ["CHAT_PATH", "line_of", "outcome_in"]

CHAT_PATH = "/v1/chat/completions"
_NEVER_RUN = frozenset(("batch_expired", "batch_cancelled", "batch_canceled"))


def line_of(id: str, body: dict[str, Any]) -> bytes:
    """One request as a line, with its newline. Raises BadRequest for what JSON can't say."""
    line = {"custom_id": id, "method": "POST", "url": CHAT_PATH, "body": body}
    try:
        return orjson.dumps(line) + b"\n"
    except TypeError:
        pass
    try:  # lone surrogates, integers beyond 64 bits
        return json.dumps(line).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"the request can't be written as JSON: {str(error)[:200]}") from None


def outcome_in(
    line: bytes,
    *,
    where: str,
    redact: Callable[[str], str],
    give_up: Callable[[str], bool] = lambda parameter: False,
) -> tuple[str, Outcome]:
    """A call's id and what became of it.

    Args:
        where, redact: as for :func:`heartloop.backends.openai_errors.from_status`.
        give_up: told a parameter that the model refuses; says whether it will be left out in future.

    Raises:
        BadResponse: the line is none.
    """
    data = decode(line)
    id = data.get("custom_id") if isinstance(data, dict) else None
    if not isinstance(id, str):
        raise BadResponse("a line without a custom_id")
    try:
        return id, _outcome(data, where, redact, give_up)
    except BadResponse as error:
        return id, error


def _outcome(
    data: dict[str, Any], where: str, redact: Callable[[str], str], give_up: Callable[[str], bool]
) -> Outcome:
    response, error = data.get("response"), data.get("error")
    status = response.get("status_code") if isinstance(response, dict) else None
    answer = response.get("body") if isinstance(response, dict) else None
    if status is None and not error and isinstance(answer, dict) and "choices" in answer:
        status = 200  # a server that leaves it out where all went well
    if status is None or (error and status == 200 and answer is None):
        refusal = ErrorBody(error)
        if refusal.code in _NEVER_RUN:
            return BatchEnded(f"{where}: {redact(refusal.message)[:200] or refusal.code}")
        said = redact(refusal.message or refusal.code)[:300]
        return ServerError(f"{where} did not run the request: {said or 'no reason given'}")
    if not isinstance(status, int) or isinstance(status, bool):
        raise BadResponse("a line whose status is no number")
    if status < 400:
        return completion_of(answer)
    refusal = ErrorBody(answer or (error if isinstance(error, dict) else {"message": str(error or "")}))
    parameter = refused_parameter(status, refusal)
    if parameter is not None and give_up(parameter):
        return ServerError(f"{where} refuses {parameter}: left out from the next batch on", status=status)
    failure = from_status(status, {}, refusal, where=where, redact=redact)
    if isinstance(failure, RateLimited):
        # The next batch is a matter of hours: the waiting that a 429 asks for is over by then.
        return ServerError(str(failure), status=status)
    return failure
