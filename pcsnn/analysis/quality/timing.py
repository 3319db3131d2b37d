"""Interleaved timing: calls that take turns, so that drifting load falls on all alike."""

import random
import statistics
import time

import torch


def synchronise(device):
    """Wait until all work on a device, or the device of that name, is done."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def rounds_of(count, rounds):
    """`count` of the rounds 0..rounds-1, spread evenly, as a set."""
    count = min(count, rounds)
    return {round(i * (rounds - 1) / max(count - 1, 1)) for i in range(count)}


def interleaved(calls, rounds, slow=(), slow_rounds=None, device="cpu", after_each=lambda name: None):
    """Run every call once a round, in a new random order each round.

    Args:
        calls: {name: function without arguments}, each run often enough before to be warm.
        rounds: how often each runs; those named in `slow` run in `slow_rounds` of these rounds only.
        after_each: is told the name of each call once it is done.

    Returns:
        {name: {round: seconds}}.
    """
    seconds = {name: {} for name in calls}
    shuffled = random.Random(0)
    turns_of_slow = rounds_of(slow_rounds or rounds, rounds)
    for turn in range(rounds):
        names = [name for name in calls if name not in slow or turn in turns_of_slow]
        shuffled.shuffle(names)
        for name in names:
            synchronise(device)
            begun = time.perf_counter()
            calls[name]()
            synchronise(device)
            seconds[name][turn] = time.perf_counter() - begun
            after_each(name)
    return seconds


def median(seconds):
    """The median of {round: seconds}."""
    return statistics.median(seconds.values())


def ratio(seconds, others):
    """The median of seconds / others over the rounds that both ran in: load that comes and goes cancels."""
    return statistics.median(seconds[turn] / others[turn] for turn in seconds.keys() & others.keys())
