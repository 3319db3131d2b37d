"""Looking into converted networks."""

from pcsnn.analysis.record import Recording, record

__all__ = ["Recording", "record"]
