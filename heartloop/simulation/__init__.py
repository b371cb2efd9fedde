"""Runs without a model: the engine's own scheduling policies over drawn or recorded attempts."""

from __future__ import annotations

from heartloop.simulation.populations import POPULATIONS, Group, Population
from heartloop.simulation.simulate import Curve, Sample, World, simulate

__all__ = ["POPULATIONS", "Curve", "Group", "Population", "Sample", "World", "simulate"]
