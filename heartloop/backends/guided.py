"""Guided decoding under the names of old and new vLLM.

Up to 0.11 its fields are ``guided_json``, ``guided_regex``, ``guided_choice``, ``guided_grammar`` and
``guided_whitespace_pattern``; from 0.10.2 on ``structured_outputs`` holds the same without the prefix.
Servers of either kind ignore the other's fields and answer *without* the constraint, so both are sent
(docs.vllm.ai/en/latest/features/structured_outputs.html; 0.32 logs once that it ignores the old ones).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["structure_of", "under_both_names", "without_old_names"]

_NEW: Mapping[str, str] = {
    f"guided_{name}": name for name in ("json", "regex", "choice", "grammar", "whitespace_pattern")
}


def under_both_names(body: dict[str, Any]) -> dict[str, Any]:
    """``body`` with its guided decoding as old and new servers read it; what is there stays as it is."""
    if "structured_outputs" not in body and not _NEW.keys() & body.keys():
        return body
    structure = structure_of(body)
    old = {name: structure[new] for name, new in _NEW.items() if structure.get(new) is not None}
    return {**old, "structured_outputs": structure, **body} if structure else body


def structure_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What ``fields`` ask of guided decoding, by the new names; ``structured_outputs`` wins where it is."""
    new = fields.get("structured_outputs")
    if isinstance(new, Mapping):
        return dict(new)
    return {name: fields[old] for old, name in _NEW.items() if fields.get(old) is not None}


def without_old_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """``fields`` without the old ones, and the new one with what they said."""
    structure = structure_of(fields)
    rest = {name: value for name, value in fields.items() if name not in _NEW}
    return rest | {"structured_outputs": structure} if structure else rest
