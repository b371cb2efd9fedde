"""What makes two requests the same request: a short hash of all that is sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import orjson

from heartloop.types import Request

__all__ = ["fingerprint", "fingerprint_of"]


def fingerprint(request: Request) -> str:
    """32 hex digits that are equal for equal requests, today and in a later process.

    Model, messages and sampling count; the order of keys inside message parts and ``extra`` does not.

    Raises:
        TypeError: ``sampling.extra`` or a message part holds what JSON can't.
    """
    return fingerprint_of(request.as_dict())


def fingerprint_of(picture: Mapping[str, Any]) -> str:
    """The fingerprint of the request that ``picture`` (``Request.as_dict()``, or read back) shows."""
    return blake2b(_canonical(picture), digest_size=16).hexdigest()


def _canonical(value: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(value, default=_plain, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        # Lone surrogates, integers beyond 64 bits: the standard library writes those.
        return json.dumps(value, default=_plain, sort_keys=True, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a request can't hold a {type(value).__name__}")
