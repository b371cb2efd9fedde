"""Rotations that draw with known chances: propensities, what they learn, and what the journal holds of it."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from heartloop import Model, RetryPolicy
from heartloop.backends.scripted import ScriptedBackend
from heartloop.emotions import Deck, Emotion, Irrelevant, Neutral, Phrase, Situation, rotation_from_spec
from heartloop.emotions.adaptive import best_chances, thompson, ucb
from heartloop.emotions.choosing import Choosing
from heartloop.emotions.deck import asserted_wrongness
from heartloop.emotions.outcomes import Outcome, Outcomes
from heartloop.emotions.personality import PERSONALITIES, coordinates, mood, temperament
from heartloop.engine.engine import Engine
from heartloop.engine.solving import Arm
from heartloop.errors import UnknownName
from heartloop.judges.majority import Majority
from heartloop.judges.oracle import Oracle
from heartloop.responders.chat import ChatResponder
from heartloop.strategies import strategy_from_name
from heartloop.strategies.prompts import Prompts
from heartloop.types import Attempt, Cue, Intensity, Problem, Request, SpeechAct, Valence, Verdict
from tests.loop.helpers import answers_by_round, boxed, by_text, run, same_text
from tests.support.memory_journal import MemoryJournal

DECK = Deck.default()
PROBLEM = Problem("p", "What is six times seven?")
W = SpeechAct.INVITE_RECHECK


def attempt(
    answer: str | None, *, cue: Cue | None = None, right: bool | None = None, round: int = 1
) -> Attempt:
    verdict = None if right is None else Verdict(right, "oracle")
    return Attempt("p", "0", round, "", answer, cue=cue, verdict=verdict)


def situation(*lines: list[Attempt], round: int = 0, outcomes: Outcomes | None = None) -> Situation:
    return Situation(PROBLEM, lines or ([attempt("1")],), round, outcomes=outcomes or Outcomes())


CHOOSING = [
    "randomised",
    "adaptive",
    "adaptive:ucb",
    "personality",
    *(f"personality:{p}" for p in PERSONALITIES),
]


@pytest.mark.parametrize("spec", CHOOSING)
@pytest.mark.parametrize("round", [0, 1])
def test_emotions_come_as_often_as_their_propensities_say(spec: str, round: int) -> None:
    outcomes = Outcomes()
    for n in range(30):
        emotion = list(Emotion)[n % 6]
        outcomes.add(f"p{n}", "0", 2, Outcome(emotion, float(emotion is Emotion.FEAR or n % 4 == 0)))
    drawn: Counter[str] = Counter()
    said: dict[str, float] = {}
    for seed in range(2000):
        rng = random.Random(seed)
        sequence = rotation_from_spec(spec).start(DECK, rng)
        [draw] = sequence.choose(situation(round=round, outcomes=outcomes), rng)
        drawn[draw["emotion"]] += 1
        said[draw["emotion"]] = draw["propensity"]
    for emotion, count in drawn.items():
        marginal = said[emotion] * (1 if spec != "randomised" or round == 0 else 0.5)
        assert count / 2000 == pytest.approx(marginal, abs=0.04)
    if spec.startswith("adaptive"):
        assert drawn[Emotion.FEAR.value] == max(drawn.values())
        assert len(drawn) == 6  # none is ever given up


def test_a_small_propensity_is_written_as_exactly_as_a_large_one() -> None:
    class Rarest(random.Random):
        def choices(self, population: Any, weights: Any = None, **more: Any) -> Any:
            return [min(zip(weights, population, strict=True), key=lambda pair: float(pair[0]))[1]]

    sequence = rotation_from_spec("personality:bold").start(Deck.default(), random.Random(1))
    assert isinstance(sequence, Choosing)
    for last in Emotion:
        cue = next(e.cue for e in Deck.default().entries if e.cue.emotion is last)
        line = [Attempt("p", "0", n, "x", "1", cue=cue, verdict=Verdict(False, "o")) for n in (1, 2, 3)]
        situation = Situation(Problem("p", "q"), [line])
        [draw] = sequence.choose(situation, Rarest())
        chance = sequence.chances(situation, line)[Emotion(draw["emotion"])]
        assert draw["propensity"] == pytest.approx(chance, rel=1e-5)


def test_randomised_alternates_from_a_random_valence() -> None:
    first = Counter()
    for seed in range(400):
        rng = random.Random(seed)
        sequence = rotation_from_spec("randomised").start(DECK, rng)
        valences = [Emotion(sequence.choose(situation(round=k), rng)[0]["emotion"]).valence for k in range(4)]
        assert valences[0] is valences[2] is valences[1].opposite is valences[3].opposite
        first[valences[0]] += 1
    assert 150 < first[Valence.NEGATIVE] < 250


def test_dealing_recorded_draws_gives_the_same_cues() -> None:
    for spec in CHOOSING:
        rng = random.Random(3)
        sequence = rotation_from_spec(spec).start(DECK, rng)
        lines = situation([attempt("1")], [attempt("2")])
        draws = [sequence.choose(lines, rng) for _ in range(5)]
        cues = [sequence.deal(draw, [W, W]) for draw in draws]
        again = rotation_from_spec(spec).start(DECK, random.Random(3))
        assert [again.deal(draw, [W, W]) for draw in draws] == cues
        emotions = [[Emotion(draw["emotion"]) for draw in two] for two in draws]
        assert [[cue.emotion for cue in pair] for pair in cues] == emotions
        texts = [cue.text for pair in cues for cue in pair]
        assert len(set(texts)) == len(texts) or spec != "randomised"


# --- the bandit ------------------------------------------------------------------------------------


def test_the_chance_of_being_best_is_that_of_sampling() -> None:
    counts = ((3.0, 2.0), (1.0, 1.0), (8.0, 6.0))
    rng = random.Random(0)
    best: Counter[int] = Counter()
    for _ in range(20000):
        draws = [rng.betavariate(a, b) for a, b in counts]
        best[draws.index(max(draws))] += 1
    assert best_chances(counts) == pytest.approx([best[i] / 20000 for i in range(3)], abs=0.02)
    assert best_chances(((1.0, 1.0),) * 6) == pytest.approx([1 / 6] * 6)


def test_the_bandits_state_is_a_function_of_what_was_seen() -> None:
    seen = [(f"p{n}", Outcome(list(Emotion)[n % 6], float(n % 5 == 0))) for n in range(40)]
    forward, backward = Outcomes(), Outcomes()
    for id, outcome in seen:
        forward.add(id, "0", 2, outcome)
    for id, outcome in [*reversed(seen), *seen]:  # told twice, in another order
        backward.add(id, "0", 2, outcome)
    assert thompson(forward) == thompson(backward)
    assert ucb(forward) == ucb(backward)
    assert list(forward) == list(backward)


def test_nothing_is_learned_from_what_nobody_judged_or_from_twins() -> None:
    outcomes = Outcomes()
    entry = DECK.entries[0]
    outcomes.observe(attempt("1"))
    outcomes.observe(attempt("1", cue=entry.cue))
    outcomes.observe(attempt("1", cue=entry.twin, right=True))
    outcomes.observe(attempt("1", right=True))
    assert len(outcomes) == 0
    outcomes.observe(attempt("1", cue=entry.cue, right=True))
    assert outcomes.counts(entry.cell[0]) == (1.0, 0.0)


async def solve_all(journal: MemoryJournal, script: Any, ids: range, *, rotation: str = "adaptive") -> Engine:
    engine = Engine(
        {"generator": Model(backend=ScriptedBackend(script))},
        journal=journal,
        retry=RetryPolicy(attempts=1),
        equivalent=same_text,
    )
    arm = Arm(
        "main",
        strategy_from_name("heart", max_rounds=6, rotation=rotation),
        Oracle(by_text),
        ChatResponder(),
        Prompts.default(),
        scorer=by_text,
    )
    for n in ids:
        await engine.solve(Problem(f"p{n}", f"Question {n}?", reference="42"), arm)
    await engine.aclose()
    return engine


def only_fear_helps(request: Request) -> str:
    cues = {entry.cue.text: entry.cue for entry in DECK.entries}
    last = str(request.messages[-1].content)
    cue = next((cue for text, cue in cues.items() if text in last), None)
    return boxed(42 if cue is not None and cue.emotion is Emotion.FEAR else 1)


def test_over_the_problems_it_learns_what_helps_and_writes_down_the_chances() -> None:
    journal = MemoryJournal()
    run(solve_all(journal, only_fear_helps, range(25)))
    draws = [draw for value in journal.decisions("cues:") for draw in value]
    first, last = draws[0], [value[0] for value in journal.decisions("cues:0")][-1]
    assert first["propensity"] == pytest.approx(1 / 6, abs=1e-6)
    assert all(0.1 / 6 <= draw["propensity"] <= 1 for draw in draws)
    fears = [d["propensity"] for d in draws if d["emotion"] == "fear"]
    assert fears[-1] > 0.5 > fears[0]
    assert last["emotion"] in {emotion.value for emotion in Emotion}


def test_a_resumed_run_knows_what_its_finished_problems_taught() -> None:
    whole, halves = MemoryJournal(), MemoryJournal()
    run(solve_all(whole, only_fear_helps, range(12)))
    run(solve_all(halves, only_fear_helps, range(6)))
    run(solve_all(halves, only_fear_helps, range(6, 12)))  # another process
    assert halves.decisions("cues:") == whole.decisions("cues:")


# --- personality -----------------------------------------------------------------------------------


def test_the_emotions_lie_where_their_valence_says() -> None:
    for emotion in Emotion:
        assert (coordinates(emotion)[0] > 0) == (emotion.valence is Valence.POSITIVE)
    assert coordinates(Emotion.ANGER)[2] > 0 > coordinates(Emotion.FEAR)[2]  # dominance tells them apart


def test_what_happens_moves_the_mood_and_time_brings_it_back() -> None:
    rest = temperament("balanced")
    wrong = mood(rest, [attempt("1", right=False)])
    assert wrong[0] < rest[0]
    assert mood(rest, [attempt("1"), attempt("1")])[0] > mood(rest, [attempt("1"), attempt("2")])[0]
    assert mood(rest, [attempt(None)])[2] < rest[2]
    many = [attempt("1", right=False)] * 50
    assert mood(rest, many) == pytest.approx(mood(rest, many * 2), abs=1e-6)
    assert temperament("calm")[1] < temperament("anxious")[1]
    with pytest.raises(UnknownName, match="balanced"):
        rotation_from_spec("personality:grumpy")


def test_the_emotion_moves_from_the_last_one() -> None:
    cue = next(entry.cue for entry in DECK.entries if entry.cue.emotion is Emotion.SADNESS)
    sequence = rotation_from_spec("personality:calm").start(DECK, random.Random(0))
    after = sequence.chances(situation(), [attempt("1"), attempt("1", cue=cue, round=2)])
    before = sequence.chances(situation(), [attempt("1"), attempt("1", round=2)])
    assert after[Emotion.SADNESS] > before[Emotion.SADNESS]
    assert sum(after.values()) == pytest.approx(1)


# --- controls --------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", SpeechAct)
@pytest.mark.parametrize("intensity", Intensity)
def test_irrelevant_affect_is_the_twin_behind_a_sentence_of_the_emotion(
    act: SpeechAct, intensity: Intensity
) -> None:
    spec = f"irrelevant:random@{intensity.value}"
    of = rotation_from_spec(f"random@{intensity.value}")
    irrelevant = rotation_from_spec(spec).start(DECK, random.Random(5))
    twins = Neutral(of).start(DECK, random.Random(5))
    for _ in range(8):
        for cue, twin in zip(
            irrelevant.next_round(6, [act] * 6), twins.next_round(6, [act] * 6), strict=True
        ):
            sentence, _, rest = cue.text.partition(twin.text)
            assert sentence.strip()
            assert not rest
            assert (cue.emotion, cue.intensity, cue.speech_act) == (twin.emotion, twin.intensity, act)
            assert asserted_wrongness(sentence) is None
    assert isinstance(rotation_from_spec(spec), Irrelevant)


def test_the_phrase_is_one_throughout() -> None:
    sequence = Phrase().start(DECK, random.Random(0))
    cues = {sequence.next_round(1, [W])[0] for _ in range(6)}
    [cue] = cues
    assert not cue.affective
    other = Phrase().start(DECK, random.Random(9)).next_round(1, [W])[0]
    assert other == cue  # in every problem


@pytest.mark.parametrize(
    "spec",
    [
        "irrelevant",
        "irrelevant:random@mild",
        "phrase@strong",
        "adaptive:ucb",
        "memory:some/folder",
        *CHOOSING,
    ],
)
def test_a_rotations_name_is_its_spec(spec: str) -> None:
    rotation = rotation_from_spec(spec)
    assert rotation_from_spec(rotation.name) == rotation


def test_draws_of_a_twin_arm_are_those_of_its_rotation() -> None:
    """Paired arms: the same seed draws the same emotions, charged or not."""
    found = []
    for rotation in ("randomised", "neutral:randomised", "irrelevant:randomised"):
        journal = MemoryJournal()
        run(solve_all(journal, answers_by_round(1), range(3), rotation=rotation))
        found.append(journal.decisions("cues:"))
    assert found[0]
    assert found[0] == found[1] == found[2]


def test_majority_learns_nothing_and_stays_uniform() -> None:
    outcomes = Outcomes()
    verdict = run(Majority().assess(PROBLEM, attempt("1"), None))  # type: ignore[arg-type]
    judged = Attempt("p", "0", 2, "", "1", cue=DECK.entries[0].cue, verdict=verdict)
    outcomes.observe(judged)
    assert thompson(outcomes) == pytest.approx(dict.fromkeys(Emotion, 1 / 6))
