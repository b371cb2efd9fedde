"""Cues as JSON, for the journal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heartloop.errors import DataError
from heartloop.types import Cue, Directive, Emotion, Intensity, SpeechAct

__all__ = ["cue_from_dict", "cue_to_dict"]


def cue_to_dict(cue: Cue) -> dict[str, Any]:
    """All of a cue in JSON's own types; :func:`cue_from_dict` gives the same cue back."""
    return {
        "id": cue.id,
        "emotion": None if cue.emotion is None else cue.emotion.value,
        "intensity": None if cue.intensity is None else cue.intensity.value,
        "speech_act": cue.speech_act.value,
        "directive": cue.directive.value,
        "text": cue.text,
        "affective": cue.affective,
    }


def cue_from_dict(data: Mapping[str, Any]) -> Cue:
    """The cue that :func:`cue_to_dict` wrote.

    Raises:
        DataError: a field is missing, or holds what no cue can.
    """
    try:
        emotion, intensity = data["emotion"], data["intensity"]
        cue = Cue(
            id=data["id"],
            emotion=None if emotion is None else Emotion(emotion),
            intensity=None if intensity is None else Intensity(intensity),
            speech_act=SpeechAct(data["speech_act"]),
            directive=Directive(data["directive"]),
            text=data["text"],
            affective=data["affective"],
        )
    except KeyError as error:
        raise DataError(f"a recorded cue lacks the field {error}") from None
    except ValueError as error:
        raise DataError(f"a recorded cue can't be read: {error}") from None
    if not (isinstance(cue.id, str) and isinstance(cue.text, str) and isinstance(cue.affective, bool)):
        raise DataError("a recorded cue can't be read: id and text must be strings, affective a boolean")
    return cue
