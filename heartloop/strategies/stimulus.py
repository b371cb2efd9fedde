"""A stimulus with the question: EmotionPrompt (arXiv 2307.11760), NegativePrompt (arXiv 2405.02814),
StressPrompt (arXiv 2409.17167), and personas by the Big Five (arXiv 2307.00184)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from heartloop.engine.session import Session
from heartloop.strategies.base import accepted
from heartloop.strategies.stimuli import stimuli
from heartloop.strategies.stopping import StopRule, stop_now
from heartloop.types import Attempt, Problem, Solution, StopReason

__all__ = ["Stimulus"]


@dataclass(frozen=True, slots=True)
class Stimulus:
    """Independent attempts at the question with one sentence of a set; the papers make one attempt.

    Which sentence is drawn for each problem, uniformly: the decision with its propensity is in the journal,
    and each attempt names it (``condition``). So a run's accuracy is an estimate of the **mean over the
    set's sentences**, which is what is reported. The best of them, chosen after the fact, is not.

    Attributes:
        set: ``"emotion_prompt"``, ``"negative_prompt"``, ``"stress_prompt"`` or ``"persona"``.
        stimulus: the id of a sentence, for all problems; None draws.
        max_rounds, width, stop: as in resampling.
    """

    set: str
    stimulus: str | None = None
    max_rounds: int = 1
    width: int = 1
    stop: StopRule | None = None

    def __post_init__(self) -> None:
        known = stimuli(self.set)
        if self.stimulus is not None:
            known.text(self.stimulus)

    @property
    def name(self) -> str:
        return self.set

    async def solve(self, problem: Problem, session: Session) -> Solution:
        drawn = await session.decide(f"stimulus:{self.set}:{self.stimulus}", lambda: self._draw(session))
        line: list[Attempt] = []
        for round in range(1, self.max_rounds + 1):
            numbers = range((round - 1) * self.width, round * self.width)
            made = await session.gather(
                {k: self._attempt(session.branch(k), round, drawn["stimulus"]) for k in numbers}
            )
            if right := accepted(made.values()):
                return session.finish(right, StopReason.VERIFIED)
            line += made.values()
            if self.stop is not None and await stop_now(self.stop, [line], session):
                return session.finish(await session.select(), self.stop.reason)
        return session.finish(await session.select(), StopReason.ROUNDS)

    def _draw(self, session: Session) -> dict[str, Any]:
        if self.stimulus is not None:
            return {"stimulus": self.stimulus, "propensity": 1.0}
        known = list(stimuli(self.set).texts)
        return {"stimulus": session.random("stimulus").choice(known), "propensity": 1 / len(known)}

    async def _attempt(self, branch: Session, round: int, stimulus: str) -> Attempt:
        known = stimuli(self.set)
        attempt = await branch.respond(
            prompt=f"stimulus_{known.place}",
            context=[known.text(stimulus)],
            condition=f"{self.set}/{stimulus}",
            round=round,
        )
        return await branch.judge(attempt)
