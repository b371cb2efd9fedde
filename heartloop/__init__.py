"""HeartLoop: test-time scaling of language models with HEART loops (arXiv 2509.22876).

``HeartLoop`` is the front door; ``heartloop.types`` has the words, ``heartloop.errors`` the tree of errors.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

# Imported when first used: `import heartloop` and `heartloop --help` stay fast.
_ELSEWHERE = {
    "HeartLoop": "heartloop.loop",
    "HeartLoopError": "heartloop.errors",
    "Model": "heartloop.engine.models",
    "Price": "heartloop.engine.dispatch",
    "Prompts": "heartloop.strategies.prompts",
    "RetryPolicy": "heartloop.engine.retry",
    "Shot": "heartloop.strategies.prompts",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'heartloop' has no attribute {name!r}")
    value = getattr(import_module(_ELSEWHERE.get(name, "heartloop.types")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
