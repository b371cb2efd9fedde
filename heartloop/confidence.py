"""What the log-probabilities of an answer's tokens say of it, in a few numbers.

The table itself (20 alternatives for each token) is a hundred times the answer; what judges need of it is
a :class:`~heartloop.types.TraceConfidence`. So it is summed up where the completion arrives, and only the
sum goes into the journal, unless the table was asked for.

A token's confidence is minus the mean log-probability of its k likeliest alternatives, as in DeepConf (arXiv
2508.15260, equation 2): the more the model is sure of one token, the less is left for the others. A
group's is the mean over a window of tokens that slides by one. The paper's window of 2,048 tokens suits
traces of tens of thousands; here it is an eighth of the trace, between 16 and 2,048.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from heartloop.types import Completion, ConfidenceCut, Sampling, TokenLogprob, TraceConfidence

__all__ = [
    "PROMPT_ROWS",
    "WHOLE_VOCABULARY",
    "ConfidenceWatch",
    "confidence_of",
    "summed_up",
    "token_confidence",
    "window_for",
]

WHOLE_VOCABULARY = -1
"""As a number of alternatives: all of them (vLLM, served with ``--max-logprobs -1``)."""

PROMPT_ROWS = 128
"""Of a summed-up prompt's log-probabilities so many are kept, the last ones."""

_FLOOR = -60.0
"""Servers write minus infinity as any number; one such alternative must not outweigh all others."""

_LEAST_VOCABULARY = 256
"""No vocabulary is smaller than the bytes: fewer alternatives are not the whole distribution."""

_SMALLEST_WINDOW, _LARGEST_WINDOW = 16, 2048
_BOTTOM = 0.1


def window_for(tokens: int) -> int:
    """The sliding window for a trace of so many tokens."""
    return max(1, min(tokens, max(_SMALLEST_WINDOW, min(_LARGEST_WINDOW, tokens // 8))))


def token_confidence(top: Sequence[tuple[str, float]]) -> float:
    """Minus the mean log-probability of a token's alternatives."""
    return -sum(max(value, _FLOOR) for _, value in top) / len(top)


def confidence_of(
    rows: Sequence[TokenLogprob] | None, *, alternatives: int | None = None
) -> TraceConfidence | None:
    """The summary of a completion's table; None where there is none, or it has no alternatives.

    Args:
        alternatives: how many were asked for. With :data:`WHOLE_VOCABULARY`, and rows long enough to be
            that, self-certainty is worked out too.
    """
    if not rows or len(rows[0].top) < 2:
        return None
    asked = alternatives if alternatives is not None and alternatives > 1 else None
    confidences, entropy, logprob, certainty = [], 0.0, 0.0, 0.0
    for row in rows:
        top = row.top[:asked] or (("", row.logprob),)
        confidences.append(token_confidence(top))
        entropy += _entropy(top)
        logprob += max(row.logprob, _FLOOR)
        # KL(uniform || p) = -mean(log p) - log V (arXiv 2502.18581).
        certainty += confidences[-1] - math.log(len(top))
    count = len(rows)
    window = window_for(count)
    groups = _sliding_means(confidences, window)
    groups.sort()
    worst = groups[: max(1, math.ceil(_BOTTOM * len(groups)))]
    whole = alternatives == WHOLE_VOCABULARY and min(len(row.top) for row in rows) >= _LEAST_VOCABULARY
    return TraceConfidence(
        tokens=count,
        alternatives=len(rows[0].top[:asked]),
        logprob=_rounded(logprob / count),
        mean=_rounded(sum(confidences) / count),
        lowest=_rounded(groups[0]),
        bottom=_rounded(sum(worst) / len(worst)),
        tail=_rounded(sum(confidences[-window:]) / window),
        entropy=_rounded(entropy / count),
        window=window,
        self_certainty=_rounded(certainty / count) if whole else None,
    )


def summed_up(completion: Completion, sampling: Sampling) -> Completion:
    """``completion`` with its table's summary, and, where a summary was asked for, without the table.

    Of a prompt's log-probabilities the last :data:`PROMPT_ROWS` stay then, without alternatives.
    """
    if completion.confidence is None and completion.logprobs:
        summary = confidence_of(completion.logprobs, alternatives=sampling.logprobs)
        completion = replace(completion, confidence=summary)
    if sampling.logprobs_as != "summary":
        return completion
    rows = completion.prompt_logprobs
    if rows is not None:
        rows = tuple(None if row is None else replace(row, top=()) for row in rows[-PROMPT_ROWS:])
    return replace(completion, logprobs=None, prompt_logprobs=rows)


class ConfidenceWatch:
    """Tells when a trace in the making falls below a threshold, token by token."""

    def __init__(self, cut: ConfidenceCut) -> None:
        self._cut = cut
        self._last: deque[float] = deque(maxlen=cut.window)
        self._sum = 0.0

    def falls(self, row: TokenLogprob) -> bool:
        """Take one more token: whether the window that ends with it lies below the threshold."""
        if not row.top:
            return False
        if len(self._last) == self._cut.window:
            self._sum -= self._last[0]
        self._last.append(token_confidence(row.top))
        self._sum += self._last[-1]
        return len(self._last) == self._cut.window and self._sum / self._cut.window < self._cut.below


def _sliding_means(values: Sequence[float], window: int) -> list[float]:
    total = sum(values[:window])
    means = [total / window]
    for place in range(window, len(values)):
        total += values[place] - values[place - window]
        means.append(total / window)
    return means


def _entropy(top: Sequence[tuple[str, float]]) -> float:
    """In nats; what lies outside the alternatives counts as one more, so it is never above the truth."""
    total, mass = 0.0, 0.0
    for _, value in top:
        value = min(0.0, max(value, _FLOOR))
        p = math.exp(value)
        mass += p
        total -= p * value
    rest = 1.0 - mass
    return total - rest * math.log(rest) if rest > 1e-9 else total


def _rounded(value: float) -> float:
    """Four decimals: more is noise (batches change the last digits), and costs bytes in every journal."""
    return round(value, 4)
