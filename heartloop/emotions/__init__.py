"""Affect as a factor: cues, their affect-free twins, and the order in which they come."""

from heartloop.emotions.adaptive import Adaptive
from heartloop.emotions.choosing import ChoosingSequence, Randomised, Situation
from heartloop.emotions.controls import Irrelevant, Neutral, Phrase
from heartloop.emotions.deck import Cell, Deck, Entry
from heartloop.emotions.memory import EmotionalMemory, Memory
from heartloop.emotions.personality import Personality
from heartloop.emotions.registry import ROTATIONS, rotation_from_spec
from heartloop.emotions.rotations import (
    AlternatingValence,
    CueSequence,
    Fixed,
    Pair,
    Rotation,
    RoundRobin,
    SeededRandom,
)
from heartloop.emotions.serial import cue_from_dict, cue_to_dict
from heartloop.types import Cue, Directive, Emotion, Intensity, SpeechAct, Valence

__all__ = [
    "ROTATIONS",
    "Adaptive",
    "AlternatingValence",
    "Cell",
    "ChoosingSequence",
    "Cue",
    "CueSequence",
    "Deck",
    "Directive",
    "Emotion",
    "EmotionalMemory",
    "Entry",
    "Fixed",
    "Intensity",
    "Irrelevant",
    "Memory",
    "Neutral",
    "Pair",
    "Personality",
    "Phrase",
    "Randomised",
    "Rotation",
    "RoundRobin",
    "SeededRandom",
    "Situation",
    "SpeechAct",
    "Valence",
    "cue_from_dict",
    "cue_to_dict",
    "rotation_from_spec",
]
