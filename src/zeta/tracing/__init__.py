"""Run a constructor without memory, and note what it does to each tensor."""

from zeta.tracing.graph import LARGEST_DATA, UNTOUCHED, Node, Random, concrete, reachable
from zeta.tracing.modes import recording
from zeta.tracing.recorder import Recorder
from zeta.tracing.sources import Source

__all__ = ["LARGEST_DATA", "UNTOUCHED", "Node", "Random", "Recorder", "Source", "concrete", "reachable", "recording"]
