"""From a recorded graph to initializers: what is a known law becomes that law, the rest a small program."""

from zeta.resolve.recording.recognition.assembly import Recognized, recognize

__all__ = ["Recognized", "recognize"]
