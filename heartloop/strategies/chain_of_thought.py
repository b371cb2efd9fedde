"""One attempt that thinks step by step (arXiv 2201.11903): what the first round of every loop is."""

from __future__ import annotations

from heartloop.strategies.single_pass import SinglePass

__all__ = ["chain_of_thought"]


def chain_of_thought() -> SinglePass:
    """Single pass with the step-by-step prompt."""
    return SinglePass(prompt="chain_of_thought", name="chain_of_thought")
