"""Answers checked against references.

::

    from heartloop_verifiers import verify
    verify(r"So the final answer is \\boxed{0.5}.", r"$\\frac{1}{2}$").correct   # True

See ``docs/verifiers.md`` for the rules. Importing this package is light: sympy lives in workers.
"""

from heartloop.answers import all_boxes, extract_answer, extract_choice, strip_reasoning

from .api import aequivalent, averify, averify_many, equivalent, verify, verify_many
from .options import KINDS, MODES, Case, Options
from .pool import Pool, shared_pool

__all__ = [
    "KINDS",
    "MODES",
    "Case",
    "Options",
    "Pool",
    "aequivalent",
    "all_boxes",
    "averify",
    "averify_many",
    "equivalent",
    "extract_answer",
    "extract_choice",
    "shared_pool",
    "strip_reasoning",
    "verify",
    "verify_many",
]
