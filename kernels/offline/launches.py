"""Every launch the launchers may pick, as plans on meta tensors: operation x dtypes x configuration, and the forms of each."""

from typing import NamedTuple

import torch

from pcsnn.kernels import attention, rates, spikes, synapses, tiles
from pcsnn.kernels.launch import Launch

CURRENTS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SPIKES = (torch.uint8, torch.float32, torch.float16, torch.bfloat16, torch.float64)  # bool is written as uint8
_CHANNELS = 64
_TIMESTEPS = 255  # the most comparisons
_SHAPES = {  # [N, C, pixels]
    "wide": (4, _CHANNELS, 2**15),
    "narrow": (1, _CHANNELS, 64),
    "odd": (4, _CHANNELS - 1, 2**15 + 1),
    "large": (2, _CHANNELS, 2**26),
}
LAYOUTS = ("flat", "last", "planes")  # one threshold for all; by channel with channels last, with pixels side by side
FORMS = ("line", "near a line", "scanned", "bisected")


class Variant(NamedTuple):
    operation: str
    inputs: torch.dtype
    output: torch.dtype
    size: str  # "wide", "narrow", "odd" (rows not aligned): the configuration; "large": wide, more than 2^32 neurons; of a
    # product: its tile
    form: str  # how levels are searched, and what else there is; "wide line": whole numbers of 64 bits
    launch: Launch

    def __str__(self):
        inputs, output = (str(dtype).removeprefix("torch.") for dtype in (self.inputs, self.output))
        return f"{self.operation} {inputs}->{output} {self.size} {self.form}"


def _empty(dtype, *shape):
    return torch.empty(shape, dtype=dtype, device="meta")


def _neurons(dtype, size, layout, *before):
    batch, channels, pixels = _SHAPES[size]
    if layout == "last":
        return _empty(dtype, *before, batch, pixels, channels).transpose(-1, -2)
    return _empty(dtype, *before, batch, channels, pixels)


def _tables(size, layout, form):
    """levels, a value for each spike, line and reach."""
    rows = () if layout == "flat" else (_SHAPES[size][1],)
    levels = _empty(torch.float32, *rows, 16 if form == "scanned" else _TIMESTEPS)
    line = _empty(torch.float32, 3, *rows) if "line" in form else None
    return levels, _empty(torch.float32, *rows), line, 2 if form == "near a line" else 0


def _mean(operation, dtype, size, layout, form, residual_dtype=None, signed=False):
    levels, scale, line, reach = _tables(size, layout, form)
    as_rates = operation == "fire_rates"
    output = dtype if as_rates else torch.uint8
    residual = None if residual_dtype is None else _neurons(residual_dtype, size, layout)
    launch = rates.plan(
        _neurons(output, size, layout),
        _neurons(dtype, size, layout),
        levels,
        scale if as_rates else None,
        residual,
        scale if residual_dtype == torch.uint8 else None,
        1,
        *((3, 2) if signed else (0, 0)),
        line,
        reach,
    )
    extra = " signed" if signed else {None: "", torch.uint8: " with counts"}.get(residual_dtype, " with a current")
    return Variant(operation, dtype, output, size, f"{layout} {form}{extra}", launch)


def _spikes(dtype, output, size, layout, form, amplitude=False):
    levels, scale, line, reach = _tables(size, layout, form)
    steps = levels.shape[-1]
    launch = spikes.plan(
        _neurons(output, size, layout, steps),
        _neurons(dtype, size, layout, steps),
        levels,
        scale if amplitude else None,
        1,
        line,
        reach,
    )
    return Variant(
        "fire_spikes", dtype, output, size, f"{layout} {form}{' with amplitude' if amplitude else ''}", launch
    )


def _expand(output, size, layout, full=False):
    scale = _tables(size, layout, "line")[1]
    launch = spikes.plan_expansion(
        _neurons(output, size, layout, _TIMESTEPS),
        _neurons(torch.uint8, size, layout),
        _TIMESTEPS,
        _empty(torch.int64, _TIMESTEPS) if full else None,
        scale if full and output.is_floating_point else None,
    )
    return Variant("expand_spikes", torch.uint8, output, size, f"{layout}{' in order' if full else ''}", launch)


def variants():
    """Neurons and trains: each pair of dtypes, layout and way to search at the widest; other sizes with lines and bisected."""
    found = []
    for dtype in CURRENTS:
        for layout in LAYOUTS:
            found += [_mean("fire_counts", dtype, "wide", layout, form) for form in FORMS]
            found += [_mean("fire_rates", dtype, "wide", layout, form) for form in ("line", "bisected")]
        found += [
            _mean("fire_rates", dtype, "wide", "last", "line", torch.uint8),
            _mean("fire_rates", dtype, "wide", "last", "line", dtype),
            _mean("fire_counts", dtype, "wide", "planes", "line", torch.uint8),
            _mean("fire_rates", dtype, "wide", "last", "bisected", signed=True),
        ]
        found += [_spikes(dtype, output, "wide", "flat", "line") for output in SPIKES]
        found += [_spikes(dtype, torch.uint8, "wide", "last", form) for form in ("line", "bisected")]
        for size in ("narrow", "odd"):
            found += [
                _mean("fire_counts", dtype, size, "last", "line"),
                _mean("fire_rates", dtype, size, "planes", "bisected"),
                _spikes(dtype, torch.uint8, size, "planes", "line"),
            ]
    for output in SPIKES:
        found += [_expand(output, size, "flat") for size in ("wide", "narrow", "odd")]
        found += [
            _expand(output, "wide", "last", full=True),
            _spikes(torch.float32, output, "wide", "last", "line", output != torch.uint8),
            _spikes(torch.float32, output, "narrow", "flat", "line"),
        ]
    for layout in LAYOUTS:
        found += [_mean("fire_counts", torch.float32, "large", layout, "line"), _expand(torch.uint8, "large", layout)]
    found += [
        _mean("fire_rates", torch.float16, "large", "last", "bisected"),
        _spikes(torch.float32, torch.uint8, "large", "planes", "line"),
    ]
    return found


_SYNAPSES = {  # C, O, kernel: pointwise, tap after tap, in runs, without tensor cores
    "linear": (256, 256, 1),
    "conv2d": (64, 64, 3),
    "stem": (3, 64, 7),
    "depthwise": (64, 64, 3),
}
_FORMS = ("wide line", "near a line", "scanned", "bisected", "rates", "currents")
WEIGHTS = (torch.int8, torch.float16, torch.bfloat16)


def product(synapse, dtype, tile, form, timesteps, counts_dtype=torch.uint8):
    """The fused synapse of that name in `_SYNAPSES` with weights and a tile: channels and outputs fill both; None: without
    tensor cores."""
    inputs, outputs, kernel = _SYNAPSES[synapse]
    if tile and synapse in ("linear", "conv2d"):
        inputs, outputs = 2 * tile.inner, 2 * tile.columns
    groups = inputs if synapse == "depthwise" else 1
    rows = 2 * (tile.rows if tile else 2**13)
    whole = dtype == torch.int8
    table_dtype = torch.int32 if whole else torch.float32

    def image(channels, dtype):
        shape = (rows, channels, 1, 1) if kernel == 1 else (rows // 16, channels, 4, 4)
        return _empty(dtype, *shape).to(memory_format=torch.channels_last)

    steps = 16 if form == "scanned" else _TIMESTEPS
    levels = None if form == "currents" else _empty(table_dtype, outputs, steps)
    line = _empty(table_dtype, 3, outputs) if form in ("line", "wide line", "near a line") else None
    scale = _empty(torch.float32, outputs) if form in ("rates", "currents") else None
    plain = form in ("line", "scanned")  # what a residual block of a network has
    bias = None if plain else _empty(table_dtype if whole else dtype, outputs)
    residual = image(outputs, counts_dtype)
    output = counts_dtype if scale is None else torch.float32 if whole else dtype
    weight = _empty(dtype, outputs, inputs // groups, kernel, kernel).to(memory_format=torch.channels_last)
    launch = synapses.plan(
        image(outputs, output),
        image(inputs, counts_dtype),
        weight,
        bias,
        levels,
        scale,
        residual,
        _empty(table_dtype, *(() if plain else (outputs,))),
        (1, 1),
        (kernel // 2,) * 2,
        (1, 1),
        groups,
        0,
        timesteps,
        line,
        2 if form == "near a line" else 0,
        tile,
        whole and form != "line",
    )
    size = "x".join(map(str, tile[:3])) if tile else "direct"
    size = size if timesteps == _TIMESTEPS else f"{size} T={timesteps}"
    return Variant(
        synapse, dtype, output, size, form if counts_dtype == torch.uint8 else f"{form} of its dtype", launch
    )


def products_of_every_tile():
    """Fused synapses: every tile with levels of a line, as networks have them; every form at the largest tile, with all that
    may stand behind the sum, and every synapse with the form that takes most registers."""
    found = []
    for dtype in (torch.int8, torch.bfloat16):
        for tile in tiles.of(dtype.itemsize):
            found.append(
                product(
                    "stem" if tile.inner == 32 else "conv2d",
                    dtype,
                    tile,
                    "line",
                    synapses.MAX_UNSHIFTED,
                    torch.uint8 if dtype == torch.int8 else dtype,
                )
            )
    for dtype, forms in (
        (torch.int8, _FORMS),
        (torch.float16, ("wide line", "bisected", "currents")),
        (torch.bfloat16, ("near a line", "scanned", "rates")),
    ):
        largest, runs = tiles.of(dtype.itemsize)[0], tiles.TILES[dtype.itemsize][32][0]
        found += [product("linear", dtype, largest, form, _TIMESTEPS) for form in forms]
        found += [product("stem", dtype, runs, "bisected", _TIMESTEPS)]
        found += [product("depthwise", dtype, None, form, _TIMESTEPS) for form in ("line", "bisected")]
    return found


def attention_variant(dtype, share, width, form, *, causal=False, state=False, out_width=64):
    """Attention of heads of `width` features in the tile `share`; state: the product by K^T V, summed before."""
    heads, queries = 3, 2 * share.rows
    features = heads * width
    levels, scale = (
        (_empty(torch.float32, 16), _empty(torch.float32))
        if form == "line"
        else (_empty(torch.float32, features, _TIMESTEPS), _empty(torch.float32, features))
    )
    query, out = _empty(dtype, 2, queries, features), _empty(dtype, 2, queries, heads * out_width)
    key = None if state else _empty(dtype, 2, queries, features)
    value = _empty(torch.float32, 2, heads, width, out_width) if state else _empty(dtype, 2, queries, heads * out_width)
    line = _empty(torch.float32, 3) if form == "line" else None
    launch = attention.plan(out, query, key, value, levels, scale, heads, causal, 1, line, share=share)
    kind = "state" if state else "causal attention" if causal else "attention"
    return Variant(kind, dtype, dtype, f"{'x'.join(map(str, share[:3]))} of {width}, {out_width}", form, launch)


def attentions():
    """Attention: every tile with the widest heads it is for, in the form with the most registers; all forms of the first."""
    found = []
    for dtype in (torch.float16, torch.float32):
        tiles = attention.TILES[dtype.itemsize]
        found += [
            attention_variant(dtype, share, most or attention.MAX_WIDTH, "bisected", causal=True)
            for most, share in tiles.items()
        ]
        found.append(attention_variant(dtype, tiles[64], 32, "line"))
    found += [
        attention_variant(torch.bfloat16, attention.TILES[2][64], 64, form, causal=form == "bisected")
        for form in ("line", "bisected")
    ]
    found += [
        attention_variant(dtype, attention.STATE_TILE, 64, form, state=True, out_width=out_width)
        for dtype in (torch.float16, torch.bfloat16, torch.float32)
        for form in ("line", "bisected")
        for out_width in (attention.STATE_COLUMNS, attention.STATE_TILE.columns)
    ]
    return found
