"""HeartLoop: test-time scaling of language models with HEART loops (arXiv 2509.22876).

``HeartLoop`` is the front door; ``heartloop.types`` has the words, ``heartloop.errors`` the tree of errors.
"""

from __future__ import annotations

from heartloop.engine.dispatch import Price
from heartloop.engine.models import Model
from heartloop.engine.retry import RetryPolicy
from heartloop.errors import HeartLoopError
from heartloop.loop import HeartLoop
from heartloop.strategies.prompts import Prompts, Shot
from heartloop.types import (
    Attempt,
    Budget,
    Completion,
    Cue,
    Emotion,
    Message,
    Problem,
    Request,
    Sampling,
    Solution,
    StopReason,
    Usage,
    Valence,
    Verdict,
)

__all__ = [
    "Attempt",
    "Budget",
    "Completion",
    "Cue",
    "Emotion",
    "HeartLoop",
    "HeartLoopError",
    "Message",
    "Model",
    "Price",
    "Problem",
    "Prompts",
    "Request",
    "RetryPolicy",
    "Sampling",
    "Shot",
    "Solution",
    "StopReason",
    "Usage",
    "Valence",
    "Verdict",
    "__version__",
]

__version__ = "0.1.0"
