"""Layers of gpu.py: convolutions in operations a second beside cuDNN's, the others as a share of what bounds them."""

import torch
import torch.nn.functional as F

from lib import checks, gpu_clock, gpu_limits, timing
from lib.gpu_rows import OTHER, OURS, Prepared, Row, faster, reference, same_in_parts
from lib.gpu_setting import TIMESTEPS
from pcsnn import functional

BATCH = 256
PARTS = 16
STAGES = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels and pixels of ResNet-34
LAUNCHES = 20  # in one CUDA graph, for layers shorter than a launch
ATTENTION = 2e-2  # relative difference of bfloat16 attention, whose scores and result are rounded, from float32


def _channels_last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last)


def _synapse(setting, outputs, inputs, *kernel):
    """int8 weights, and evenly spaced levels about 0 as far apart as their sums spread."""
    weight = setting.integers(-127, 128, outputs, inputs, *kernel, dtype=torch.int8)
    weight = _channels_last(weight) if kernel else weight
    unit = int(80 * weight[0].numel() ** 0.5)
    levels = (torch.arange(TIMESTEPS, device=setting.device) - TIMESTEPS // 2).expand(outputs, TIMESTEPS).int() * unit
    return weight, levels.contiguous()


def _convolution(setting, channels, size, batch):
    """3x3, residual of counts and search, beside cuDNN's bfloat16 convolution alone."""
    channels, batch, size = setting.small(channels, 8), setting.small(batch, min(batch, 2)), setting.small(size, 5)
    counts = _channels_last(setting.integers(0, TIMESTEPS + 1, batch, channels, size, size))
    weight, levels = _synapse(setting, channels, channels, 3, 3)
    residual = _channels_last(counts.flip(1))
    worth = torch.full((channels,), 50, dtype=torch.int32, device=setting.device)
    values, kernel = counts.bfloat16(), weight.bfloat16()

    def layer(counts, residual):
        return functional.conv2d_fire(
            counts, weight, levels, residual=residual, residual_scale=worth, padding=1, timesteps=TIMESTEPS
        )

    def theirs():
        return F.conv2d(values, kernel, padding=1)

    found = layer(counts, residual)
    verdict = same_in_parts(found, lambda part: reference(layer, counts[part], residual[part]), PARTS)
    operations = 2 * found.numel() * weight[0].numel()
    calls, launches = {OURS: lambda: layer(counts, residual), OTHER: theirs}, 1
    if batch == 1:  # several in one graph: one alone is shorter than its launch
        launches = LAUNCHES
        calls = {
            name: gpu_clock.captured(lambda call=call: [call() for _ in range(launches)][-1], setting)
            for name, call in calls.items()
        }
        if not torch.equal(calls[OURS](), found):
            verdict = checks.Verdict(False, "replayed counts are not those of a call")

    def speed(seconds, name=OURS):
        return launches * operations / timing.median(seconds[name]) / 1e12

    def beside(seconds):
        return (
            f"{timing.median(seconds[OURS]) / launches * 1e6:.1f} us; cuDNN's bfloat16 convolution alone "
            f"{speed(seconds, OTHER):.0f} TFLOP/s"
        )

    return Prepared(verdict, calls, speed, beside)


def _bounded(call, verdict, moved, operations, dtype, setting):
    """A share of the bound: least time of the bytes or of the operations, whichever is longer, over the time taken."""
    other, share, words = gpu_limits.beside(moved, operations, dtype, setting)
    return Prepared(
        verdict,
        {OURS: call, OTHER: other},
        lambda seconds: share * faster(seconds),
        lambda seconds: f"bound by {words}; {timing.median(seconds[OURS]) * 1e6:.0f} us",
    )


def _fused(setting, inputs, outputs, size, kernel, stride=1, padding=0, groups=1, batch=BATCH):
    """A convolution without a residual."""
    inputs, outputs = setting.small((inputs, outputs), (min(inputs, 8), 8))
    batch, size = setting.small((batch, size), (2, 9))
    groups = setting.small(groups, inputs if groups > 1 else 1)
    counts = _channels_last(setting.integers(0, TIMESTEPS + 1, batch, inputs, size, size))
    weight, levels = _synapse(setting, outputs, inputs // groups, kernel, kernel)

    def layer(counts):
        return functional.conv2d_fire(
            counts, weight, levels, stride=stride, padding=padding, groups=groups, timesteps=TIMESTEPS
        )

    found = layer(counts)
    verdict = same_in_parts(found, lambda part: reference(layer, counts[part]), PARTS)
    operations = 0 if groups > 1 else 2 * found.numel() * weight[0].numel()  # depthwise: no matrix product
    moved = counts.numel() + weight.numel() + found.numel()
    return _bounded(lambda: layer(counts), verdict, moved, operations, torch.int8, setting)


def _linear(setting, rows=8192, features=4096):
    rows, features = setting.small((rows, features), (32, 16))
    counts = setting.integers(0, TIMESTEPS + 1, rows, features)
    weight, levels = _synapse(setting, features, features)

    def layer(counts):
        return functional.linear_fire(counts, weight, levels, timesteps=TIMESTEPS)

    found = layer(counts)
    verdict = same_in_parts(found, lambda part: reference(layer, counts[part]), PARTS)
    moved = counts.numel() + weight.numel() + found.numel()
    return _bounded(lambda: layer(counts), verdict, moved, 2 * found.numel() * features, torch.int8, setting)


def _pool(setting, function, *geometry):
    size, batch = setting.small(112, 8), setting.small(BATCH, 2)
    counts = _channels_last(setting.integers(0, TIMESTEPS + 1, batch, 64, size, size))

    def layer(counts):
        return function(counts, *geometry)

    found = layer(counts)
    verdict = same_in_parts(found, lambda part: reference(layer, counts[part]), PARTS)
    return _bounded(lambda: layer(counts), verdict, counts.numel() + found.numel(), 0, torch.int8, setting)


def _attention(setting, heads=12, width=64, tokens=1024, batch=32):
    """Without softmax, bfloat16; its sums round, so that it is compared with float32 up to that rounding."""
    heads, width, tokens, batch = setting.small((heads, width, tokens, batch), (2, 16, 8, 2))
    features = heads * width
    query, key, value = (setting.randn(3, batch, tokens, features) / 4).bfloat16().unbind(0)
    levels = functional.levels(1.0, TIMESTEPS).to(setting.device)

    def layer(query, key, value):
        return functional.spiking_attention(query, key, value, levels, scale=1 / TIMESTEPS, heads=heads)

    found = layer(query, key, value)
    apart = checks.difference(found.float(), reference(layer, query.float(), key.float(), value.float()))
    verdict = checks.Verdict(apart <= ATTENTION, f"{apart:.0e} from the reference in float32")
    operations = 4 * batch * heads * tokens * tokens * width
    return _bounded(lambda: layer(query, key, value), verdict, 4 * found.nbytes, operations, torch.bfloat16, setting)


def rows(setting, models):
    """Convolutions of ResNet-34 by stage, and one of each other kind of layer."""
    made = [
        Row(
            f"int8 3x3, {channels} channels, {size}x{size}, batch {batch}",
            "TOP/s",
            lambda s, c=channels, p=size, b=batch: _convolution(s, c, p, b),
        )
        for batch in (BATCH, 1)
        for channels, size in STAGES
    ]
    others = {
        "int8 1x1, 1024 to 256 channels, 14x14, batch 256": lambda s: _fused(s, 1024, 256, 14, 1),
        "int8 7x7 stem, 3 to 64 channels, 230x230, batch 256": lambda s: _fused(s, 3, 64, 230, 7, stride=2),
        "int8 depthwise 3x3, 192 channels, 56x56, batch 256": lambda s: _fused(
            s, 192, 192, 56, 3, padding=1, groups=192
        ),
        "int8 linear, 8192 rows, 4096 to 4096": _linear,
        "max_pool2d 3x3, 64 channels, 112x112, batch 256": lambda s: _pool(s, functional.max_pool2d, 3, 2, 1),
        "sum_pool2d 2x2, 64 channels, 112x112, batch 256": lambda s: _pool(s, functional.sum_pool2d, 2, 2),
        "spiking_attention bfloat16, 12 heads of 64, 1024 tokens, batch 32": _attention,
    }
    return made + [Row(what, "of its limit", build) for what, build in others.items()]
