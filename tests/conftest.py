"""For all tests: the same examples every time, and no failing because a machine is busy."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "heartloop", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("heartloop")

# Where dspy is installed: LiteLLM and DSPy fetch lists of models' prices unless told not to.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
