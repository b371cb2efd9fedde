"""A model that judges, with known faults: little skill, a liking for what comes first, popular mistakes."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from heartloop.simulation.crowds import RIGHT, TEMPTING
from heartloop.types import Request, text_of

__all__ = ["Critic"]

_PROBLEM = re.compile(r"Problem \S+\?")
_ANSWER = re.compile(r"^Final answer: (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Critic:
    """Plays the role ``judge`` for the prompts of HeartLoop's own judges, by a scripted backend.

    It reads the candidates' final answers in the order in which they are shown, feels a merit for each, and
    says what is asked for: a rating, two ratings, or a choice.

    Attributes:
        skill: standard deviations between the merit of right and of wrong candidates.
        first: added to whichever is shown first (negative: last).
        tempted: added to the tempting answer: the judge makes the same mistakes as the model it judges.
        noise: standard deviation of a merit's error.
        stubborn: share of that error's variance that belongs to the answer, however often it is asked about:
            what asking again can't mend. The rest is drawn anew in each call.
    """

    skill: float = 1.5
    first: float = 0.0
    tempted: float = 0.0
    noise: float = 1.0
    stubborn: float = 0.5

    def script(self, seed: int = 0) -> Callable[[Request], str]:
        """For :class:`heartloop.backends.scripted.ScriptedBackend`; the same request gets the same answer."""

        def answer(request: Request) -> str:
            prompt = text_of(request.messages[-1].content)
            rng = random.Random(f"{seed}/{request.sampling.seed}/{prompt}")
            problem = _PROBLEM.search(prompt)
            where = f"{seed}/{'' if problem is None else problem.group()}"
            merits = [
                self.skill * (found == RIGHT)
                + self.tempted * (found == TEMPTING)
                + self.first * (place == 0)
                + self.noise * math.sqrt(self.stubborn) * random.Random(f"{where}/{found}").gauss(0, 1)
                + self.noise * math.sqrt(1 - self.stubborn) * rng.gauss(0, 1)
                for place, found in enumerate(_ANSWER.findall(prompt))
            ]
            if "Score A" in prompt:
                return "\n".join(
                    f"Score {name}: {_rating(merit)}" for name, merit in zip("AB", merits, strict=True)
                )
            if "Score: " in prompt:
                return f"Score: {_rating(merits[0])}"
            return f"Choice: {max(range(len(merits)), key=merits.__getitem__) + 1}"

        return answer


def _rating(merit: float) -> int:
    return min(9, max(0, round(4.5 + 1.5 * (merit - 0.75))))
