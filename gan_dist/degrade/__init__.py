"""Degrade clean images, for games that learn to undo it."""

from gan_dist.degrade.pipeline import Pipeline, pipeline
from gan_dist.degrade.steps import DEGRADATIONS, DEGRADE, Degradation, Draws, Mask, rounded

__all__ = ["DEGRADATIONS", "DEGRADE", "Degradation", "Draws", "Mask", "Pipeline", "pipeline", "rounded"]
