"""A streamed answer, read as it comes, and left in the middle where its confidence falls.

Server-sent events of the chat-completions format: lines ``data: {...}``, ``data: [DONE]`` at the end. vLLM
tells the usage with every piece when asked (``continuous_usage_stats``), so an answer that is left has one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from heartloop.backends.wire import completion_of, decode, logprobs_of, refuse_broken_off
from heartloop.confidence import ConfidenceWatch
from heartloop.errors import BadResponse, ConnectionLost
from heartloop.types import Completion, TokenLogprob

__all__ = ["STREAMED", "StreamedAnswer"]

STREAMED: dict[str, Any] = {
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}
"""What a request's body has beyond the usual."""

_LONGEST_LINE = 1 << 22


class StreamedAnswer:
    """One answer's pieces.

    Attributes:
        cut: whether it was left because the confidence fell.
        error: status, headers and content of an error that came in the stream.
        first_chunk: when the first piece came, on the performance counter's clock.
    """

    def __init__(self, watch: ConfidenceWatch) -> None:
        self.cut = False
        self.error: tuple[int, Mapping[str, str], bytes] | None = None
        self.first_chunk: float | None = None
        self._watch = watch
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._rows: list[TokenLogprob] = []
        self._finish: Any = None
        self._usage: Any = None
        self._model: Any = None
        self._done = False
        self._answered = False
        self._fed = self._begun = b""

    def feed(self, content: bytes) -> bool:
        """Take what has come; True when there is nothing more to read.

        Raises:
            BadResponse: it is no piece of an answer.
        """
        if not self._fed:
            self._fed = content[:3]
            content = content.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
        *lines, self._begun = (self._begun + content).split(b"\n")
        if len(self._begun) > _LONGEST_LINE:
            raise BadResponse("a line of the streamed answer has no end")
        return any(self._take(line.strip()) for line in lines)

    def _take(self, line: bytes) -> bool:
        if not line.startswith(b"data:"):
            return False  # blank lines, comments that keep the connection alive
        content = line[5:].strip()
        if content == b"[DONE]":
            self._done = True
            return True
        piece = decode(content)
        if not isinstance(piece, dict):
            raise BadResponse("a piece of the streamed answer is no object")
        if error := piece.get("error"):
            code = error.get("code") if isinstance(error, dict) else None
            self.error = (code if isinstance(code, int) and 400 <= code < 600 else 500, {}, content)
            return True
        if self.first_chunk is None:
            self.first_chunk = time.perf_counter()
        self._usage = piece.get("usage") or self._usage
        self._model = piece.get("model") or self._model
        choices = piece.get("choices")
        if isinstance(choices, list) and choices:
            self._add(choices[0])
        return self.cut

    def _add(self, choice: Any) -> None:
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if not isinstance(delta, dict):
            raise BadResponse("a piece of the streamed answer has no delta")
        for parts, names in (
            (self._text, ("content",)),
            (self._reasoning, ("reasoning_content", "reasoning")),
            (self._refusal, ("refusal",)),
        ):
            value = next((delta[name] for name in names if delta.get(name)), "")
            if not isinstance(value, str):
                raise BadResponse("a piece of the streamed answer is not text")
            parts.append(value)
        self._answered = True
        refuse_broken_off(choice)
        self._finish = choice.get("finish_reason") or self._finish
        for row in logprobs_of(choice.get("logprobs")) or ():
            self._rows.append(row)
            self.cut = self.cut or self._watch.falls(row)

    def completion(self, *, start: float) -> Completion:
        """The whole answer, or what there is of one that was left; asked for at ``start``.

        Raises:
            BadResponse: it is no streamed answer, or one without choices.
            ConnectionLost: the stream ended before the answer did.
        """
        if not (self._done or self.cut):
            with suppress(BadResponse):  # half a line is no whole answer
                self._take(self._begun.strip())
        if not (self._done or self.cut or self._finish):
            if self._fed and not self._answered:
                raise BadResponse("the answer is no stream of events")
            raise ConnectionLost("the streamed answer broke off")
        if not self._answered:
            raise BadResponse("the streamed answer has no choices")
        seconds = time.perf_counter() - start
        message = {
            "content": "".join(self._text),
            "reasoning": "".join(self._reasoning),
            "refusal": "".join(self._refusal),
        }
        whole = completion_of(
            {
                "choices": [{"message": message, "finish_reason": self._finish}],
                "usage": self._usage,
                "model": self._model,
            },
            seconds=seconds,
        )
        return Completion(
            text=whole.text,
            finish_reason="cut" if self.cut and self._finish is None else whole.finish_reason,
            usage=whole.usage,
            model=whole.model,
            reasoning=whole.reasoning,
            logprobs=tuple(self._rows) or None,
            seconds=seconds,
            first_chunk=None if self.first_chunk is None else self.first_chunk - start,
        )
