"""Tiles of the GPU kernels for products, timed instead of picked by a rule."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def tune() -> Iterator[None]:
    """Time fused layers with int8, float16 or bfloat16 weights that run on a GPU inside.

    Without it a table and a rule say in which tiles such a layer is computed. Inside, every kind of layer (its sizes,
    and its rows up to twice their number) is timed once in each tile that fits it; the fastest is kept in a file under
    $XDG_CACHE_HOME/pcsnn (~/.cache/pcsnn), one for each GPU, Triton and pcsnn, and used from then on, outside and in
    later processes too. Nothing is timed while a CUDA graph is captured.

    With int8 weights results are the same in every tile. With float16 and bfloat16 a tile may order its sums otherwise,
    so that a current may be rounded otherwise, and a count may differ where a level lies there.

    Raises:
        RuntimeError: there is no GPU, or Triton does not import.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("tune: expected a GPU, found none")
    try:
        from pcsnn.kernels import tuning
    except ImportError as error:
        raise RuntimeError(f"tune: Triton does not import: {error}") from error
    with tuning.timing():
        yield
