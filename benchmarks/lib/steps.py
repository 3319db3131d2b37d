"""T and D on the command line of a benchmark."""

MOST_LEVELS = 255


def steps(text):
    """(T, D) of "T" or "TxD"; ValueError for another text, or a T D beyond 255."""
    timesteps, _, spike_levels = text.partition("x")
    timesteps, spike_levels = int(timesteps), int(spike_levels or 1)
    if timesteps < 1 or spike_levels < 1 or timesteps * spike_levels > MOST_LEVELS:
        raise ValueError(f"expected T D of 1..{MOST_LEVELS}, got {text}")
    return timesteps, spike_levels
