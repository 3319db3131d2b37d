"""Calls operators with arguments that are almost right, and writes down which call it is at:
`python operator_mutations.py LOG SEED COUNT SECONDS NAME...`. Prints how many calls of each operator were accepted and
refused."""

import json
import random
import resource
import sys
import time

import torch
from operator_samples import COUNTS, CURRENT, GEOMETRY, KERNEL, LEVELS, LINE, ROWS, SAMPLES, SCALES, WHOLE, WHOLE_LEVELS

from pcsnn.cpu import integer_products

MEMORY = 4 << 30  # bytes of a child, so that enormous results are refused and not made
BLOCKS = integer_products.blocks(torch.ones(16, 32, 3, 3, dtype=torch.int8))
BYTES = torch.ones(1, 32, 6, 5, dtype=torch.uint8)
FUSED = "conv2d_fire", "linear_fire"
PRIVATE = {
    **{f"{part}{name}": SAMPLES[name] for name in FUSED for part in ("_", "_check_")},
    "_products": [
        (BYTES, BLOCKS, None, None, 16, [3, 3], [1, 2], [1, 1], [1, 1], 8, 4),
        (BYTES, BLOCKS, torch.ones(16), torch.zeros(16), 16, [3, 3], [1, 1], [0, 0], [1, 1], 8, 8),
    ],
    "transfer_gradient": [
        (CURRENT, -CURRENT, torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([0.5, 2.0])),
        (CURRENT, CURRENT, ROWS, ROWS[:, 1:]),
    ],
    "cpu_capability": [()],
}
# Stages that random arguments would seldom reach together.
MORE = {
    "conv2d_fire": [
        (COUNTS, KERNEL, None, ROWS, None, None, None, [3, 3], [4, 5], [1, 2], 1, 1, 120),
        (COUNTS[..., :1], KERNEL[..., :1], SCALES, LEVELS, None, None, None, [1, 2], [1, 3], [1, 2], 1, 1, 120, LINE),
        (COUNTS, WHOLE, None, WHOLE_LEVELS, None, None, None, [3, 3], [4, 5], [1, 2], 1, 1, 120),
        (COUNTS, KERNEL[:, :1], None, ROWS, None, None, None, *GEOMETRY[:3], 3, 1, 120),
        (COUNTS, WHOLE[:, :1], None, WHOLE_LEVELS, None, None, None, *GEOMETRY[:3], 3, 1, 120),
    ]
}
LIMITS = [
    0,
    1,
    2,
    3,
    5,
    127,
    255,
    256,
    2**15,
    2**20,
    2**31 - 1,
    2**31,
    2**32,
    2**40,
    2**62,
    2**63 - 1,
    -1,
    -2,
    -(2**31),
    -(2**63),
]
DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.uint8,
    torch.int8,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.complex64,
]


def names():
    """Every operator of the library, whoever registered it."""
    return sorted(
        {
            schema.name.removeprefix("pcsnn::")
            for schema in torch._C._jit_get_all_schemas()
            if schema.name.startswith("pcsnn::")
        }
    )


def samples(name):
    return [*SAMPLES.get(name, ()), *PRIVATE.get(name, ()), *MORE.get(name, ())]


def _without_storage(x):
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


def _short_storage(x):
    x = x.clone()
    x.untyped_storage().resize_(x.untyped_storage().nbytes() // 2)
    return x


def _strided(draw, x):
    """Any strides within a memory of poison: overlapping, backwards in order, apart."""
    strides = [draw.randrange(4) for _ in x.shape]
    room = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, strides) if size)
    return torch.full((max(room, 1),), 77).to(x.dtype).as_strided(x.shape, strides)


def _resized(draw, x):
    """One dimension longer, shorter, empty or gone."""
    if not x.dim():
        return x.expand(draw.choice([0, 1, 3]))
    d = draw.randrange(x.dim())
    sizes = list(x.shape)
    sizes[d] = draw.choice([0, 1, sizes[d] + 1, max(sizes[d] - 1, 0), 2 * sizes[d]])
    return torch.ones(sizes).to(x.dtype)


def _filled(draw, x):
    values = [0, 1, -1, 127, 255]
    if x.is_floating_point():
        values += [float("nan"), float("inf"), float("-inf"), 1e-45, 3e38]
    elif x.dtype in (torch.int32, torch.int64):
        values += [2**31 - 1, -(2**31)]
    mixed = torch.tensor([float(draw.choice(values)) for _ in range(x.numel())], dtype=torch.float64)
    return mixed.to(x.dtype).reshape(x.shape)


def _channels_last(x):
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _huge(x):
    return x[:1].expand(2**40, *x.shape[1:]) if x.dim() and len(x) else x


TENSORS = [
    lambda draw, x: None,
    lambda draw, x: x.reshape(-1)[:1].sum().to(x.dtype),
    lambda draw, x: x[None],
    lambda draw, x: x.to(draw.choice(DTYPES)),
    lambda draw, x: x.to(draw.choice(DTYPES)),
    lambda draw, x: x.to("meta"),
    lambda draw, x: x.float().to_sparse(),
    lambda draw, x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.quint8),
    lambda draw, x: x.float().to_mkldnn() if 0 < x.dim() < 6 else None,
    lambda draw, x: x.transpose(0, -1) if x.dim() else x,
    lambda draw, x: x.flip(-1).transpose(0, -1) if x.dim() else x,
    lambda draw, x: _channels_last(x),
    lambda draw, x: x[:1].expand(x.shape) if x.dim() else x,
    lambda draw, x: _huge(x),
    lambda draw, x: x.new_zeros(()).expand(x.shape),
    lambda draw, x: torch._efficientzerotensor(x.shape, dtype=x.dtype),
    lambda draw, x: torch._neg_view(x) if x.is_floating_point() else x,
    lambda draw, x: torch.nn.Parameter(x.float()),
    lambda draw, x: _without_storage(x),
    lambda draw, x: _short_storage(x),
    _strided,
    _strided,
    _resized,
    _resized,
    _filled,
    _filled,
]


def _number(draw):
    return draw.choice(LIMITS)


def _numbers(draw, value):
    kind = draw.randrange(6)
    if kind > 3:
        return [draw.randrange(7) for _ in value]
    if kind == 0:
        return [draw.choice([1, 2, 0]) for _ in range(draw.choice([0, 1, 3, 4]))]
    if kind == 1:
        return [_number(draw) for _ in value]
    value = list(value)
    value[draw.randrange(len(value))] = _number(draw)
    return value


def mutated(draw, value, optional):
    """`value`, an argument of a sample, changed."""
    if isinstance(value, torch.Tensor):
        return draw.choice(TENSORS)(draw, value)
    if isinstance(value, (bool, torch.dtype)) or value is None and not optional:
        return draw.choice([*DTYPES, None, True, False, torch.qint8])
    if isinstance(value, int):
        return _number(draw)
    if isinstance(value, (list, tuple)):
        return _numbers(draw, value)
    return draw.choice([None, CURRENT, LEVELS, COUNTS, torch.tensor(0.5), torch.ones(3), WHOLE_LEVELS])


def describe(value):
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {list(value.shape)} {value.layout} {value.device}"
    return repr(value)


def call(operator, draw, cases, log):
    """One call with one to four arguments changed; None where it was refused, else what came."""
    arguments = list(draw.choice(cases))
    if arguments and operator._schema.is_mutable:
        arguments[0] = arguments[0].clone()
    for place in draw.sample(range(len(arguments)), min(draw.choice([1, 1, 1, 2, 2, 3, 4]), len(arguments))):
        arguments[place] = mutated(draw, arguments[place], "Tensor" in str(operator._schema.arguments[place].type))
    log.seek(0)
    log.write(f"{operator}({', '.join(map(describe, arguments))})".ljust(2000))
    log.flush()
    try:
        return operator(*arguments), None
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        return None, error


def main(log, seed, count, seconds, *chosen):
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    draw, end = random.Random(int(seed)), time.monotonic() + float(seconds)
    found = {name: [0, 0] for name in chosen}
    with open(log, "w") as log:
        for _ in range(int(count)):
            for name in chosen:
                operator = getattr(torch.ops.pcsnn, name).default
                _, error = call(operator, draw, samples(name), log)
                if "INTERNAL ASSERT" in str(error):
                    raise AssertionError(f"an argument got as far as an internal assertion: {error}")
                found[name][error is not None] += 1
            if time.monotonic() > end:
                break
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
