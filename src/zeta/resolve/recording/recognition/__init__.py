"""Turn a recorded graph into initializers: known distributions if possible, else small programs."""

from zeta.resolve.recording.recognition.assembly import Recognized, recognize

__all__ = ["Recognized", "recognize"]
