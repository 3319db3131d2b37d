"""Attention without softmax of spiking queries, collapsed over time, in one launch (20).

A program fires a tile of queries of one head from their mean currents, in registers, and keeps the rates there as the
left operand of its products. Of few keys, or under a causal mask, it walks over tiles of keys as flash attention does:
scores, the mask, times values; there is no maximum to keep. Of many keys without a mask K^T V is summed before, by
torch, and it is one product.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from pcsnn.kernels import common, variants
from pcsnn.kernels.common import load_row, search
from pcsnn.kernels.launch import Launch, run
from pcsnn.tensors.shapes import keys_first, split_heads

__all__ = ["spiking_attention"]

MAX_WIDTH = 256  # features of a head of queries, all of which a program holds
STATE_COST = 4  # what a multiplication of float32, as those by K^T V are, may cost in place of one on tensor cores


class Tile(NamedTuple):
    """What a program computes, and how it is run."""

    rows: int  # queries
    keys: int  # at a time
    columns: int  # features of values, at most
    threads: int
    stages: int


# By size of an element in bytes, then of heads up to so many features; the last is for few queries, of heads of any
# width.
TILES = {
    2: {
        64: Tile(64, 64, 64, 128, 2),
        128: Tile(64, 32, 64, 256, 2),
        256: Tile(32, 32, 64, 256, 2),
        0: Tile(16, 32, 64, 128, 2),
    },
    4: {
        64: Tile(32, 32, 32, 128, 2),
        128: Tile(32, 16, 32, 256, 2),
        256: Tile(16, 16, 32, 256, 2),
        0: Tile(16, 16, 32, 256, 2),
    },
}

# Of the product by K^T V, summed before; `keys` are features of queries at a time, and there are no fewer columns. One
# stage: more would also fetch ahead what a search reads of the levels.
STATE_TILE, STATE_COLUMNS = Tile(64, 16, 64, 256, 1), 32

# Registers of a thread that bisects: with what the compiler would settle for it spills one or two.
ROOMY = dict.fromkeys((80, 86, 89, 90), 168)

_UNSPECIALISED = (
    "queries",
    "keys",
    "heads",
    "row_tiles",
    "column_tiles",
    "timesteps",
    "repeat",
    "distinct",
    "reach",
    "level_stride",
    "channel_stride",
)


@triton.jit
def _place(heads, row_tiles, column_tiles):
    """(column tile, row tile, image * heads + head, head, image as int64) of this program."""
    program = tl.program_id(0)
    pair = program // column_tiles // row_tiles
    return program % column_tiles, program // column_tiles % row_tiles, pair, pair % heads, (pair // heads).to(tl.int64)


@triton.jit
def _fire(
    current,
    lane,
    head,
    width,
    features,
    levels_ptr,
    line_ptr,
    scale_ptr,
    timesteps,
    repeat,
    distinct,
    reach,
    level_stride,
    channel_stride,
    DTYPE: tl.constexpr,
    LINE: tl.constexpr,
    STEPS: tl.constexpr,
    STAIRS: tl.constexpr,
    LEVELS_ROWS: tl.constexpr,
    LINE_ROWS: tl.constexpr,
    SCALE_ROWS: tl.constexpr,
):
    """Rates of queries under `current` [ROWS, WIDTH], rounded to DTYPE; lane [WIDTH]: features of the head, beyond
    it 0."""
    channel = (head * width + tl.minimum(lane, width - 1))[None, :]
    reached = search(
        current.to(tl.float32),
        levels_ptr,
        line_ptr,
        channel,
        features,
        timesteps,
        repeat,
        distinct,
        reach,
        level_stride,
        channel_stride,
        LINE,
        STEPS,
        STAIRS,
        LEVELS_ROWS,
        LINE_ROWS,
        False,
    )
    return tl.where((lane < width)[None, :], reached.to(tl.float32) * load_row(scale_ptr, channel, SCALE_ROWS), 0.0).to(
        DTYPE
    )


@triton.jit(do_not_specialize=_UNSPECIALISED)
def attention_kernel(
    query_ptr,
    key_ptr,
    value_ptr,
    out_ptr,
    levels_ptr,
    line_ptr,
    scale_ptr,
    queries,
    keys,
    heads,
    width,
    out_width,
    features,
    out_features,
    row_tiles,
    column_tiles,
    timesteps,
    repeat,
    distinct,
    reach,
    level_stride,
    channel_stride,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    CAUSAL: tl.constexpr,
    LINE: tl.constexpr,
    STEPS: tl.constexpr,
    STAIRS: tl.constexpr,
    LEVELS_ROWS: tl.constexpr,
    LINE_ROWS: tl.constexpr,
    SCALE_ROWS: tl.constexpr,
):
    """(Q K^T) V: query [N, M, features], key [N, S, features], value [N, S, out_features]."""
    dtype: tl.constexpr = query_ptr.dtype.element_ty
    column_tile, row_tile, _pair, head, image = _place(heads, row_tiles, column_tiles)
    start = row_tile * ROWS
    row_lane = tl.arange(0, ROWS)
    row = start + row_lane
    row_inside = (row < queries)[:, None]
    lane = tl.arange(0, WIDTH)
    live = (lane < width)[None, :]
    column = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    column_inside = (column < out_width)[None, :]

    sources = query_ptr + (image * queries + start) * features + head * width
    current = tl.load(sources + row_lane[:, None] * features + lane[None, :], mask=row_inside & live, other=0)
    rates = _fire(
        current,
        lane,
        head,
        width,
        features,
        levels_ptr,
        line_ptr,
        scale_ptr,
        timesteps,
        repeat,
        distinct,
        reach,
        level_stride,
        channel_stride,
        dtype,
        LINE,
        STEPS,
        STAIRS,
        LEVELS_ROWS,
        LINE_ROWS,
        SCALE_ROWS,
    )

    key_lane = tl.arange(0, KEYS)
    key_row = key_ptr + image * keys * features + head * width + key_lane[:, None] * features + lane[None, :]
    value_row = (
        value_ptr + image * keys * out_features + head * out_width + key_lane[:, None] * out_features + column[None, :]
    )
    end = tl.minimum(keys, start + ROWS) if CAUSAL else keys
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, end, KEYS):
        seen = (first + key_lane < keys)[:, None]
        k = tl.load(key_row, mask=seen & live, other=0)
        v = tl.load(value_row, mask=seen & column_inside, other=0)
        scores = tl.dot(rates, tl.trans(k), input_precision="ieee")
        if CAUSAL:
            scores = tl.where((first + key_lane)[None, :] <= row[:, None], scores, 0.0)
        total = tl.dot(scores.to(dtype), v, total, input_precision="ieee")
        key_row += KEYS * features  # addresses, not an offset: a long sequence spans more than 2^31 elements
        value_row += KEYS * out_features
    out = out_ptr + (image * queries + start) * out_features + head * out_width
    tl.store(
        out + row_lane[:, None] * out_features + column[None, :],
        total.to(out_ptr.dtype.element_ty),
        mask=row_inside & column_inside,
    )


@triton.jit(do_not_specialize=_UNSPECIALISED)
def state_kernel(
    query_ptr,
    value_ptr,
    out_ptr,
    levels_ptr,
    line_ptr,
    scale_ptr,
    queries,
    heads,
    width,
    out_width,
    features,
    out_features,
    row_tiles,
    column_tiles,
    timesteps,
    repeat,
    distinct,
    reach,
    level_stride,
    channel_stride,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
    COLUMNS: tl.constexpr,
    LINE: tl.constexpr,
    STEPS: tl.constexpr,
    STAIRS: tl.constexpr,
    LEVELS_ROWS: tl.constexpr,
    LINE_ROWS: tl.constexpr,
    SCALE_ROWS: tl.constexpr,
):
    """Q (K^T V): query [N, M, features]; value is K^T V, float32 [N, heads, width, out_width]."""
    dtype: tl.constexpr = query_ptr.dtype.element_ty
    column_tile, row_tile, pair, head, image = _place(heads, row_tiles, column_tiles)
    start = row_tile * ROWS
    row_lane = tl.arange(0, ROWS)
    row_inside = (start + row_lane < queries)[:, None]
    column = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    column_inside = (column < out_width)[None, :]
    sources = query_ptr + (image * queries + start) * features + head * width + row_lane[:, None] * features
    state = value_ptr + pair.to(tl.int64) * width * out_width + column[None, :]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, width, INNER):
        lane = first + tl.arange(0, INNER)
        live = lane < width
        current = tl.load(sources + lane[None, :], mask=row_inside & live[None, :], other=0)
        rates = _fire(
            current,
            lane,
            head,
            width,
            features,
            levels_ptr,
            line_ptr,
            scale_ptr,
            timesteps,
            repeat,
            distinct,
            reach,
            level_stride,
            channel_stride,
            dtype,
            LINE,
            STEPS,
            STAIRS,
            LEVELS_ROWS,
            LINE_ROWS,
            SCALE_ROWS,
        )
        factor = tl.load(state + lane[:, None] * out_width, mask=live[:, None] & column_inside, other=0)
        total = tl.dot(rates.to(tl.float32), factor, total, input_precision="ieee")
    out = out_ptr + (image * queries + start) * out_features + head * out_width
    tl.store(
        out + row_lane[:, None] * out_features + column[None, :],
        total.to(out_ptr.dtype.element_ty),
        mask=row_inside & column_inside,
    )


def pick_tile(queries, width, itemsize):
    """The tile for so many queries of heads of so many features."""
    tiles = TILES[itemsize]
    if queries <= tiles[0].rows:
        return tiles[0]
    return next(tile for most, tile in tiles.items() if width <= most)


def sums_keys_first(queries, keys, width, out_width, causal, itemsize):
    """Whether K^T V is summed before the launch: where its float32 products still are fewer by what they cost more."""
    return not causal and keys_first(queries, keys, width, out_width, STATE_COST if itemsize == 2 else 1)


def plan(out, query, key, value, levels, scale, heads, causal, repeat, line=None, reach=0, tile=None):
    """The launch that fills `out` [N, M, H * E], not empty. All contiguous; key None: value is K^T V,
    float32 [N, H, D, E].

    tile: the Tile of keys and values, where it is not to be chosen here.
    """
    images, queries, features = query.shape
    width, out_width = features // heads, out.shape[-1] // heads
    if key is None:
        tile = STATE_TILE
    elif width > MAX_WIDTH:
        raise ValueError(f"query: expected at most {MAX_WIDTH} features a head on a GPU, got {width}")
    else:
        tile = tile or pick_tile(queries, width, query.element_size())
    columns = min(tile.columns, max(triton.next_power_of_2(out_width), STATE_COLUMNS if key is None else 16))
    row_tiles, column_tiles = triton.cdiv(queries, tile.rows), triton.cdiv(out_width, columns)
    method = common.search_method(levels, line, repeat, reach, by_columns=True)
    arguments = dict(
        query_ptr=query,
        value_ptr=value,
        out_ptr=out,
        scale_ptr=scale,
        queries=queries,
        heads=heads,
        width=width,
        out_width=out_width,
        features=features,
        out_features=out.shape[-1],
        row_tiles=row_tiles,
        column_tiles=column_tiles,
        **method.arguments,
    )
    constants = dict(ROWS=tile.rows, COLUMNS=columns, **method.constants, **common.row_constants(scale=(scale, 1)))
    if key is None:
        kernel, constants = state_kernel, constants | dict(INNER=tile.keys)
    else:
        kernel, arguments = attention_kernel, arguments | dict(key_ptr=key, keys=key.shape[1])
        constants |= dict(KEYS=tile.keys, WIDTH=max(triton.next_power_of_2(width), 16), CAUSAL=causal)
    return Launch(
        kernel,
        images * heads * row_tiles * column_tiles,
        arguments,
        constants,
        tile.threads,
        tile.stages,
        method.derived,
        registers=ROOMY if constants["STEPS"] > 0 else {},
    )


def spiking_attention(query, key, value, levels, scale, heads, causal, repeat, line=None, reach=0):
    """Mean current [N, M, H * D], key [N, S, H * D], value [N, S, H * E], float32, float16 or bfloat16
    -> [N, M, H * E].

    levels [T] or [H * D, T], scale [] or [H * D]. TypeError: float64. ValueError: D > MAX_WIDTH.
    """
    if query.dtype == torch.float64:
        raise TypeError("query: expected float32, float16 or bfloat16 on a GPU, got float64")
    out = query.new_empty((*query.shape[:-1], value.shape[-1]))
    if not out.numel():
        return out
    sizes = query.shape[1], key.shape[1], query.shape[2] // heads, value.shape[2] // heads
    if sums_keys_first(*sizes, causal, query.element_size()):
        key, value = None, split_heads(key, heads).transpose(-2, -1).float() @ split_heads(value, heads).float()
    key = None if key is None else key.contiguous()
    query, value, levels, scale, line = common.contiguous(query, value, levels, scale, line)
    run(
        plan,
        dict(out=out, query=query, key=key, value=value, levels=levels, scale=scale, line=line),
        heads=heads,
        causal=causal,
        repeat=repeat,
        reach=reach,
    )
    return out


# ---- for offline compilation ----------------------------------------------------------------------------------------
def _variant(dtype, tile, width, form, *, causal=False, state=False, out_width=64):
    """Attention of heads of `width` features in a tile; state: the product by K^T V, summed before."""
    heads, queries = 3, 2 * tile.rows
    features = heads * width
    levels, scale = (
        (variants.empty(torch.float32, 16), variants.empty(torch.float32))
        if form == "line"
        else (variants.empty(torch.float32, features, variants.TIMESTEPS), variants.empty(torch.float32, features))
    )
    query, out = variants.empty(dtype, 2, queries, features), variants.empty(dtype, 2, queries, heads * out_width)
    key = None if state else variants.empty(dtype, 2, queries, features)
    value = (
        variants.empty(torch.float32, 2, heads, width, out_width)
        if state
        else variants.empty(dtype, 2, queries, heads * out_width)
    )
    line = variants.empty(torch.float32, 3) if form == "line" else None
    launch = plan(out, query, key, value, levels, scale, heads, causal, 1, line, tile=tile)
    kind = "state" if state else "causal attention" if causal else "attention"
    return variants.Variant(kind, dtype, dtype, f"{'x'.join(map(str, tile[:3]))} of {width}, {out_width}", form, launch)


def launches():
    """Attention: every tile with the widest heads it is for, in the form with the most registers; all forms of the
    first."""
    found = []
    for dtype in (torch.float16, torch.float32):
        tiles = TILES[dtype.itemsize]
        found += [_variant(dtype, tile, most or MAX_WIDTH, "bisected", causal=True) for most, tile in tiles.items()]
        found.append(_variant(dtype, tiles[64], 32, "line"))
    found += [
        _variant(torch.bfloat16, TILES[2][64], 64, form, causal=form == "bisected") for form in ("line", "bisected")
    ]
    found += [
        _variant(dtype, STATE_TILE, 64, form, state=True, out_width=out_width)
        for dtype in (torch.float16, torch.bfloat16, torch.float32)
        for form in ("line", "bisected")
        for out_width in (STATE_COLUMNS, STATE_TILE.columns)
    ]
    return found
