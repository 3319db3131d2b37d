"""Each operator against what it replaces: a serial IF layer, SpikingJelly's IFNode, a copy of as many bytes, a ReLU.

    python benchmarks/operators.py [--rounds N] [--threads N] [--json FILE]
    pytest benchmarks/operators.py --benchmark-only

Every result is compared before its time is taken. The calls of a row take turns; a ratio is the median over the rounds.

An operator allocates its output, the copy it is measured against does not. A large output is memory fresh from the
system at every call with glibc's defaults, whose page faults can cost more than the kernel ("fresh"); an allocator that
keeps freed memory (jemalloc, tcmalloc, glibc with MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=-1) gives the "steady"
figure, which the kernel answers for. Both are printed; the targets are for the steady one.
"""

import argparse
import ctypes
import dataclasses
import json
import pathlib
import sys

import pytest
import torch
import torch.nn.functional as F
from lib import timing
from tqdm import tqdm

from pcsnn import functional
from pcsnn.operators import dispatch

MILLION = 2**20


class Unavailable(Exception):
    """A row that cannot run here, and why."""


@dataclasses.dataclass
class Row:
    """`ours` against `other`: `least` (or `most`) is the ratio other / ours (or ours / other) to reach."""

    title: str
    ours: object
    other: object
    least: float | None = None
    most: float | None = None


def same(got, expected, what):
    if not torch.equal(got, expected):
        raise SystemExit(f"{what}: wrong result, not timed")


def reference(function, *arguments, **options):
    with dispatch.use_backend("reference"):
        return function(*arguments, **options)


def serial_counts(current, timesteps, theta=1.0):
    """One layer of (2) under constant current: T steps of three operations, its spikes counted."""
    potential = torch.full_like(current, theta / 2)
    counts = torch.zeros_like(current)
    for _ in range(timesteps):
        potential += current
        spike = (potential >= theta).to(current.dtype)
        potential -= theta * spike
        counts += spike
    return counts


def serial_spikes(currents, start):
    potential, spikes = torch.full_like(currents[0], start), torch.empty_like(currents)
    for current, out in zip(currents, spikes):
        potential += current
        torch.ge(potential, 1.0, out=out)
        potential -= out
    return spikes


def grid(*shape):
    """Currents that are multiples of 2^-10: every sum is exact, so that the serial layer does not round."""
    return torch.randint(-512, 2048, shape, generator=torch.Generator().manual_seed(0)) / 1024


def spikes_and_copy():
    current, levels = torch.randn(32, MILLION, generator=torch.Generator().manual_seed(0)), functional.levels(1.0, 32)
    same(functional.fire_spikes(current, levels), reference(functional.fire_spikes, current, levels), "fire_spikes")
    moved = current.nbytes + current.numel()
    source = torch.ones(moved // 2, dtype=torch.uint8)
    target = torch.zeros_like(source)
    return Row(
        f"fire_spikes [32, 2^20] float32 -> uint8 / copy of {moved // 2 / 1e6:.0f} MB, the same bytes moved",
        lambda: functional.fire_spikes(current, levels),
        lambda: target.copy_(source),
        least=0.8,
    )


def spikes_and_loop():
    current, levels = grid(32, MILLION), functional.levels(1.0, 32)
    same(functional.fire_spikes(current, levels), reference(functional.fire_spikes, current, levels), "fire_spikes")
    return Row(
        "fire_spikes [32, 2^20] / serial IF, torch loop",
        lambda: functional.fire_spikes(current, levels),
        lambda: serial_spikes(current, 0.5),
    )


def spikes_and_spikingjelly():
    try:
        from spikingjelly.activation_based import functional as spikingjelly
        from spikingjelly.activation_based import neuron
    except ImportError as error:
        raise Unavailable(
            f"SpikingJelly is not installed: {error} (pip install --no-deps spikingjelly==2.0.0; "
            "pip install loguru requests)"
        ) from None
    current, levels = grid(32, MILLION), functional.levels(1.0, 32)
    node = neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode="m").eval()

    @torch.no_grad()
    def multi_step():
        spikingjelly.reset_net(node)
        return node(current)

    same(multi_step(), serial_spikes(current, 0.0), "SpikingJelly's IFNode")
    same(functional.fire_spikes(current, levels), reference(functional.fire_spikes, current, levels), "fire_spikes")
    return Row(
        "fire_spikes [32, 2^20] / SpikingJelly 2.0 IFNode, multi-step",
        lambda: functional.fire_spikes(current, levels),
        multi_step,
        least=8,
    )


def counts_and_serial():
    current, levels = grid(MILLION), functional.levels(1.0, 32)
    same(functional.fire_counts(current, levels).float(), serial_counts(current, 32).clamp(0, 32), "fire_counts")
    return Row(
        "fire_counts [2^20], T = 32 / serial IF, torch loop",
        lambda: functional.fire_counts(current, levels),
        lambda: serial_counts(current, 32),
        least=100,
    )


def counts_of_many_levels():
    current = torch.rand(MILLION, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    few, many = functional.levels(1.0, 4), functional.levels(1.0, 255)
    for levels in (few, many):
        same(functional.fire_counts(current, levels), reference(functional.fire_counts, current, levels), "fire_counts")
    return Row(
        "time of fire_counts [2^20], T = 255 / T = 4",
        lambda: functional.fire_counts(current, many),
        lambda: functional.fire_counts(current, few),
        most=1.3,
    )


def bisected_counts():
    current = torch.rand(MILLION, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    levels = torch.rand(255, generator=torch.Generator().manual_seed(1)).sort().values
    same(functional.fire_counts(current, levels), reference(functional.fire_counts, current, levels), "fire_counts")
    even = functional.levels(1.0, 255)
    return Row(
        "time of fire_counts [2^20], T = 255, uneven levels (bisected) / even levels (guessed)",
        lambda: functional.fire_counts(current, levels),
        lambda: functional.fire_counts(current, even),
    )


def layer():
    """A residual layer of a ResNet at batch 8 with per-channel levels: current, residual, levels, scale."""
    generator = torch.Generator().manual_seed(0)
    current, residual = (
        torch.randn(8, 64, 112, 112, generator=generator).contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )
    theta = torch.rand(64, generator=generator, dtype=torch.float64) + 0.5
    levels, scale = functional.levels(theta, 8), (theta / 8).float()
    same(
        functional.fire_rates(current, levels, scale, residual),
        reference(functional.fire_rates, current, levels, scale, residual),
        "fire_rates",
    )
    return current, residual, levels, scale


def rates_and_relu():
    current, residual, levels, scale = layer()
    return Row(
        "fire_rates [8, 64, 112, 112] channels last, residual / relu_(add)",
        lambda: functional.fire_rates(current, levels, scale, residual),
        lambda: torch.add(current, residual).relu_(),
        least=1,
    )


def rates_in_place_and_relu():
    current, residual, levels, scale = layer()
    other = current.clone()
    written = functional.fire_rates(current.clone(), levels, scale, residual, inplace=True)
    same(written, reference(functional.fire_rates, current, levels, scale, residual), "fire_rates in place")
    return Row(
        "the same in place / add_().relu_()",
        lambda: functional.fire_rates(current, levels, scale, residual, inplace=True),
        lambda: other.add_(residual).relu_(),
        least=1,
    )


def expansion_and_copy():
    counts = torch.randint(33, (MILLION,), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    same(functional.expand_spikes(counts, 32), reference(functional.expand_spikes, counts, 32), "expand_spikes")
    source = torch.ones(33 * MILLION // 2, dtype=torch.uint8)
    target = torch.zeros_like(source)
    return Row(
        "expand_spikes [2^20], T = 32 -> uint8 / copy, the same bytes moved",
        lambda: functional.expand_spikes(counts, 32),
        lambda: target.copy_(source),
    )


def integer_and_binary_spikes():
    """Steps that send 0..3 beside binary ones: as many bytes in and out, three times as many levels."""
    current = torch.randn(8, MILLION, generator=torch.Generator().manual_seed(0))
    binary, levels = functional.levels(1.0, 8), functional.levels(1.0, 24)
    same(
        functional.fire_spikes(current, levels, spike_levels=3),
        reference(functional.fire_spikes, current, levels, spike_levels=3),
        "fire_spikes",
    )
    return Row(
        "fire_spikes [8, 2^20] -> uint8 0..3 / 0..1",
        lambda: functional.fire_spikes(current, levels, spike_levels=3),
        lambda: functional.fire_spikes(current, binary),
    )


def fused_convolution(channels, size, groups=1, residual=False):
    """A row: a 3x3 convolution of counts with int8 weights and its neurons, against the float32 one and its ReLU."""

    def build():
        generator = torch.Generator().manual_seed(0)
        counts = torch.randint(33, (8, channels, size, size), generator=generator).to(torch.uint8)
        weight = torch.randint(-127, 128, (channels, channels // groups, 3, 3), generator=generator).to(torch.int8)
        counts, kernel = counts.contiguous(memory_format=torch.channels_last), weight.float() / 127
        levels = (torch.arange(32) * 2 - 16).expand(channels, 32).int() * int(40 * weight[0].numel() ** 0.5)
        worth = torch.full((channels,), 50, dtype=torch.int32) if residual else None

        def layer(counts):
            return functional.conv2d_fire(
                counts,
                weight,
                levels,
                residual=counts if residual else None,
                residual_scale=worth,
                padding=1,
                groups=groups,
                timesteps=32,
            )

        rates = counts.float() / 32
        same(layer(counts[:1]), reference(layer, counts[:1]), "conv2d_fire")
        kernel = kernel.contiguous(memory_format=torch.channels_last)

        def float_layer():
            current = F.conv2d(rates, kernel, padding=1, groups=groups)
            return (current.add_(rates) if residual else current).relu_()

        words = f"{', depthwise' if groups > 1 else ''}{', residual' if residual else ''}"
        return Row(
            f"conv2d_fire 3x3 int8 [8, {channels}, {size}, {size}], T = 32{words} / float32 convolution and ReLU",
            lambda: layer(counts),
            float_layer,
        )

    build.__name__ = f"fused_convolution_{channels}_{size}" + "_depthwise" * (groups > 1) + "_residual" * residual
    return build


def pooled_counts():
    counts = torch.randint(33, (8, 64, 112, 112), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    counts = counts.contiguous(memory_format=torch.channels_last)
    rates = counts.float()
    same(functional.max_pool2d(counts, 3, 2, 1), F.max_pool2d(rates, 3, 2, 1).to(torch.uint8), "max_pool2d")
    return Row(
        "max_pool2d of counts [8, 64, 112, 112], 3x3 / of float32",
        lambda: functional.max_pool2d(counts, 3, 2, 1),
        lambda: F.max_pool2d(rates, 3, 2, 1),
    )


def summed_counts():
    counts = torch.randint(33, (8, 64, 112, 112), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    counts = counts.contiguous(memory_format=torch.channels_last)
    rates = counts.float()
    same(functional.sum_pool2d(counts, 2), F.avg_pool2d(rates, 2).mul_(4).to(torch.uint8), "sum_pool2d")
    return Row(
        "sum_pool2d of counts [8, 64, 112, 112], 2x2 / avg_pool2d of float32",
        lambda: functional.sum_pool2d(counts, 2),
        lambda: F.avg_pool2d(rates, 2),
    )


ROWS = (
    spikes_and_copy,
    spikes_and_loop,
    spikes_and_spikingjelly,
    counts_and_serial,
    counts_of_many_levels,
    bisected_counts,
    rates_and_relu,
    rates_in_place_and_relu,
    expansion_and_copy,
    integer_and_binary_spikes,
    *(fused_convolution(channels, size) for channels, size in ((64, 56), (128, 28), (256, 14), (512, 7))),
    fused_convolution(64, 56, residual=True),
    fused_convolution(96, 56, groups=96),
    pooled_counts,
    summed_counts,
)


def measure(build, rounds):
    """(row, seconds of ours, seconds of the other, ratio), medians of interleaved rounds."""
    row = build()
    calls = {"ours": row.ours, "other": row.other}
    for call in calls.values():
        call()
        call()
    seconds = timing.interleaved(calls, rounds)
    ours, other = seconds["ours"], seconds["other"]
    ratio = timing.ratio(ours, other) if row.most else timing.ratio(other, ours)
    return row, timing.median(ours), timing.median(other), ratio


def target(row):
    return f">= {row.least}" if row.least else f"<= {row.most}" if row.most else ""


def reached(row, ratio):
    if row.least is None and row.most is None:
        return ""
    return "yes" if (ratio >= row.least if row.least else ratio <= row.most) else "no"


def keep_freed_memory():
    """Make glibc reuse freed memory, however large; False where there is no glibc."""
    trim_threshold, mmap_max = -1, -4
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1))


def table(rounds, memory):
    results, notes = [], []
    for build in tqdm(ROWS, desc=f"{memory} memory", unit="row", leave=False, file=sys.stderr):
        try:
            row, ours, other, ratio = measure(build, rounds)
        except Unavailable as reason:
            notes.append(f"left out: {build.__name__}: {reason}")
            continue
        results.append(
            dict(
                row=row.title,
                memory=memory,
                ours_ms=ours * 1e3,
                other_ms=other * 1e3,
                ratio=ratio,
                target=target(row),
                reached=reached(row, ratio),
            )
        )
    width = max(len(result["row"]) for result in results)
    print(f"\n{memory} memory".ljust(width + 1) + "   ours ms  other ms    ratio  target  reached")
    for found in results:
        print(
            f"{found['row']:{width}} {found['ours_ms']:9.2f} {found['other_ms']:9.2f} {found['ratio']:8.2f}  "
            f"{found['target']:7} {found['reached']}"
        )
    for note in notes:
        print(note)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    circumstances = timing.circumstances()
    print("{processor}, {threads} threads, torch {torch}, load {load}, kernels: {backend[c++]}".format(**circumstances))
    results = table(options.rounds, "fresh")
    if keep_freed_memory():
        results += table(options.rounds, "steady")
    else:
        print("left out: steady memory needs glibc")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        written = {**circumstances, "load_at_end": timing.load(), "results": results}
        options.json.write_text(json.dumps(written, indent=1))


@pytest.mark.parametrize("side", ("ours", "other"))
@pytest.mark.parametrize("build", ROWS, ids=lambda build: build.__name__)
def test_operator(benchmark, build, side):
    try:
        row = build()
    except Unavailable as reason:
        pytest.skip(str(reason))
    benchmark.group = row.title
    benchmark(getattr(row, side))


if __name__ == "__main__":
    main()
