"""Recorded spikes: trains, rates, pictures, shuffles."""
