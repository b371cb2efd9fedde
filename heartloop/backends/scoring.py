"""Reward models as backends: a conversation goes out, one number comes back as the completion's text.

A score is a call like any other: it is reserved, limited, retried, charged and journalled by the gateway, and
replayed. A request is a conversation that ends with the answer to be scored; what is sent of it:

==============  ===========================================  ==============================================
``task``        request                                      score
==============  ===========================================  ==============================================
``score``       vLLM ``/score``: question and answer         ``data[0].score``
``classify``    vLLM ``/classify``: the conversation         ``data[0].probs[label]``
``pooling``     vLLM ``/pooling``: the conversation          ``data[0].data``: a number, or one for each step
``json``        the URL itself: model, messages,             the field ``field``, such as ``result.0.reward``
                question, answer
==============  ===========================================  ==============================================

(docs.vllm.ai/en/latest/models/pooling_models/.) A server that tells no usage is charged the reservation, as
assumed.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any, Literal, TypeAlias
from urllib.parse import urlencode

from heartloop.backends.vllm import VllmBackend, dumped
from heartloop.backends.wire import decode, usage_of
from heartloop.errors import BackendError, BadResponse, UsageError
from heartloop.types import Completion, Request, text_of

__all__ = ["ScoringBackend", "Task"]

Task: TypeAlias = Literal["score", "classify", "pooling", "json"]
Steps: TypeAlias = Literal["last", "mean", "least", "product"]


class ScoringBackend(VllmBackend):
    """One reward model at one server. Used from one event loop.

    Args:
        task: which endpoint, see above; the rest as for :class:`VllmBackend`.
        field: of a ``json`` answer: names and places with dots in between.
        label: of ``classify``: which class is "good"; default: the last.
        steps: of ``pooling`` with a number for each step: the last one's (process rewards are often given
            for all that came before), their mean, the least, or their product.

    Raises:
        UsageError: as VllmBackend's.
    """

    cuts: bool = False
    scores: bool = True

    def __init__(
        self,
        name: str,
        *,
        base_url: str,
        task: Task = "score",
        field: str = "score",
        label: int = -1,
        steps: Steps = "last",
        **options: Any,
    ) -> None:
        super().__init__(name, base_url=base_url, **options)
        self._task = task
        self._field, self._label, self._steps = field, label, steps

    async def complete(self, request: Request) -> Completion:
        """The score of the conversation's last turn, as text.

        Raises:
            BackendError: a leaf of it, by cause.
            UsageError: the conversation does not end with an answer.
        """
        session = await self._connected()
        content = dumped(self._body(request))
        start = time.perf_counter()
        failure: BackendError
        try:
            async with asyncio.timeout(self._timeout):
                status, headers, answer = await self._send(session.post, self._endpoint(), content)
            if status < 300:
                data = decode(answer)
                score = self._score(data)
                usage = usage_of(_with_completion(data.get("usage"))) if isinstance(data, dict) else None
                return Completion(
                    repr(score), usage=usage, model=self.name, seconds=time.perf_counter() - start
                )
            failure = self._error(status, headers, answer)
        except BackendError as error:
            failure = error
        except TimeoutError:
            failure = self._too_slow()
        raise failure

    def _endpoint(self) -> str:
        if self._task != "json":
            return self._url(f"/{self._task}")
        query = self.address.query
        return f"{self.address.shown}?{urlencode(query)}" if query else self.address.shown

    def _body(self, request: Request) -> dict[str, Any]:
        messages = request.messages
        if len(messages) < 2 or messages[-1].role != "assistant":
            raise UsageError(f"{self!r} scores an answer: the conversation must end with one")
        question = "\n\n".join(text_of(message.content) for message in messages[:-1])
        answer = text_of(messages[-1].content)
        conversation = [message.as_dict() for message in messages]
        if self._task == "score":
            return {"model": self.name, "text_1": question, "text_2": answer}
        if self._task == "json":
            return {"model": self.name, "messages": conversation, "question": question, "answer": answer}
        return {"model": self.name, "messages": conversation, "add_generation_prompt": False}

    def _score(self, data: Any) -> float:
        try:
            if self._task == "json":
                found = data
                for part in self._field.split("."):
                    found = found[int(part)] if isinstance(found, list) else found[part]
                return _number(found)
            row = data["data"][0]
            if self._task == "score":
                return _number(row["score"])
            if self._task == "classify":
                return _number(row["probs"][self._label])
            return self._pooled(row["data"])
        except (KeyError, IndexError, TypeError, ValueError):
            pass
        where = f"the field {self._field!r}" if self._task == "json" else f"an answer of /{self._task}"
        raise BadResponse(f"{self._where}: {where} holds no score")

    def _pooled(self, data: Any) -> float:
        if isinstance(data, int | float):
            return _number(data)
        # A row of a step holds its score, or its classes' with the good one last.
        steps = [_number(row[-1] if isinstance(row, list) else row) for row in data]
        if self._steps == "mean":
            return sum(steps) / len(steps)
        if self._steps == "least":
            return min(steps)
        return math.prod(steps) if self._steps == "product" else steps[-1]


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("no number")
    return float(value)


def _with_completion(usage: Any) -> Any:
    """Scoring completes nothing; some servers leave that count out."""
    return {"completion_tokens": 0} | usage if isinstance(usage, dict) else usage
