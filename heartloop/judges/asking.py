"""What judges that call a model share: how candidates are shown, and how answers are asked for.

Candidates are hostile text. Each stands between lines that carry a mark which occurs in none of the texts,
so no candidate can close its own frame, whatever it says. Small models answer in many ways: where the
backend can hold them to a JSON schema it is asked to; what comes back is read tolerantly either way
(:mod:`heartloop.judges.reading`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

from heartloop.errors import ContextOverflow
from heartloop.judges.reading import BEST
from heartloop.responders.chat import LEAST_NEW_TOKENS, ends, room_left
from heartloop.types import Attempt, Completion, ContentPart, Message, Problem, text_of

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["Ask", "framed", "generate_fitting", "mark_for", "with_images"]

_LEAST_CHARACTERS = 200

Answer = Literal["choice", "score", "scores"]
_FIELDS: Mapping[Answer, tuple[str, ...]] = {
    "choice": ("choice",),
    "score": ("score",),
    "scores": ("score_a", "score_b"),
}


# --- showing candidates ----------------------------------------------------------------------------


def mark_for(*texts: str) -> str:
    """A short mark that occurs in none of ``texts``, and is always the same for the same texts."""
    state = blake2b("\0".join(texts).encode("utf-8", "surrogatepass"), digest_size=16)
    while True:
        mark = f"#{state.hexdigest()[:8]}"
        if not any(mark in text for text in texts):
            return mark
        state.update(b"again")


def framed(attempts: Sequence[Attempt], mark: str, limit: int, names: Sequence[str], what: str) -> str:
    """``attempts`` between marked lines, named in order; text and answer are each cut to their last ``limit``
    characters (an answer may be as long as its text)."""
    shown = []
    for name, attempt in zip(names, attempts, strict=True):
        text = ends([attempt.text], limit)
        answer = "none" if attempt.answer is None else ends([attempt.answer], limit)
        shown.append(
            f"[{what} {name} {mark}]\nFinal answer: {answer}\n\n{text}\n[end of {what.lower()} {name} {mark}]"
        )
    return "\n\n".join(shown)


def with_images(prompt: str, problem: Problem) -> Message:
    """The user's turn: ``prompt``, and the question's images after it."""
    if isinstance(problem.question, str):
        return Message("user", prompt)
    images: list[ContentPart] = [part for part in problem.question if part.get("type") != "text"]
    return Message("user", ({"type": "text", "text": prompt}, *images))


# --- asking ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """How a judge asks: a template of the ``judge`` prompts, and the kind of answer it wants.

    Attributes:
        think: reasons before the answer.
        structured: ask for JSON by a schema where the backend takes that.
        what: what a candidate is called in the prompt.
        names: names of the candidates in order; default: 1, 2, ...
        alternatives: top alternatives asked for each token of the answer; None: none.
    """

    template: str
    answer: Answer
    think: bool = True
    structured: bool = True
    what: str = "Solution"
    names: tuple[str, ...] | None = None
    alternatives: int | None = None

    async def __call__(
        self,
        problem: Problem,
        shown: Sequence[Attempt],
        session: Session,
        *,
        limit: int | None = None,
        shorten: bool = True,
    ) -> Completion:
        """Ask about ``shown``, each cut to its last ``limit`` characters at most.

        Raises:
            ContextOverflow: it does not fit, however short (or, without ``shorten``, as it is).
            BudgetExhausted, BackendError: see there.
        """
        as_json = self.structured and session.offers("judge", "structured_output")
        format = f"{self.answer}_{'json' if as_json else 'line'}{'' if self.think else '_only'}"
        # A rating is read from the table, also where the generator's are only summed up (--logprobs).
        sampling = replace(session.sampling("judge"), logprobs=self.alternatives, logprobs_as="table")
        if as_json:
            sampling = replace(
                sampling, extra={**sampling.extra, "response_format": self._schema(len(shown))}
            )
        names = self.names or tuple(str(number) for number in range(1, len(shown) + 1))
        question = text_of(problem.question)
        mark = mark_for(question, *(text for a in shown for text in (a.text, a.answer or "")))
        prompts = session.prompts

        def message(longest: int) -> Message:
            return with_images(
                prompts.fill(
                    "judge",
                    self.template,
                    question=question,
                    candidates=framed(shown, mark, longest, names, self.what),
                    mark=mark,
                    format=prompts.template("judge", format).strip(),
                ),
                problem,
            )

        longest = max(len(attempt.text) for attempt in shown)
        return await generate_fitting(
            session,
            message,
            longest if limit is None else min(limit, longest),
            role="judge",
            round=max(attempt.round for attempt in shown),
            sampling=sampling,
            shorten=shorten,
        )

    def _schema(self, count: int) -> dict[str, Any]:
        """OpenAI's ``response_format``, which vLLM and llama.cpp take as well."""
        lowest, highest = (1, count) if self.answer == "choice" else (0, BEST)
        number = {"type": "integer", "enum": list(range(lowest, highest + 1))}
        properties: dict[str, Any] = {"reasons": {"type": "string"}} if self.think else {}
        properties |= dict.fromkeys(_FIELDS[self.answer], number)
        schema = {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
        return {
            "type": "json_schema",
            "json_schema": {"name": self.answer, "schema": schema, "strict": True},
        }


async def generate_fitting(
    session: Session,
    message: Callable[[int], Message],
    longest: int,
    *,
    role: str,
    round: int,
    sampling: Any = None,
    shorten: bool = True,
) -> Completion:
    """A completion of ``message(limit)``, each candidate cut to its end as far as the context demands.

    Where the backend says how many new tokens would fit, and they are enough, so many are asked for.
    Otherwise candidates are cut by what its figures say, or by half where it gives none, and again if needed.

    Raises:
        ContextOverflow: not even the shortest fits (without ``shorten``: it does not fit as it is).
    """
    given = asked = sampling or session.sampling(role)
    limit = longest
    while True:
        try:
            return await session.generate([message(limit)], role=role, sampling=asked, round=round)
        except ContextOverflow as overflow:
            shortest = limit <= _LEAST_CHARACTERS
            least = LEAST_NEW_TOKENS if shortest else max(LEAST_NEW_TOKENS, given.max_tokens // 4)
            room = room_left(overflow)
            if room is not None and least <= room < asked.max_tokens:
                asked = replace(asked, max_tokens=room)
                continue
            if shortest or not shorten:
                raise
            kept = _kept(overflow, least)
        asked = given
        limit = max(_LEAST_CHARACTERS, int(limit * kept))


def _kept(overflow: ContextOverflow, least: int) -> float:
    """The share of the candidates' lengths to keep: three quarters at most, or each try gains too little."""
    if not overflow.context_tokens or not overflow.prompt_tokens:
        return 0.5
    return min(0.75, 0.9 * max(0, overflow.context_tokens - least) / overflow.prompt_tokens)
