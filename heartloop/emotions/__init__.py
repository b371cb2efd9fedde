"""Affect as a factor: cues, their affect-free twins, and the order in which they come."""

from heartloop.emotions.deck import Cell, Deck, Entry
from heartloop.emotions.registry import ROTATIONS, rotation_from_spec
from heartloop.emotions.rotations import (
    AlternatingValence,
    CueSequence,
    Fixed,
    Neutral,
    Pair,
    Rotation,
    RoundRobin,
    SeededRandom,
)
from heartloop.emotions.serial import cue_from_dict, cue_to_dict
from heartloop.types import Cue, Directive, Emotion, Intensity, SpeechAct, Valence

__all__ = [
    "ROTATIONS",
    "AlternatingValence",
    "Cell",
    "Cue",
    "CueSequence",
    "Deck",
    "Directive",
    "Emotion",
    "Entry",
    "Fixed",
    "Intensity",
    "Neutral",
    "Pair",
    "Rotation",
    "RoundRobin",
    "SeededRandom",
    "SpeechAct",
    "Valence",
    "cue_from_dict",
    "cue_to_dict",
    "rotation_from_spec",
]
