"""Run a constructor without memory, and record its operations on each tensor."""

from zeta.resolve.recording.sources import Source
from zeta.resolve.recording.tracing.graph import LARGEST_DATA, UNTOUCHED, Node, Random, concrete, reachable
from zeta.resolve.recording.tracing.lending import tensors_with
from zeta.resolve.recording.tracing.modes import recording
from zeta.resolve.recording.tracing.recorder import Recorder

__all__ = [
    "LARGEST_DATA",
    "UNTOUCHED",
    "Node",
    "Random",
    "Recorder",
    "Source",
    "concrete",
    "reachable",
    "recording",
    "tensors_with",
]
