"""Rotations through their public interface: schedule, no repetition, determinism, twins."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartloop.emotions import (
    ROTATIONS,
    AlternatingValence,
    Cue,
    Deck,
    Directive,
    Emotion,
    Entry,
    Fixed,
    Intensity,
    Neutral,
    Pair,
    Rotation,
    RoundRobin,
    SeededRandom,
    SpeechAct,
    Valence,
    cue_from_dict,
    cue_to_dict,
    rotation_from_spec,
)
from heartloop.errors import DataError, UnknownName, UsageError

PER_CELL = 3


def _deck(emotions: Sequence[Emotion] = tuple(Emotion)) -> Deck:
    entries = []
    for emotion in emotions:
        for intensity in Intensity:
            for act in SpeechAct:
                for k in range(PER_CELL):
                    name = f"{emotion.value}-{intensity.value}-{act.value}-{k}"
                    cue = Cue(name, emotion, intensity, act, Directive.CHECK, f"{name} with affect")
                    twin = Cue(
                        name, emotion, intensity, act, Directive.CHECK, f"{name} without", affective=False
                    )
                    entries.append(Entry(cue, twin))
    return Deck(tuple(entries), "toy deck")


DECK = _deck()

intensities = st.sampled_from(Intensity)
emotions = st.sampled_from(Emotion)
plain_rotations: st.SearchStrategy[Rotation] = st.one_of(
    st.builds(AlternatingValence, st.sampled_from([*Valence, "random"]), intensities),
    st.builds(RoundRobin, intensities),
    st.builds(Pair, emotions, emotions, intensities),
    st.builds(Fixed, emotions, intensities),
    st.builds(SeededRandom, intensities),
)
rotations: st.SearchStrategy[Rotation] = st.one_of(plain_rotations, st.builds(Neutral, plain_rotations))
asks = st.lists(st.lists(st.sampled_from(SpeechAct), min_size=1, max_size=8), min_size=1, max_size=12)
seeds = st.integers(0, 2**32)


def _run(rotation: Rotation, seed: int, rounds: Sequence[Sequence[SpeechAct]]) -> list[tuple[Cue, ...]]:
    sequence = rotation.start(DECK, random.Random(seed))
    return [sequence.next_round(len(acts), acts) for acts in rounds]


@given(rotations, seeds, asks)
def test_a_round_has_a_cue_a_branch_with_the_speech_act_asked(rotation, seed, rounds):
    for acts, cues in zip(rounds, _run(rotation, seed, rounds), strict=True):
        assert [cue.speech_act for cue in cues] == acts


@given(rotations, seeds, asks)
def test_same_deck_seed_and_asks_give_the_same_cues(rotation, seed, rounds):
    assert _run(rotation, seed, rounds) == _run(rotation, seed, rounds)


@given(rotations, seeds, asks)
def test_no_phrase_repeats_until_its_cell_is_spent(rotation, seed, rounds):
    seen: dict[tuple[object, ...], list[str]] = {}
    for cues in _run(rotation, seed, rounds):
        for cue in cues:
            seen.setdefault((cue.emotion, cue.intensity, cue.speech_act), []).append(cue.text)
    for texts in seen.values():
        for start in range(0, len(texts), PER_CELL):
            deal = texts[start : start + PER_CELL]
            assert len(set(deal)) == len(deal)
        assert all(a != b for a, b in pairwise(texts))


@given(plain_rotations, seeds, asks)
def test_neutral_gives_the_twins_of_exactly_those_cues(rotation, seed, rounds):
    charged, neutral = _run(rotation, seed, rounds), _run(Neutral(rotation), seed, rounds)
    twins = {entry.cue: entry.twin for entry in DECK.entries}
    assert [[twins[cue] for cue in cues] for cues in charged] == [list(cues) for cues in neutral]


@given(plain_rotations, seeds, asks, st.sampled_from(SpeechAct))
def test_emotions_do_not_depend_on_the_speech_acts(rotation, seed, rounds, act):
    other = [[act] * len(acts) for acts in rounds]
    a, b = _run(rotation, seed, rounds), _run(rotation, seed, other)
    assert [[c.emotion for c in cues] for cues in a] == [[c.emotion for c in cues] for cues in b]


@given(st.sampled_from([*Valence, "random"]), seeds, asks)
def test_valence_alternates_and_the_start_is_logged(first, seed, rounds):
    sequence = AlternatingValence(first).start(DECK, random.Random(seed))
    expected = Valence(sequence.state["first"])
    assert first in ("random", expected)
    for acts in rounds:
        cues = sequence.next_round(len(acts), acts)
        assert {cue.emotion.valence for cue in cues} == {expected}
        # Branches cycle through the valence's emotions: as many as there are, up to the width.
        available = sum(emotion.valence is expected for emotion in Emotion)
        assert len({cue.emotion for cue in cues}) == min(len(acts), available)
        expected = expected.opposite


def test_a_random_start_is_both_in_time():
    starts = {AlternatingValence("random").start(DECK, random.Random(k)).state["first"] for k in range(40)}
    assert starts == {"positive", "negative"}


@given(rotations, seeds, asks)
def test_state_is_json_and_names_the_rotation(rotation, seed, rounds):
    sequence = rotation.start(DECK, random.Random(seed))
    for acts in rounds:
        sequence.next_round(len(acts), acts)
    state = json.loads(json.dumps(sequence.state))
    assert state["rotation"] == rotation.name
    assert state["rounds"] == len(rounds)


W = SpeechAct.ASSERT_WRONG


def test_one_branch_of_alternation_goes_through_all_emotions():
    cues = [cues[0] for cues in _run(AlternatingValence(), 1, [[W]] * 8)]
    assert {cue.emotion for cue in cues} == set(Emotion)


def test_round_robin_gives_successive_emotions():
    ring = tuple(Emotion)
    rounds = _run(RoundRobin(), 1, [[W] * 3] * 7)
    for k, cues in enumerate(rounds):
        assert [cue.emotion for cue in cues] == [ring[(k + i) % 6] for i in range(3)]


def test_pair_goes_a_b_a_b_with_different_phrases_side_by_side():
    rounds = _run(Pair(Emotion.ANGER, Emotion.HAPPINESS), 1, [[W, W]] * 4)
    assert [cues[0].emotion for cues in rounds] == [Emotion.ANGER, Emotion.HAPPINESS] * 2
    assert all(cues[0].text != cues[1].text for cues in rounds)


def test_random_differs_across_branches_and_seeds():
    rounds = _run(SeededRandom(), 1, [[W] * 6] * 5)
    assert all({cue.emotion for cue in cues} == set(Emotion) for cues in rounds)
    assert rounds != _run(SeededRandom(), 2, [[W] * 6] * 5)


@given(rotations)
def test_names_are_specs(rotation):
    assert rotation_from_spec(rotation.name) == rotation


@pytest.mark.parametrize(
    ("spec", "rotation"),
    [
        ("alternating", AlternatingValence()),
        ("alternating:positive", AlternatingValence(Valence.POSITIVE)),
        ("alternating:random@mild", AlternatingValence("random", Intensity.MILD)),
        ("round_robin@strong", RoundRobin(Intensity.STRONG)),
        ("pair:anger,happiness", Pair(Emotion.ANGER, Emotion.HAPPINESS)),
        ("fixed:fear@moderate", Fixed(Emotion.FEAR)),
        ("random", SeededRandom()),
        ("neutral", Neutral()),
        ("neutral@strong", Neutral(AlternatingValence(intensity=Intensity.STRONG))),
        ("neutral:round_robin@mild", Neutral(RoundRobin(Intensity.MILD))),
    ],
)
def test_specs(spec, rotation):
    assert rotation_from_spec(spec) == rotation


@pytest.mark.parametrize(
    ("spec", "known"),
    [
        ("rotund", sorted(ROTATIONS)),
        ("fixed:boredom", sorted(e.value for e in Emotion)),
        ("pair:anger,boredom", sorted(e.value for e in Emotion)),
        ("alternating:neutral", ["negative", "positive", "random"]),
        ("random@huge", sorted(i.value for i in Intensity)),
        ("random@", sorted(i.value for i in Intensity)),
        ("neutral:rotund", sorted(ROTATIONS)),
    ],
)
def test_unknown_names_list_the_known_ones(spec, known):
    with pytest.raises(UnknownName) as caught:
        rotation_from_spec(spec)
    assert caught.value.known == known
    assert all(name in str(caught.value) for name in known)


@pytest.mark.parametrize(
    "spec",
    [
        *("fixed", "fixed:", "pair:anger", "pair:anger,fear,joy", "random:3", "neutral:"),
        *("neutral:neutral", "neutral:phrase@mild", "irrelevant:neutral:random", "neutral:irrelevant"),
    ],
)
def test_wrong_arguments_are_usage_errors(spec):
    with pytest.raises(UsageError):
        rotation_from_spec(spec)


def test_a_cell_that_the_deck_lacks_is_named_and_nothing_is_lost():
    small = _deck([Emotion.SADNESS])
    sequence = Pair(Emotion.SADNESS, Emotion.FEAR).start(small, random.Random(0))
    sequence.next_round(1, [W])
    before = sequence.state
    with pytest.raises(DataError, match=r"toy deck.*fear/moderate/assert_wrong"):
        sequence.next_round(1, [W])
    assert sequence.state == before


@pytest.mark.parametrize(("width", "acts"), [(0, []), (2, [W]), (1, [W, W])])
def test_a_round_needs_a_speech_act_a_branch(width, acts):
    with pytest.raises(UsageError):
        RoundRobin().start(DECK, random.Random(0)).next_round(width, acts)


@pytest.mark.parametrize(
    "cue", [DECK.entries[0].cue, DECK.entries[-1].twin, Cue("x", None, None, W, Directive.CHECK, "y")]
)
def test_cues_survive_json(cue):
    assert cue_from_dict(json.loads(json.dumps(cue_to_dict(cue)))) == cue


@pytest.mark.parametrize(
    "change", [{"emotion": "boredom"}, {"text": 3}, {"affective": "yes"}, {"directive": None}]
)
def test_broken_recorded_cues_are_refused(change):
    with pytest.raises(DataError):
        cue_from_dict({**cue_to_dict(DECK.entries[0].cue), **change})
    with pytest.raises(DataError, match="text"):
        cue_from_dict(
            {key: value for key, value in cue_to_dict(DECK.entries[0].cue).items() if key != "text"}
        )
