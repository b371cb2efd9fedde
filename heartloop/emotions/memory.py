"""Emotional memory: corrections that worked before, found again by likeness of problem and of emotion.

What is remembered is what came of cues: an answer was wrong, a cue of some emotion followed, and the next
answer was right or not. For a new problem, each memory weighs by how much its problem's words are like the
new one's (cosine of TF-IDF vectors, Salton and Buckley 1988) and how close its emotion is to that of the last
cue (:mod:`heartloop.emotions.personality`). An emotion's worth is its weighted rate of success, shrunk to the
mean; the draw favours what worked, with known chances. The phrase is that of the most alike correction that
worked, where the deck has it for the speech act.

**Where labels come from.** Knowing what worked is knowing what was right. With an oracle (S1) the run's own
problems may be remembered (``memory``). Without one (S2) only another, labelled run may be
(``memory:FOLDER``), and none of its problems may be among those being solved: otherwise references leak into
answers that are counted as found without them. Both are refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heartloop.emotions.choosing import Choosing, ChoosingSequence, Chosen, Situation, suffix
from heartloop.emotions.controls import IRRELEVANT
from heartloop.emotions.deck import Deck
from heartloop.emotions.outcomes import Outcome
from heartloop.emotions.personality import coordinates, distance
from heartloop.errors import UsageError
from heartloop.types import Attempt, Cue, Emotion, Intensity, Problem, SpeechAct, text_of

if TYPE_CHECKING:
    from heartloop.journal.reader import JournalReader

__all__ = ["EmotionalMemory", "Memory", "likeness", "memory_in"]

_WORD = re.compile(r"\w+")
_SHRINK = 2.0
"""How many memories the mean rate of success counts for."""
_SHARPNESS = 0.1
"""By how much more success an emotion must have led to be drawn e times as often."""
_FLOOR = 0.2
"""Share of the draws that is uniform."""


@dataclass(frozen=True, slots=True)
class EmotionalMemory:
    """What is remembered.

    Attributes:
        trials: wrong answers that a cue followed, and what came of it (reward 1: right).
        problems: ids of all problems that had a label, ``questions`` their texts' hashes: for the check
            that none of them is solved with it.
        source: for messages.
    """

    trials: tuple[Outcome, ...]
    problems: frozenset[str] = frozenset()
    questions: frozenset[str] = frozenset()
    source: str = "this run"

    @classmethod
    def from_run(cls, folder: str | Path) -> EmotionalMemory:
        """What a finished, labelled run has to teach.

        Raises:
            UsageError: there is no run, it has no labels, or no wrong answer in it was followed by a cue.
            JournalError: its journal can't be read.
        """
        from heartloop.journal.reader import JournalReader
        from heartloop.runs.run import journal_in

        with JournalReader(journal_in(folder)) as journal:
            trials, labelled = _trials(journal)
        if not labelled:
            raise UsageError(
                f"{folder}: none of its problems has a reference, so nothing says which corrections worked"
            )
        if not trials:
            raise UsageError(f"{folder}: no answer known to be wrong was followed by an emotional cue")
        ids, questions = zip(*labelled.items(), strict=True)
        return cls(tuple(trials), frozenset(ids), frozenset(questions), str(folder))

    def check_disjoint(self, problem: Problem) -> None:
        """Refuse to serve a problem that is remembered.

        Raises:
            UsageError: it is, by id or by its question.
        """
        if problem.id in self.problems or question_hash(problem) in self.questions:
            raise UsageError(
                f"problem {problem.id!r} is itself in the memory from {self.source}: its reference would "
                "leak into its answer. Remember only problems that are not among those being solved"
            )

    def chances(self, question: str, last: Emotion | None) -> dict[Emotion, float]:
        """The chance of each emotion for a problem like ``question``, after the emotion ``last``."""
        mean = (1 + sum(t.reward for t in self.trials)) / (2 + len(self.trials))
        won = dict.fromkeys(Emotion, _SHRINK * mean)
        weight = dict.fromkeys(Emotion, _SHRINK)
        for trial, alike in zip(self.trials, self._alike(question), strict=True):
            alike *= _closeness(trial.emotion, last)
            won[trial.emotion] += alike * trial.reward
            weight[trial.emotion] += alike
        worth = {e: math.exp(won[e] / weight[e] / _SHARPNESS) for e in Emotion}
        whole = sum(worth.values())
        return {e: _FLOOR / len(Emotion) + (1 - _FLOOR) * worth[e] / whole for e in Emotion}

    def phrases(self, question: str, emotion: Emotion) -> list[str]:
        """Ids of cues of ``emotion`` that worked, those from the most alike problems first."""
        worked = [
            (alike, trial.cue)
            for trial, alike in zip(self.trials, self._alike(question), strict=True)
            if trial.emotion is emotion and trial.reward == 1 and alike > 0
        ]
        return list(dict.fromkeys(cue for _, cue in sorted(worked, key=lambda found: (-found[0], found[1]))))

    def _alike(self, question: str) -> list[float]:
        return likeness(question, [trial.question for trial in self.trials])


def _trials(journal: JournalReader) -> tuple[list[Outcome], dict[str, str]]:
    """(trials, id to question hash of every labelled problem)."""
    trials: list[Outcome] = []
    labelled: dict[str, str] = {}
    for result in journal.results():
        problem = journal.problem(result.problem)
        if problem is None or problem.reference is None:
            continue
        labelled[problem.id] = question_hash(problem)
        rows: Mapping[tuple[str, int], Any] = {(r["branch"], r["round"]): r for r in result.data["attempts"]}
        for (branch, round), row in sorted(rows.items()):
            before = rows.get((branch, round - 1)) or rows.get(("0", round - 1))
            if before is None or before.get("correct") is not False or row.get("correct") is None:
                continue
            beside_the_point = str(row.get("cue")).startswith(IRRELEVANT)
            if row.get("affective") and row.get("emotion") is not None and not beside_the_point:
                emotion, question = Emotion(row["emotion"]), text_of(problem.question)
                trials.append(Outcome(emotion, float(row["correct"]), question, row["cue"]))
    return trials, labelled


def question_hash(problem: Problem) -> str:
    """Equal for questions of the same images that differ in space, case or width of characters alone."""
    question = problem.question
    shown = [] if isinstance(question, str) else [part for part in question if part.get("type") != "text"]
    words = "".join(unicodedata.normalize("NFKC", text_of(question)).casefold().split())
    pictures = json.dumps([dict(part) for part in shown], sort_keys=True, default=repr) if shown else ""
    return hashlib.sha256(f"{words}\0{pictures}".encode("utf-8", "surrogatepass")).hexdigest()


def likeness(question: str, others: Sequence[str]) -> list[float]:
    """Cosine of TF-IDF vectors (words, lower case) of ``question`` with each of ``others``, from 0 to 1."""
    texts = [Counter(_words(text)) for text in (question, *others)]
    documents = Counter(word for text in texts for word in text)
    idf = {word: math.log((1 + len(texts)) / (1 + count)) + 1 for word, count in documents.items()}

    def norm(text: Mapping[str, int]) -> float:
        return math.sqrt(sum((count * idf[word]) ** 2 for word, count in text.items()))

    mine, size = texts[0], norm(texts[0])
    found = []
    for other in texts[1:]:
        dot = sum(mine[word] * other[word] * idf[word] ** 2 for word in mine.keys() & other.keys())
        found.append(dot / (size * norm(other)) if dot else 0.0)
    return found


@lru_cache(maxsize=4096)
def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.lower()))


def _closeness(a: Emotion, b: Emotion | None) -> float:
    return 1.0 if b is None else math.exp(-(distance(coordinates(a), coordinates(b)) ** 2))


@dataclass(frozen=True, slots=True)
class Memory:
    """The rotation. ``folder`` is that of a labelled run; "" remembers this run's own problems (S1 only)."""

    folder: str = ""
    intensity: Intensity = Intensity.MODERATE
    memory: EmotionalMemory | None = None

    @property
    def name(self) -> str:
        folder = f":{self.folder}" if self.folder else ""
        return f"memory{folder}{suffix(self.intensity)}"

    @property
    def needs_oracle(self) -> bool:
        """Whether it learns from the run's own verdicts, which must then know the reference."""
        return not self.folder and self.memory is None

    def check(self, *, oracle: bool, problem: Problem | None = None) -> None:
        """Whether it can be used, asked before a run begins and before each problem's first call.

        Raises:
            UsageError: it learns from an oracle and there is none, the folder has nothing to teach, or
                ``problem`` is remembered itself.
        """
        if self.needs_oracle and not oracle:
            raise UsageError(NEEDS_ORACLE)
        memory = self._loaded()
        if memory is not None and problem is not None:
            memory.check_disjoint(problem)

    def start(self, deck: Deck, rng: random.Random) -> ChoosingSequence:
        return _Remembering(self.name, deck, self.intensity, rng.getrandbits(64), self._loaded())

    def _loaded(self) -> EmotionalMemory | None:
        return _from_run(self.folder) if self.memory is None and self.folder else self.memory


def memory_in(rotation: object) -> Memory | None:
    """The memory that a rotation draws from, also one that another rotation changes the cues of."""
    while rotation is not None and not isinstance(rotation, Memory):
        rotation = getattr(rotation, "of", None)
    return rotation


@lru_cache(maxsize=8)
def _from_run(folder: str) -> EmotionalMemory:
    return EmotionalMemory.from_run(folder)


class _Remembering(Choosing):
    def __init__(
        self, name: str, deck: Deck, intensity: Intensity, seed: int, memory: EmotionalMemory | None
    ) -> None:
        super().__init__(name, deck, intensity, seed)
        self.memory = memory
        self.entries = {entry.id: entry for entry in deck.entries}

    @property
    def state(self) -> dict[str, Any]:
        held = [] if self.memory is None else [[t.emotion.value, t.reward, t.cue] for t in self.memory.trials]
        mark = hashlib.sha256(repr(held).encode()).hexdigest()[:16]
        return {**super().state, "memory": mark, "trials": len(held)}

    def chances(self, situation: Situation, line: Sequence[Attempt]) -> Mapping[Emotion, float]:
        last = line[-1].cue if line else None
        question = text_of(situation.problem.question)
        return self._memory(situation).chances(question, None if last is None else last.emotion)

    def choose(self, situation: Situation, rng: random.Random) -> list[Chosen]:
        chosen = super().choose(situation, rng)
        question, memory = text_of(situation.problem.question), self._memory(situation)
        used = {attempt.cue.id for line in situation.lines for attempt in line if attempt.cue is not None}
        for draw in chosen:
            draw["worked"] = _unused(memory.phrases(question, Emotion(draw["emotion"])), used)
            used |= set(draw["worked"])
        return chosen

    def deal(self, chosen: Sequence[Chosen], speech_acts: Sequence[SpeechAct]) -> tuple[Cue, ...]:
        dealt = super().deal(chosen, speech_acts)
        return tuple(
            self._worked(draw["worked"], cue) or cue for draw, cue in zip(chosen, dealt, strict=True)
        )

    def _worked(self, ids: Iterable[str], cue: Cue) -> Cue | None:
        for id in ids:
            entry = self.entries.get(id)
            if entry is not None and entry.cue.speech_act is cue.speech_act:
                return entry.cue
        return None

    def _memory(self, situation: Situation) -> EmotionalMemory:
        if self.memory is not None:
            return self.memory
        mine = situation.problem.id
        return EmotionalMemory(tuple(outcome for id, outcome in situation.outcomes if id != mine))


def _unused(ids: Iterable[str], used: set[str]) -> list[str]:
    """The first that this problem has not seen; at most one."""
    return next(([id] for id in ids if id not in used), [])


NEEDS_ORACLE = (
    "rotation 'memory' without a folder learns from the run's own verdicts, so it needs an oracle that gates "
    "(setting S1). Without one, name a labelled run whose problems are not among these: memory:FOLDER"
)
"""What is said where an oracle is lacking."""
