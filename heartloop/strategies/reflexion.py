"""Reflexion (arXiv 2303.11366): fresh trials that carry notes in words on the trials before."""

from __future__ import annotations

from dataclasses import dataclass

from heartloop.engine.session import Session
from heartloop.strategies.base import accepted
from heartloop.strategies.consult import consult
from heartloop.strategies.stopping import StopRule, stop_now
from heartloop.types import Attempt, Problem, Solution, StopReason

__all__ = ["Reflexion"]


@dataclass(frozen=True, slots=True)
class Reflexion:
    """A trial does not see earlier answers, only what the model noted of them. Two calls a round after the
    first: the reflection and the trial.

    Attributes:
        max_rounds: trials at most.
        memory: how many notes are carried, the latest (the paper keeps one to three).
        stop: a rule that may end the loop before its last trial.
    """

    max_rounds: int = 6
    memory: int = 3
    stop: StopRule | None = None
    name: str = "reflexion"

    async def solve(self, problem: Problem, session: Session) -> Solution:
        branch = session.branch(0)
        trials: list[Attempt] = [await branch.judge(await branch.respond())]
        notes: list[str] = []
        while not (right := accepted(trials)):
            if self.stop is not None and await stop_now(self.stop, [trials], session):
                return session.finish(await session.select(), self.stop.reason)
            if len(trials) == self.max_rounds:
                return session.finish(await session.select(), StopReason.ROUNDS)
            request = f"reflection_{branch.speech_act(trials[-1]).value}"
            round = len(trials) + 1
            notes.append(await consult(branch, request, problem, [trials[-1].text], round=round))
            trial = await branch.respond(prompt="reflexion", context=notes[-self.memory :], round=round)
            trials.append(await branch.judge(trial))
        return session.finish(right, StopReason.VERIFIED)
