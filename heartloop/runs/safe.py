"""Text that a model, a server or a data set wrote, made safe for a terminal."""

from __future__ import annotations

__all__ = ["printable"]

_KEPT = (0x09, 0x0A)
_DIRECTION = (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_UNWANTED = dict.fromkeys(
    code for code in (*range(0x20), *range(0x7F, 0xA0), *_DIRECTION) if code not in _KEPT
)


def printable(text: str) -> str:
    """``text`` without what could steer a terminal or turn its direction, and without broken surrogates."""
    return text.translate(_UNWANTED).encode("utf-8", "replace").decode("utf-8")
