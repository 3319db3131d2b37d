"""Currents of random shape and strides, for property tests."""

import hypothesis.strategies as st
import torch


@st.composite
def strided(draw, dtype, lead=()):
    """A current of random shape and strides: permuted, sliced with steps, expanded."""
    dims = draw(st.integers(1, 5))
    shape = [draw(st.integers(0 if dims < 3 else 1, 9)) for _ in range(dims)]
    order = draw(st.permutations(range(dims)))
    steps = [draw(st.sampled_from((1, 1, 1, 2, 3))) for _ in range(dims)]
    expand = [draw(st.sampled_from((False,) * 5 + (True,))) for _ in range(dims)]
    stored = [1 if wide else size * step for size, step, wide in zip(shape, steps, expand)]
    seed = draw(st.integers(0, 2**16))
    scale = draw(st.sampled_from((1e-3, 1.0, 50.0)))
    memory = torch.randn(*lead, *[stored[d] for d in order], generator=torch.Generator().manual_seed(seed)) * scale
    back = sorted(range(dims), key=order.__getitem__)
    view = memory.to(dtype).permute(*range(len(lead)), *[len(lead) + d for d in back])
    for d, step in enumerate(steps):
        if not expand[d]:
            view = view[(slice(None),) * (len(lead) + d) + (slice(None, None, step),)]
    return view.expand(*lead, *shape), scale
