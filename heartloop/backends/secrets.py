"""Keeping keys out of what people and log files see."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["Redactor", "shorten"]

_WORD = re.compile(r"[^\s\"'<>,;(){}\[\]]{6,}")
_KNOWN = re.compile(r"\b(?:sk|rk|pk|gsk|hf|xai|AIza)[-_][A-Za-z0-9_\-*.]{6,}|\bBearer\s+\S+", re.IGNORECASE)
_ENDS = 5
"""A word that holds this many of a key's first or last characters is taken for (a masked form of) the key."""


class Redactor:
    """Replaces keys in text by ``[key]``: the given ones, echoed whole or masked, and what looks like one."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = sorted({s for s in secrets if s}, key=len, reverse=True)
        long = [s for s in self._secrets if len(s) >= 12]
        self._marks = {mark for s in long for mark in (s[-_ENDS:], s.removeprefix("sk-")[:_ENDS])}

    def __repr__(self) -> str:
        return f"Redactor({len(self._secrets)} secrets)"

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        text = _KNOWN.sub("[key]", text)
        if not self._marks:
            return text
        return _WORD.sub(lambda m: "[key]" if any(k in m.group() for k in self._marks) else m.group(), text)


def shorten(text: str, limit: int = 300) -> str:
    """``text`` on one line of at most ``limit`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
