"""Bare retry: HEART's loop with next to nothing in the feedback: the effect of asking again."""

from __future__ import annotations

from typing import Any

from heartloop.strategies.self_reflection import SelfReflection

__all__ = ["bare_retry"]


def bare_retry(**options: Any) -> SelfReflection:
    """Self-reflection's loop that says "try again" and, after an oracle's no, that the answer was wrong."""
    return SelfReflection(feedback="bare_retry", name="bare_retry", **options)
