"""All operators over sizes around the vector widths and the block, every dtype and layout: a program, for processes
that run with other instruction sets or guarded memory than the tests do."""

import math

import cases
import torch

import pcsnn


def sweep():
    compared = 0
    for size in (1, 7, 33, 2049):
        for shape in ((size,), (1, 3, size), (size, 3), (2, 17, max(size // 30, 1))):
            timesteps = 13 if size < 100 else 6
            for table in cases.tables(timesteps, shape[1] if len(shape) > 1 else None)[:3:2]:
                for dtype in cases.DTYPES:
                    compared += operators(shape, table, dtype)
    return compared


def operators(shape, table, dtype):
    timesteps = table.levels.shape[-1]
    current = cases.currents(shape, table.levels, dtype, seed=timesteps)
    rows = shape[1:2] or ()
    scale = torch.linspace(0.5, 1.5, math.prod(rows)).reshape(rows)
    counts = torch.arange(current.numel()).reshape(shape).to(torch.uint8)
    options = dict(spacings=table.spacings, what=f"{shape}, {table.name}, {dtype}")
    views = list(cases.layouts(current)) if current.numel() < 400 else [("contiguous", current)]
    for _, view in views:
        cases.compare("c++", "fire_counts", view, table.levels, current, None, **options)
        cases.compare("c++", "fire_rates", view, table.levels, scale, counts, scale, **options)
    steps = current.repeat(timesteps, *[1] * current.dim()).contiguous()
    cases.compare("c++", "fire_spikes", steps, table.levels, None, torch.uint8, **options)
    for out_dtype in (torch.bool, dtype):
        amplitude = scale if out_dtype.is_floating_point else None
        cases.compare("c++", "expand_spikes", counts, timesteps, None, out_dtype, amplitude)
    for out_dtype in (torch.uint8, dtype):
        amplitude = scale if out_dtype.is_floating_point else None
        cases.compare("c++", "expand_spikes", counts, timesteps, None, out_dtype, amplitude, 19)
    return 2 * len(views) + 5


def every_edge():
    """Currents at and next to every level of tables of all lengths, as means and as sums."""
    compared = 0
    for timesteps in (1, 2, 3, 4, 8, 16, 17, 32, 100, 128, 255):
        for channels in (None, 5):
            for table in cases.tables(timesteps, channels, seed=timesteps):
                options = dict(
                    spacings=table.spacings, what=f"edges of {table.name}, T={timesteps}, {channels} channels"
                )
                for dtype in (torch.float32, torch.float64):
                    current = cases.edges(table.levels, dtype)
                    layouts = [current] if channels is None else [current[None], current.t().contiguous()]
                    for mean in layouts:
                        cases.compare("c++", "fire_counts", mean, table.levels, None, None, **options)
                        cases.compare("c++", "fire_rates", mean, table.levels, torch.tensor(0.3), None, None, **options)
                    compared += 2 * len(layouts)
                    if channels is not None and timesteps > 32:
                        continue  # trains of as many neurons take long
                    sums = cases.edges(table.levels.to(dtype) * timesteps, dtype)
                    steps = torch.zeros(timesteps, *layouts[-1].shape, dtype=dtype)
                    steps[timesteps // 2] = sums if channels is None else sums.t()
                    cases.compare("c++", "fire_spikes", steps, table.levels, None, torch.uint8, **options)
                    compared += 1
    return compared


def convolutions():
    """int8 weights and counts up to 8: every instruction set takes its own way. Tensors end with their pages."""
    for shape, outputs, kernel, stride, padding in (
        ((2, 32, 7, 9), 32, 3, 1, 1),
        ((1, 16, 13, 5), 16, 1, 2, 0),
        ((1, 8, 6, 6), 16, 3, 2, 0),
        ((1, 5, 8, 8), 3, 3, 1, 1),
    ):
        counts = (torch.arange(math.prod(shape)) % 9).reshape(shape).to(torch.uint8)
        counts = counts.contiguous(memory_format=torch.channels_last)
        weight = (
            (torch.arange(outputs * shape[1] * kernel**2) * 37 % 255 - 127)
            .reshape(outputs, shape[1], kernel, kernel)
            .to(torch.int8)
        )
        for levels in (
            torch.arange(-400, 400, 100, dtype=torch.int32),
            torch.tensor([-90, 3, 5, 700], dtype=torch.int32),
        ):
            given = dict(stride=stride, padding=padding, timesteps=8)
            with pcsnn.use_backend("reference"):
                expected = pcsnn.functional.conv2d_fire(counts, weight, levels, **given)
            assert torch.equal(pcsnn.functional.conv2d_fire(counts, weight, levels, **given), expected), (shape, levels)
    return 8


if __name__ == "__main__":
    torch.set_num_threads(2)
    print(torch.ops.pcsnn.cpu_capability(), sweep() + every_edge() + convolutions(), pcsnn.backend_info()["cpu"])
