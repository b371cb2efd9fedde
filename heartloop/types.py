"""The words of HeartLoop as frozen, slotted records.

A *problem* is answered by *attempts*. Between the attempts of one *round* and those of the next a
judge gives *verdicts*, and a *cue* goes into the next round's feedback. A strategy ends with a
*solution*. Below the strategy, one attempt costs one or more *completions*, each the answer to a
*request* that the gateway sent to a backend, with its *usage* in tokens.

Everything here is plain data: no I/O, no model, no import from the rest of the package except
:mod:`heartloop.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cache
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, TypeVar

from heartloop.errors import UsageError

__all__ = [
    "Attempt",
    "Budget",
    "Completion",
    "ConfidenceCut",
    "Content",
    "ContentPart",
    "Cue",
    "Directive",
    "Emotion",
    "FinishReason",
    "Grading",
    "Intensity",
    "Message",
    "Problem",
    "Request",
    "Role",
    "Sampling",
    "Solution",
    "SpeechAct",
    "Spend",
    "StopReason",
    "TokenLogprob",
    "TraceConfidence",
    "Usage",
    "Valence",
    "Verdict",
    "changed",
    "text_of",
]

R = TypeVar("R")

Role: TypeAlias = Literal["system", "user", "assistant"]
FinishReason: TypeAlias = Literal["stop", "length", "cut", "content_filter", "refusal", "other"]
"""``"cut"``: by us, since the model's confidence fell (:class:`ConfidenceCut`)."""

ContentPart: TypeAlias = Mapping[str, Any]
"""One part of a multimodal message in OpenAI's content format: ``{"type": "text", "text": ...}`` or
``{"type": "image_url", "image_url": {"url": ...}}``."""

Content: TypeAlias = str | tuple[ContentPart, ...]
"""Text, or a tuple of parts."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})


def text_of(content: Content) -> str:
    """The text in ``content``: itself, or its text parts joined by newlines (images left out)."""
    if isinstance(content, str):
        return content
    return "\n".join(str(part["text"]) for part in content if part.get("type") == "text")


# --- affect ----------------------------------------------------------------------------------------


class Valence(Enum):
    """The sign of an emotion. HEART alternates it from round to round."""

    POSITIVE = "positive"
    NEGATIVE = "negative"

    @property
    def opposite(self) -> Valence:
        """What alternation takes next."""
        return Valence.NEGATIVE if self is Valence.POSITIVE else Valence.POSITIVE


class Emotion(Enum):
    """Ekman's six basic emotions (Ekman, "An argument for basic emotions", 1992)."""

    HAPPINESS = "happiness"
    SURPRISE = "surprise"
    SADNESS = "sadness"
    FEAR = "fear"
    ANGER = "anger"
    DISGUST = "disgust"

    @property
    def valence(self) -> Valence:
        """Positive for happiness and surprise, negative for the other four (as HEART groups them)."""
        positive = (Emotion.HAPPINESS, Emotion.SURPRISE)
        return Valence.POSITIVE if self in positive else Valence.NEGATIVE


class Intensity(Enum):
    """How strongly a cue is charged."""

    MILD = "mild"
    MODERATE = "moderate"
    STRONG = "strong"


class SpeechAct(Enum):
    """What a cue claims about the last answer."""

    ASSERT_WRONG = "assert_wrong"
    """Says that the answer was wrong. Only where an oracle said so (setting S1)."""
    INVITE_RECHECK = "invite_recheck"
    """Invites another look and claims nothing about the answer (setting S2)."""


class Directive(Enum):
    """What a cue asks the model to do."""

    CHECK = "check"
    """Check the work for errors."""
    ANOTHER_WAY = "another_way"
    """Solve it again by another way."""


@dataclass(frozen=True, slots=True)
class Cue:
    """One short feedback phrase, as a point in a factorial design.

    ``emotion`` and ``intensity`` stay set on an affect-free twin (they say which cell of the design
    it is the control for); ``affective`` is what tells the two apart.

    Attributes:
        id: stable name of the deck's entry, for example ``"anger-mild-assert_wrong-3"``; a twin has
            the same id as the cue it controls for.
        text: the wording that is sent.
        affective: True for the charged wording, False for its affect-free twin.
    """

    id: str
    emotion: Emotion | None
    intensity: Intensity | None
    speech_act: SpeechAct
    directive: Directive
    text: str
    affective: bool = True


# --- problems and requests -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """A question, and what is known about it.

    Attributes:
        id: unique within a run.
        question: text, or text and image parts in OpenAI's content format.
        reference: the right answer (or several acceptable ones) for oracle judges and scoring; None
            where it is unknown. Verifier-free judges are never handed it.
        kind: how answers to it are compared: ``"auto"``, ``"math"``, ``"number"``, ``"choice"``,
            ``"text"``, ``"code"``, ``"hle"``, ... (see ``heartloop_verifiers``).
        metadata: anything else; kept with the run, never sent to a model. Under ``"verify"`` it holds further
            options of the verifiers for this problem, see :mod:`heartloop.judges.verifying`.
        choices: texts of a multiple-choice question's options, in the order of their letters. They stand in
            the question too. An answer that names a letter becomes the option's text.
    """

    id: str
    question: Content
    reference: str | tuple[str, ...] | None = None
    kind: str = "auto"
    metadata: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    choices: tuple[str, ...] = ()

    def without_reference(self) -> Problem:
        """This problem as a verifier-free judge sees it: no reference, no metadata."""
        return Problem(self.id, self.question, None, self.kind, choices=self.choices)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: Content

    def as_dict(self) -> dict[str, Any]:
        """The turn in the wire format of chat completions."""
        content = self.content if isinstance(self.content, str) else [dict(part) for part in self.content]
        return {"role": self.role, "content": content}


@dataclass(frozen=True, slots=True)
class ConfidenceCut:
    """Leave an answer as soon as the model's confidence in it falls (DeepConf's early stop).

    Attributes:
        window: tokens that the mean is taken over; nothing is cut before so many.
        below: the threshold, in units of :attr:`TraceConfidence.lowest`.
    """

    window: int
    below: float


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw a completion. None leaves a setting to the backend, except ``max_tokens``.

    Attributes:
        temperature, top_p: as in chat completions.
        max_tokens: upper bound of completion tokens, reasoning included; always sent, since a
            reservation needs a worst case.
        stop: stop sequences.
        seed: per request; None sends none.
        logprobs: number of top alternatives to return per token (0: the chosen token alone; -1: the whole
            vocabulary, from a vLLM served with ``--max-logprobs -1``), or None.
        logprobs_as: ``"table"`` keeps them as they are; ``"summary"`` only :attr:`Completion.confidence` (and
            of a prompt's the last rows), which is what goes into a journal well.
        cut: leave the answer when the model's confidence falls; from backends that offer it.
        extra: further fields of the request body, passed through to backends that take them.
    """

    temperature: float | None = 0.7
    top_p: float | None = None
    max_tokens: int = 2048
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: int | None = None
    extra: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    logprobs_as: Literal["table", "summary"] = "table"
    cut: ConfidenceCut | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What a backend gets: one chat call that returns one completion."""

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()

    def as_dict(self) -> dict[str, Any]:
        """A canonical, JSON-ready picture of the request: what its fingerprint and the journal hold."""
        s = self.sampling
        sampling: dict[str, Any] = {"max_tokens": s.max_tokens}
        if s.temperature is not None:
            sampling["temperature"] = s.temperature
        if s.top_p is not None:
            sampling["top_p"] = s.top_p
        if s.seed is not None:
            sampling["seed"] = s.seed
        if s.logprobs is not None:
            sampling["logprobs"] = s.logprobs
        if s.stop:
            sampling["stop"] = list(s.stop)
        if s.logprobs_as != "table":
            sampling["logprobs_as"] = s.logprobs_as
        if s.cut is not None:
            sampling["cut"] = {"window": s.cut.window, "below": s.cut.below}
        if s.extra:
            sampling["extra"] = dict(s.extra)
        return {"model": self.model, "messages": [m.as_dict() for m in self.messages], "sampling": sampling}


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more completions.

    ``completion_tokens`` includes ``reasoning_tokens``; ``prompt_tokens`` includes ``cached_tokens``.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.cached_tokens + other.cached_tokens,
        )


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability of one completion token, and of its top alternatives (token, logprob)."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TraceConfidence:
    """What the log-probabilities of a completion's tokens say of it; see :mod:`heartloop.confidence`.

    A token's confidence is minus the mean log-probability of its top alternatives (DeepConf, arXiv
    2508.15260): higher is surer. Numbers in nats, rounded to four decimals.

    Attributes:
        tokens: tokens behind it; ``alternatives``: how many of each.
        logprob: mean log-probability of the tokens that were drawn.
        mean: mean confidence of the tokens.
        lowest: of the least sure window; ``bottom``: mean of the least sure tenth of all windows; ``tail``:
            of the last window.
        entropy: mean entropy of the tokens' distributions; what lies outside the alternatives counts as one.
        window: tokens in a window.
        self_certainty: mean divergence of the tokens' distributions from the uniform one (arXiv 2502.18581);
            None unless the whole vocabulary was returned.
    """

    tokens: int
    alternatives: int
    logprob: float
    mean: float
    lowest: float
    bottom: float
    tail: float
    entropy: float
    window: int
    self_certainty: float | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of a model to one request.

    Attributes:
        text: what the model said, without its reasoning where the backend separates the two.
        reasoning: the separated reasoning, or "".
        finish_reason: ``"length"`` means cut at ``max_tokens``.
        usage: None where the backend did not say (the reservation is then charged as assumed).
        model: the name the backend reported.
        seconds: from sending to the last byte.
        prompt_logprobs: of the prompt's tokens, where asked for (vLLM); None stands for the first, which
            nothing precedes.
        confidence: the log-probabilities summed up, where there were any.
        first_chunk: seconds until the answer began to come, where it was streamed. Not in the journal.
    """

    text: str
    finish_reason: FinishReason = "stop"
    usage: Usage | None = None
    model: str = ""
    reasoning: str = ""
    logprobs: tuple[TokenLogprob, ...] | None = None
    seconds: float = 0.0
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    confidence: TraceConfidence | None = None
    first_chunk: float | None = field(default=None, compare=False)


# --- attempts, verdicts, solutions -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge or a verifier says of one answer.

    Attributes:
        correct: True, False, or None for unknown (killed at its deadline, no reference, ...).
        score: graded judgement in [0, 1], or None.
        method: how it was reached: ``"text"``, ``"number"``, ``"sympy"``, ``"oracle:..."``, ...
        reason: for a person to read; always set when ``correct`` is None.
        prediction, reference: the normalised forms that were compared.
        seconds: time the verdict took.
    """

    correct: bool | None
    method: str
    reason: str = ""
    score: float | None = None
    prediction: str | None = None
    reference: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One answer to one problem.

    Attributes:
        problem_id: whose answer it is.
        branch: the branch it was made on, ``"0"``, ``"1"``, ...
        round: 1 for first attempts.
        cue: the cue that was in the feedback before it, or None.
        condition: the stimulus that went with the question, as ``"emotion_prompt/3"``; "" without one.
        feedback: the user's turn before it, word for word; "" for first attempts.
        text: what the model said, reasoning stripped.
        reasoning: the reasoning that was stripped.
        answer: the final answer extracted from ``text``; None where there is none.
        usage: tokens of the completions behind it.
        confidence: what the log-probabilities say of it, where a judge (or the caller) asked for them.
        verdict: the judge's, where it looked.
        score: the scorer's verdict, given after the run's decisions; never seen by strategy or judge.
    """

    problem_id: str
    branch: str
    round: int
    text: str
    answer: str | None
    cue: Cue | None = None
    condition: str = ""
    feedback: str = ""
    reasoning: str = ""
    finish_reason: FinishReason = "stop"
    usage: Usage = Usage()
    model: str = ""
    verdict: Verdict | None = None
    score: Verdict | None = None
    confidence: TraceConfidence | None = None


class StopReason(Enum):
    """Why a strategy ended."""

    VERIFIED = "verified"
    """A judge with knowledge said the answer is right."""
    STABLE = "stable"
    """Answers did not change for the number of rounds asked for."""
    AGREED = "agreed"
    """Answers agree so far that the leading one is taken for the mode. It need not be right."""
    CONFIDENT = "confident"
    """The attempts behind the leading answer are sure enough."""
    NO_GAIN = "no_gain"
    """Another attempt was expected to bring less than it costs."""
    SATISFIED = "satisfied"
    """The model, asked to criticise its answer, had nothing to change."""
    ROUNDS = "rounds"
    """All rounds were run."""
    BUDGET = "budget"
    """The budget ended; the solution is the best attempt so far."""
    FAILED = "failed"
    """A call failed for good; the solution is the best attempt so far, if any."""


@dataclass(frozen=True, slots=True)
class Grading:
    """What a grader's calls for a solution came to. It is measuring: in no figure of the method.

    Attributes:
        usage: tokens of its completions; ``calls``: how many.
        unfinished: why an answer could not be graded, in words; None where all were. Resuming the run grades
            the rest.
        budget: whether that was for want of budget.
    """

    usage: Usage = Usage()
    calls: int = 0
    unfinished: str | None = None
    budget: bool = False


@dataclass(frozen=True, slots=True)
class Solution:
    """What a strategy ends with.

    Attributes:
        problem_id: whose solution it is.
        answer: the final answer, or None where nothing was found.
        chosen: the attempt the answer comes from; for a synthesis, the synthesised one; None if none.
        attempts: every attempt, in order of round, then branch.
        stop_reason: why the strategy ended.
        error: what failed, in words, when ``stop_reason`` is FAILED.
        usage: tokens of all calls made for it (judges, synthesis and shared first attempts included).
        calls: number of completions behind it.
        verdict: the final answer's verdict by the scorer, where it has looked.
        grading: what a grader that asks a model has cost, apart from ``usage``; None without one.
    """

    problem_id: str
    answer: str | None
    chosen: Attempt | None
    attempts: tuple[Attempt, ...]
    stop_reason: StopReason
    error: str | None = None
    usage: Usage = Usage()
    calls: int = 0
    verdict: Verdict | None = None
    grading: Grading | None = None

    @property
    def correct(self) -> bool | None:
        """Whether the answer is right by the scorer; None where unknown."""
        return None if self.verdict is None else self.verdict.correct


# --- budgets ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on spending; None is no limit.

    Attributes:
        tokens: prompt and completion tokens together.
        calls: requests sent, retries included.
        seconds: wall-clock seconds.
        usd: money in US dollars; refused for models whose price is unknown.
    """

    tokens: int | None = None
    calls: int | None = None
    seconds: float | None = None
    usd: float | None = None

    def __post_init__(self) -> None:
        for name in ("tokens", "calls", "seconds", "usd"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"budget: {name} must be positive, not {value!r}; leave it out for no limit")

    @property
    def unlimited(self) -> bool:
        """Whether nothing is limited."""
        return self.tokens is None and self.calls is None and self.seconds is None and self.usd is None


@dataclass(frozen=True, slots=True)
class Spend:
    """An amount of spending. ``usd`` is None as soon as a part of it has no known price."""

    tokens: int = 0
    calls: int = 0
    usd: float | None = 0.0

    def __add__(self, other: Spend) -> Spend:
        usd = None if self.usd is None or other.usd is None else self.usd + other.usd
        return Spend(self.tokens + other.tokens, self.calls + other.calls, usd)


def changed(record: R, **changes: Any) -> R:
    """``dataclasses.replace`` in two thirds of its time, for records that every call makes some of.

    Raises:
        KeyError: it has no such field.
    """
    kind: Any = type(record)
    read, places = _layout(kind)
    values = list(read(record))
    for name, value in changes.items():
        values[places[name]] = value
    made: R = kind(*values)
    return made


@cache
def _layout(kind: type) -> tuple[Callable[[Any], tuple[Any, ...]], dict[str, int]]:
    """What reads all fields of a record of that kind, and each field's place among them."""
    names = [field.name for field in fields(kind)]
    return attrgetter(*names), {name: place for place, name in enumerate(names)}


def as_references(reference: str | Sequence[str] | None) -> tuple[str, ...]:
    """``reference`` as a tuple of acceptable answers (empty for None)."""
    if reference is None:
        return ()
    return (reference,) if isinstance(reference, str) else tuple(reference)
