"""Emotional memory: what it recalls, and what it refuses to know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from heartloop.emotions import Deck, Emotion, EmotionalMemory, Memory, Neutral, Rotation, SpeechAct
from heartloop.emotions.memory import likeness
from heartloop.emotions.outcomes import Outcome
from heartloop.errors import UsageError
from heartloop.journal.sqlite import SqliteJournal
from heartloop.strategies.heart import Heart
from heartloop.types import Problem, Solution, StopReason
from tests.loop.helpers import answers_by_round, loop, run, scripted

DECK = Deck.default()


def cue_of(emotion: Emotion, act: SpeechAct = SpeechAct.INVITE_RECHECK) -> str:
    return next(e.id for e in DECK.entries if e.cue.emotion is emotion and e.cue.speech_act is act)


TRAINS = "A train leaves the station at noon and travels at 60 kilometres an hour."
APPLES = "Anna has seven apples and gives three apples to Bert."
MEMORY = EmotionalMemory(
    tuple(
        [Outcome(Emotion.FEAR, 1.0, TRAINS, cue_of(Emotion.FEAR))] * 4
        + [Outcome(Emotion.FEAR, 0.0, APPLES, cue_of(Emotion.FEAR))] * 4
        + [Outcome(Emotion.HAPPINESS, 1.0, APPLES, cue_of(Emotion.HAPPINESS))] * 4
        + [Outcome(Emotion.HAPPINESS, 0.0, TRAINS, cue_of(Emotion.HAPPINESS))] * 4
    ),
    frozenset({"old-1"}),
    source="another run",
)


def test_words_in_common_make_problems_alike() -> None:
    near, far, same, none = likeness(TRAINS, ["Another train leaves at noon.", APPLES, TRAINS, ""])
    assert same == pytest.approx(1)
    assert 1 > near > far >= none == 0


def test_what_worked_on_a_problem_like_this_comes_more_often() -> None:
    train = MEMORY.chances("When does the train reach the next station?", None)
    apple = MEMORY.chances("How many apples does Bert have?", None)
    assert train[Emotion.FEAR] > train[Emotion.HAPPINESS]
    assert apple[Emotion.HAPPINESS] > apple[Emotion.FEAR]
    assert sum(train.values()) == pytest.approx(1)
    assert min(train.values()) > 0.03


def test_an_emotion_near_the_last_one_is_remembered_better() -> None:
    fearful = EmotionalMemory(
        (Outcome(Emotion.FEAR, 1.0, TRAINS, "f"), Outcome(Emotion.HAPPINESS, 0.0, TRAINS, "h"))
    )
    near = fearful.chances(TRAINS, Emotion.ANGER)
    far = fearful.chances(TRAINS, Emotion.HAPPINESS)
    assert near[Emotion.FEAR] > far[Emotion.FEAR]


async def solve(problem: Problem, rotation: Rotation, **settings: Any) -> Solution:
    strategy = Heart(max_rounds=4, rotation=rotation)
    async with loop(scripted(answers_by_round(1, 2, 3, 4)), strategy=strategy, **settings) as held:
        return await held.solve(problem)


def test_the_phrase_that_worked_is_said_again_and_only_once() -> None:
    problem = Problem("new", "When does the train reach the next station?")
    phrases = set()
    for seed in range(12):
        solution = run(solve(problem, Memory(memory=MEMORY), seed=seed))
        ids = [a.cue.id for a in solution.attempts if a.cue is not None]
        assert ids.count(cue_of(Emotion.FEAR)) <= 1
        phrases |= set(ids)
    assert cue_of(Emotion.FEAR) in phrases


@pytest.mark.parametrize(
    "problem",
    [Problem("old-1", "Something else?"), Problem("new", "  a TRAIN leaves  now ")],
    ids=["id", "question"],
)
@pytest.mark.parametrize("judge", ["majority", "oracle"])
def test_a_problem_that_is_remembered_is_refused(problem: Problem, judge: str) -> None:
    from dataclasses import replace

    from heartloop.emotions.memory import question_hash

    memory = replace(MEMORY, questions=frozenset({question_hash(Problem("x", "A train leaves now"))}))
    given = replace(problem, reference="42")
    for rotation in (Memory(memory=memory), Neutral(Memory(memory=memory))):
        with pytest.raises(UsageError, match="would leak"):  # before anything is sent
            run(solve(given, rotation, judge=judge))


def test_questions_are_told_apart_by_their_images_and_not_by_their_spacing() -> None:
    from heartloop.emotions.memory import question_hash

    def asked(text: str, *images: str) -> str:
        pictures = [{"type": "image_url", "image_url": {"url": url}} for url in images]
        return question_hash(Problem("x", ({"type": "text", "text": text}, *pictures)))

    assert asked("What is 3 + 4 ?") == asked("what is 3+4?") == asked("What is \uff13 + 4?")
    assert asked("What is shown?", "data:1") == asked("What is  shown?", "data:1")
    assert len({asked("Shown?"), asked("Shown?", "data:1"), asked("Shown?", "data:2")}) == 3
    assert asked("\ud800?") != asked("\ud801?")


@pytest.mark.parametrize("settings", [{"judge": "majority"}, {"judge": "oracle", "score_after": True}])
def test_without_an_oracle_a_run_can_not_remember_itself(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="memory:FOLDER"):
        run(solve(Problem("p", TRAINS, reference="42"), Memory(), **settings))


def test_with_an_oracle_a_run_remembers_its_own_corrections() -> None:
    async def both() -> tuple[Solution, Solution]:
        strategy = Heart(max_rounds=4, rotation=Memory())
        script = answers_by_round(1, 42)
        async with loop(scripted(script), strategy=strategy, judge="oracle") as held:
            first = await held.solve(Problem("a", TRAINS, reference="42"))
            return first, await held.solve(Problem("b", TRAINS + " When?", reference="42"))

    first, second = run(both())
    assert (first.stop_reason, second.stop_reason) == (StopReason.VERIFIED, StopReason.VERIFIED)


def labelled_run(folder: Path, *, reference: str | None) -> Path:
    """A run's folder as the command line leaves it: problems and results of a loop of blind rounds."""
    folder.mkdir()
    problems = [Problem(f"old-{n}", f"{TRAINS} Case {n}?", reference=reference) for n in range(3)]
    path = folder / "journal.sqlite"
    journal = SqliteJournal.create(path, meta={})
    journal.add_problems(problems)
    journal.close()

    async def work() -> None:
        async with loop(
            scripted(answers_by_round(1, 42, 3)), strategy="heart", max_rounds=3, journal=path
        ) as held:
            for problem in problems:
                await held.solve(problem)

    run(work())
    return folder


def test_a_labelled_run_is_remembered_and_only_for_other_problems(tmp_path: Path) -> None:
    folder = labelled_run(tmp_path / "old", reference="42")
    memory = EmotionalMemory.from_run(folder)
    assert [trial.reward for trial in memory.trials] == [1.0, 1.0, 1.0]  # 42 to 3 was no correction
    assert memory.problems == {"old-0", "old-1", "old-2"}
    rotation = Memory(str(folder))
    fine = run(solve(Problem("new", "Another train?"), rotation))
    assert fine.stop_reason is StopReason.ROUNDS
    with pytest.raises(UsageError, match="would leak"):
        run(solve(Problem("old-1", "Another train?"), rotation))


def test_a_run_without_labels_has_nothing_to_teach(tmp_path: Path) -> None:
    folder = labelled_run(tmp_path / "old", reference=None)
    with pytest.raises(UsageError, match="none of its problems has a reference"):
        EmotionalMemory.from_run(folder)
    with pytest.raises(UsageError, match="no run here"):
        EmotionalMemory.from_run(tmp_path)
