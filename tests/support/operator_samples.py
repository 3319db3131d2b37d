"""Arguments of every operator, strided, empty and of every dtype: for opcheck, and to be mutated."""

import torch

from pcsnn import functional
from pcsnn.levels.spacing import find_spacing

CURRENT = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
LAST = CURRENT.contiguous(memory_format=torch.channels_last)
COUNTS = torch.arange(120, dtype=torch.uint8).reshape(2, 3, 4, 5)
LEVELS = functional.levels(1.0, 4)
ROWS = functional.levels(torch.tensor([1.0, 0.5, 2.0]), 4)
LINE, LINES = find_spacing(LEVELS).line, find_spacing(ROWS).line
SCALE = torch.tensor(0.25)
SCALES = torch.tensor([0.25, 0.5, 1.0])
STEPS = torch.stack([LAST, CURRENT, CURRENT, -CURRENT])

KERNEL = torch.randn(3, 3, 2, 2, generator=torch.Generator().manual_seed(1))
WHOLE, WHOLE_LEVELS = (
    (40 * KERNEL).to(torch.int8),
    torch.arange(-200, 200, 100, dtype=torch.int32).expand(3, 4).contiguous(),
)
GEOMETRY = [2, 1], [1, 0], [1, 1], 1
COUNTED, SUMS = COUNTS[:, :, :3, :4], torch.arange(72, dtype=torch.int32).reshape(2, 3, 3, 4)  # of its outputs' shape

TOKENS = CURRENT[0].transpose(0, 2)  # strided, of 3 features

SAMPLES = {
    "fire_counts": [
        (CURRENT, LEVELS, None, None, 1),
        (LAST, ROWS, CURRENT, None, 0),
        (CURRENT[:, :, ::2].half(), ROWS, COUNTS[:, :, ::2], SCALES, 1),
        (CURRENT[:0], LEVELS, None, None, 0),
        (LAST, ROWS, None, None, 1, LINES),
        (CURRENT, LEVELS, None, None, 0, LINE, 1),
    ],
    "fire_rates": [
        (CURRENT, LEVELS, SCALE, None, None, 1),
        (LAST, ROWS, SCALES, LAST, None, 0),
        (LAST, ROWS, SCALES, None, None, 0, 2, 1),
        (LAST, ROWS, SCALES, None, None, 1, 0, 0, LINES),
        (CURRENT.double().transpose(1, 2).transpose(1, 2)[..., 1:], LEVELS, SCALE, COUNTS[..., 1:], SCALE, 1),
    ],
    "fire_rates_": [
        (CURRENT.clone(), LEVELS, SCALE, None, None, 1),
        (LAST.clone()[..., ::2], ROWS, SCALES, LAST[..., ::2], None, 0),
        (CURRENT.clone(), LEVELS, SCALE, None, None, 0, 1, 2),
        (CURRENT.clone(), LEVELS, SCALE, None, None, 1, 0, 0, LINE),
    ],
    "fire_spikes": [
        (STEPS, LEVELS, None, torch.uint8, 1),
        (STEPS.movedim(0, -1).contiguous().movedim(-1, 0), ROWS, SCALES, torch.float16, 0),
        (LAST[:1].expand(4, 2, 3, 4, 5).bfloat16(), LEVELS, None, torch.bool, 0),
        (STEPS, ROWS, None, torch.uint8, 1, LINES),
        (STEPS, functional.levels(1.0, 8), None, torch.uint8, 1, None, 0, 2),
        (LAST[:1].expand(2, 2, 3, 4, 5).half(), ROWS.repeat(1, 2).sort().values, SCALES, torch.bfloat16, 0, None, 0, 4),
    ],
    "expand_spikes": [
        (COUNTS, 4, None, torch.uint8, None),
        (COUNTS.contiguous(memory_format=torch.channels_last), 4, torch.tensor([2, 0, 3, 1]), torch.float32, SCALES),
        (COUNTS[:, :, ::2], 255, None, torch.bool, None),
        (COUNTS[:, :, ::2], 4, torch.tensor([2, 0, 3, 1]), torch.uint8, None, 15),
        (COUNTS.contiguous(memory_format=torch.channels_last), 2, None, torch.float64, SCALES, 2),
    ],
    "conv2d_fire": [
        (COUNTS, KERNEL, None, ROWS, None, None, None, *GEOMETRY, 1, 120),
        (LAST, KERNEL, SCALES, LEVELS, SCALE, SUMS.float(), None, *GEOMETRY, 0, 255),
        (COUNTS, KERNEL.bfloat16(), SCALES.bfloat16(), ROWS, None, COUNTED, SCALES, *GEOMETRY, 1, 120),
        (COUNTS, KERNEL, None, None, SCALES, None, None, *GEOMETRY, 1, 120),
        (COUNTS, WHOLE, None, WHOLE_LEVELS, None, None, None, *GEOMETRY, 1, 120),
        (COUNTS, WHOLE, WHOLE_LEVELS[:, 0], WHOLE_LEVELS, SCALES, SUMS, None, *GEOMETRY, 0, 255),
        (COUNTS[:0], WHOLE, None, None, None, None, None, *GEOMETRY, 1, 120),
        (COUNTS, KERNEL, None, ROWS, None, None, None, *GEOMETRY, 1, 120, LINES),
        (
            COUNTS.half(),
            KERNEL.half(),
            None,
            ROWS,
            None,
            COUNTED.half(),
            SCALES,
            *GEOMETRY,
            1,
            120,
            LINES,
            0,
            torch.float16,
        ),
    ],
    "linear_fire": [
        (COUNTS[:, :, :3, 0], KERNEL[:, :, 0, 0], None, ROWS, None, None, None, 1, 120),
        (LAST[:, :, 0, :3], KERNEL[:, :, 0, 0], SCALES, LEVELS, SCALE, None, None, 1, 255),
        (
            COUNTS[:, :, 0, :3],
            WHOLE[:, :, 0, 0],
            None,
            WHOLE_LEVELS,
            None,
            COUNTS[:, :, 1, :3],
            WHOLE_LEVELS[:, 1],
            0,
            120,
        ),
        (COUNTS[:, 0, 0, :3], KERNEL[:, :, 0, 0].half(), None, None, None, None, None, 1, 120),
        (
            COUNTS[:, 0, 0, :3],
            KERNEL[:, :, 0, 0].bfloat16(),
            None,
            ROWS,
            None,
            None,
            None,
            1,
            120,
            LINES,
            0,
            torch.bfloat16,
        ),
    ],
    "spiking_attention": [
        (CURRENT[0], CURRENT[1], CURRENT[1, :, :, :3].contiguous(), LEVELS, SCALE, 1, False, 1),
        (TOKENS, TOKENS, TOKENS, ROWS, SCALES, 3, True, 0),
        (TOKENS, TOKENS, TOKENS, ROWS, SCALES, 3, True, 1, LINES),
        (CURRENT[0].half(), CURRENT[0, :, :2].half(), CURRENT[0, :, :2].half(), LEVELS, SCALE, 5, False, 1),
        (CURRENT[0, :0], CURRENT[0, :0], CURRENT[0, :0], LEVELS, SCALE, 1, False, 1),
    ],
    "max_pool2d": [
        (COUNTS, [2, 3], [2, 1], [1, 1], [1, 1], [3, 5]),
        (COUNTS.half(), [2, 3], [2, 1], [1, 1], [1, 1], [3, 5]),
        (COUNTS[:0], [2, 2], [2, 2], [0, 0], [1, 1], [2, 2]),
    ],
    "sum_pool2d": [
        (COUNTS, [2, 3], [2, 1], [1, 1], [1, 1], [3, 5]),
        (COUNTS.half(), [2, 3], [2, 1], [1, 1], [1, 1], [3, 5]),
        (COUNTS[:0], [2, 2], [2, 2], [0, 0], [1, 1], [2, 2]),
    ],
}
