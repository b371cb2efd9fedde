r"""Answers checked against references.

::

    from heartloop_verifiers import verify
    verify(r"So the final answer is \boxed{0.5}.", r"$\frac{1}{2}$").correct   # True

See ``docs/verifiers.md`` for the rules. Importing this package is light: sympy lives in workers, and
what is beyond mathematics (code, model-graded protocols, the audit) is imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from heartloop.answers import all_boxes, extract_answer, extract_choice, strip_reasoning

from .api import aequivalent, averify, averify_many, equivalent, verify, verify_many
from .options import KINDS, MODES, Case, Options

if TYPE_CHECKING:
    from .audit import Finding, audit
    from .code import CodeTest, averify_code, extract_code, verify_code
    from .judged import (
        HLE_SCHEMA,
        HleJudgement,
        averify_hle,
        averify_simpleqa,
        hle_prompt,
        parse_hle,
        parse_simpleqa,
        simpleqa_prompt,
        simpleqa_scores,
    )
    from .pool import Pool, shared_pool
    from .sandbox import Limits

_LATER = {
    "audit": ("Finding", "audit"),
    "code": ("CodeTest", "averify_code", "extract_code", "verify_code"),
    "judged": (
        "HLE_SCHEMA",
        "HleJudgement",
        "averify_hle",
        "averify_simpleqa",
        "hle_prompt",
        "parse_hle",
        "parse_simpleqa",
        "simpleqa_prompt",
        "simpleqa_scores",
    ),
    "pool": ("Pool", "shared_pool"),
    "sandbox": ("Limits",),
}

__all__ = [
    "HLE_SCHEMA",
    "KINDS",
    "MODES",
    "Case",
    "CodeTest",
    "Finding",
    "HleJudgement",
    "Limits",
    "Options",
    "Pool",
    "aequivalent",
    "all_boxes",
    "audit",
    "averify",
    "averify_code",
    "averify_hle",
    "averify_many",
    "averify_simpleqa",
    "equivalent",
    "extract_answer",
    "extract_choice",
    "extract_code",
    "hle_prompt",
    "parse_hle",
    "parse_simpleqa",
    "shared_pool",
    "simpleqa_prompt",
    "simpleqa_scores",
    "strip_reasoning",
    "verify",
    "verify_code",
    "verify_many",
]


def __getattr__(name: str) -> Any:
    for module, names in _LATER.items():
        if name in names:
            value = getattr(import_module(f".{module}", __name__), name)
            globals()[name] = value  # `audit` is also a submodule's name: keep the function
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
