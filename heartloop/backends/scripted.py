"""A fake that answers as it is told: for tests of programs that use HeartLoop, and for its own."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from heartloop.backends.base import bytes_bound
from heartloop.confidence import ConfidenceWatch
from heartloop.errors import UnknownRequest, UsageError
from heartloop.types import Completion, Message, Request, Usage, text_of

__all__ = ["Answer", "Script", "ScriptedBackend"]

Answer: TypeAlias = str | Completion | Exception
"""What a script gives for one request: the text, the whole completion, or an exception to raise."""

Script: TypeAlias = Callable[[Request], Answer | Awaitable[Answer]] | Sequence[Answer] | Mapping[str, Answer]
"""A function of the request; answers in the order of the requests; or answers by a piece of the question."""

_WORD = re.compile(r"\S+")


class ScriptedBackend:
    """Answers from a script, the same way every time.

    * A callable is given the :class:`~heartloop.types.Request`; it may be ``async``.
    * A sequence is used up in order.
    * A mapping is searched, in its order, for the first key that occurs in the last user message, then
      for one in an earlier user message (so that rounds of a loop find their question).

    A text is cut after ``max_tokens`` words with finish reason ``"length"``, as a model would be. Words
    (runs without white space) stand for tokens in the usage, unless a Completion brings its own.

    Attributes:
        requests: every request, in the order in which they came, if they are kept.
        running, peak: calls in flight now, and the most there have been.
        cancelled: how many calls were cancelled in flight.
    """

    real: bool = False
    cuts: bool = True

    def __init__(
        self,
        script: Script,
        *,
        name: str = "scripted",
        latency: float | Callable[[Request], float] = 0.0,
        max_concurrency: int | None = None,
        context_tokens: int | None = None,
        keep_requests: bool = True,
    ) -> None:
        """
        Args:
            latency: seconds before an answer, or a function of the request that returns them.
            keep_requests: False where they are so many that memory counts.

        Raises:
            UsageError: the script is none of the three kinds.
        """
        if isinstance(script, str | bytes) or not (
            callable(script) or isinstance(script, Sequence | Mapping)
        ):
            raise UsageError(
                "a script is a function of the request, a sequence of answers, or a mapping from a piece of "
                f"the question to its answer, not {type(script).__name__}"
            )
        self.name = name
        self.max_concurrency = max_concurrency
        self.context_tokens = context_tokens
        self.requests: list[Request] = []
        self.running = 0
        self.peak = 0
        self.cancelled = 0
        self._script = script
        self._left: Iterator[Answer] | None = iter(script) if isinstance(script, Sequence) else None
        self._latency = latency
        self._keep_requests = keep_requests
        self._asked = 0
        self._closed = False

    def __repr__(self) -> str:
        return f"ScriptedBackend(name={self.name!r}, requests={self._asked})"

    async def complete(self, request: Request) -> Completion:
        """The script's answer; an exception in its place is raised.

        Raises:
            UnknownRequest: the script has no answer to this request, or none left.
        """
        if self._closed:
            raise UsageError(f"{self!r} is closed")
        self._asked += 1
        if self._keep_requests:
            self.requests.append(request)
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            # Looked up before waiting: the order of a sequence is that of the requests.
            answer = self._answer(request)
            seconds = self._latency(request) if callable(self._latency) else self._latency
            await asyncio.sleep(seconds)
            if inspect.isawaitable(answer):
                answer = await answer
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        if isinstance(answer, Exception):
            raise answer
        return self._completion(request, answer)

    def _answer(self, request: Request) -> Answer | Awaitable[Answer]:
        if self._left is not None:
            try:
                return next(self._left)
            except StopIteration:
                raise UnknownRequest(
                    f"the script of {self.name!r} ran dry: request number {self._asked} has no answer"
                ) from None
        if isinstance(self._script, Mapping):
            asked = [text_of(m.content) for m in reversed(request.messages) if m.role == "user"]
            for text in asked:
                for piece, answer in self._script.items():
                    if piece in text:
                        return answer
            shown = asked[0][:80] if asked else ""
            raise UnknownRequest(f"the script of {self.name!r} has no answer to {shown!r}")
        assert callable(self._script)
        return self._script(request)

    def _completion(self, request: Request, answer: Answer) -> Completion:
        if isinstance(answer, Completion):
            answer = _cut(request, answer)
            given = answer if answer.model else replace(answer, model=self.name)
            return given if given.usage is not None else replace(given, usage=_usage(request, given))
        if not isinstance(answer, str):
            raise UsageError(
                f"the script of {self.name!r} answered with a {type(answer).__name__}, "
                "not with a str, Completion or Exception"
            )
        words = [match.end() for match in _WORD.finditer(answer)]
        limit = request.sampling.max_tokens
        if len(words) > limit:
            completion = Completion(answer[: words[limit - 1]], "length", model=self.name)
        else:
            completion = Completion(answer, model=self.name)
        return replace(completion, usage=_usage(request, completion))

    def prompt_tokens_bound(self, messages: tuple[Message, ...]) -> int:
        return bytes_bound(messages)

    async def aclose(self) -> None:
        self._closed = True


def _cut(request: Request, answer: Completion) -> Completion:
    """``answer`` as far as the request's confidence cut lets it go."""
    cut, rows = request.sampling.cut, answer.logprobs
    if cut is None or rows is None:
        return answer
    watch = ConfidenceWatch(cut)
    for place, row in enumerate(rows, 1):
        if watch.falls(row):
            text = "".join(shown.token for shown in rows[:place])
            return replace(answer, text=text, finish_reason="cut", logprobs=rows[:place], usage=None)
    return answer


def _usage(request: Request, completion: Completion) -> Usage:
    prompt = sum(len(text_of(message.content).split()) for message in request.messages)
    reasoning = len(completion.reasoning.split())
    return Usage(prompt, len(completion.text.split()) + reasoning, reasoning_tokens=reasoning)
