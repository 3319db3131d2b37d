"""What each row of gpu.py is to reach, and what it was before.

`before` was measured at commit 877ccf2, the first that ran on a GPU: one NVIDIA H200, torch 2.11, Triton 3.6,
2026-11-26 (docs/gpu.md); a range where only that is known. Figures of networks are ResNet-34's, 224x224, T = 32.
"""

from typing import NamedTuple

SOURCE = "commit 877ccf2 on one NVIDIA H200, torch 2.11, Triton 3.6, 2026-11-26"


class Goal(NamedTuple):
    """target: None where there is none. before: one value, two (a range), or none."""

    target: float | None = None
    before: tuple = ()


def _operators():
    yield "fire_counts float32, one threshold", Goal(0.95, (0.95,))
    yield "fire_counts bfloat16, one threshold", Goal(0.90, (0.81,))
    for dtype, target in (("float32", 0.90), ("bfloat16", 0.85)):
        full = dtype == "float32"
        yield f"fire_counts {dtype}, per channel, NCHW", Goal(target, (0.61,) if full else ())
        yield f"fire_counts {dtype}, per channel, NHWC", Goal(target, (0.54,) if full else ())
        yield f"fire_rates {dtype}, per channel, NHWC", Goal(0.90, (0.31,) if full else (0.22, 0.37))
        for residual in ("uint8", dtype):
            yield (
                f"fire_rates {dtype}, per channel, NHWC, residual {residual}",
                Goal(0.90, ((0.32,) if full else (0.22, 0.37)) if residual == "uint8" else ()),
            )
        for timesteps, reach in ((8, 0.80), (16, 0.80), (32, 0.60)):
            yield (
                f"fire_counts {dtype}, per channel, uneven levels, NHWC, T = {timesteps}",
                Goal(reach, (0.33,) if full and timesteps == 32 else ()),
            )
    for dtype in ("float32", "float16", "bfloat16"):
        for out in ("uint8", dtype):
            yield f"fire_spikes {dtype} to {out}", Goal(0.90, () if dtype == "float16" else (0.83, 0.98))
    for out in ("uint8", "bool", "float32", "float16", "bfloat16", "float64"):
        yield f"expand_spikes to {out}", Goal(0.90, (0.89,) if out == "uint8" else ())
    yield "fire_spikes / SpikingJelly's IFNode, multi-step", Goal(None, (1.6,))
    yield "a call of torch.relu", Goal(None, (10,))
    yield "a call of fire_counts", Goal(20, (105,))
    for name in ("fire_rates", "fire_spikes"):
        yield f"a call of {name}", Goal(20)
    yield "a layer of an optimised network", Goal(12)


def _layers():
    for channels, size, target in ((64, 56, 450), (128, 28, 680), (256, 14, 880), (512, 7, 900)):
        yield f"int8 3x3, {channels} channels, {size}x{size}, batch 256", Goal(target, (139,))  # mean over a network


GOALS = {
    "copy": Goal(None, (4276,)),
    "bfloat16 product": Goal(None, (749,)),
    "int8 product": Goal(None, (870,)),
    **dict(_operators()),
    **dict(_layers()),
    "resnet34 int8, batch 256 / bfloat16 ReLU network, torch.compile": Goal(1.7, (0.42,)),
    "resnet34 bfloat16, batch 256 / bfloat16 ReLU network, torch.compile": Goal(1.0, (0.22,)),
    "resnet34 collapsed float32, batch 256 / eager ReLU network": Goal(1.05, (1.10,)),
    "resnet34 collapsed tf32, batch 256 / eager ReLU network": Goal(1.05, (1.35,)),
    "resnet34 collapsed bfloat16, batch 256 / eager ReLU network": Goal(1.05, (1.39,)),
    "resnet34 int8, batch 1 / bfloat16 ReLU network, torch.compile, both graphs": Goal(1.0, (1.86,)),
    "resnet34 int8, batch 32, graph / serial IF": Goal(200, (68,)),
    "resnet34 int8, batch 256": Goal(None, (17902,)),
    "resnet50 int8, batch 256": Goal(44000, (11130,)),
    "resnet34 int8: counts unlike the CPU's": Goal(0, (0,)),
    "resnet34 int8, optimised on the GPU: counts unlike the CPU's": Goal(0),
}
