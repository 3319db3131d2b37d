"""Times on a GPU: events around single calls in turns, bursts of calls by the host's clock, and CUDA graphs."""

import random
import time

import torch

from lib import timing

FEWEST, MOST = 5, 40
FLUSH = 2**30  # bytes written before each call: the cache is cold, and the host has launched before the call starts
BURST = 200


def rounds_in(calls, device, seconds):
    """How many rounds of `calls`, each warm, fit into `seconds`."""
    timing.synchronise(device)
    begun = time.perf_counter()
    for call in calls.values():
        call()
    timing.synchronise(device)
    return max(FEWEST, min(MOST, int(seconds / (time.perf_counter() - begun))))


def alternate(calls, setting, seconds=0.25):
    """{name: {round: seconds}} of calls that take turns in a new random order each round, after running once each.

    In a dry run by the host's clock, in two rounds.
    """
    for call in calls.values():
        call()
    if setting.dry:
        return timing.interleaved(calls, 2)
    rounds, shuffled, names = rounds_in(calls, setting.device, seconds), random.Random(0), list(calls)
    flushed = torch.empty(FLUSH, dtype=torch.int8, device=setting.device)
    taken = {name: {} for name in names}
    for turn in range(rounds):
        shuffled.shuffle(names)
        for name in names:
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flushed.zero_()
            begun.record()
            calls[name]()
            ended.record()
            ended.synchronize()
            taken[name][turn] = begun.elapsed_time(ended) / 1000
    return taken


def bursts(calls, setting, rounds=9):
    """{name: {round: seconds of one call}}, by the host's clock over many calls in a row: what calling costs."""
    times = setting.small(BURST, 2)

    def repeated(call):
        def run():
            for _ in range(times):
                call()

        return run

    repeats = {name: repeated(call) for name, call in calls.items()}
    for repeat in repeats.values():
        repeat()
    taken = timing.interleaved(repeats, setting.small(rounds, 2), device=setting.device)
    return {name: {turn: seconds / times for turn, seconds in each.items()} for name, each in taken.items()}


def captured(call, setting):
    """The replay of a CUDA graph of `call`, which returns its result, always the same tensor; in a dry run `call`."""
    if setting.dry:
        return call
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # what is compiled, timed or allocated at a first call must not be captured
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = call()

    def replay():
        graph.replay()
        return output

    return replay
