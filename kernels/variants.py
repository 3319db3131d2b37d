"""Every launch the launchers may pick, as plans on meta tensors: operation x dtypes x configuration, and the forms of each."""

from typing import NamedTuple

import torch

from pcsnn.kernels import attention, common, expansion, mean_current, products, spike_trains, tiles

CURRENTS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SPIKES = (torch.uint8, torch.float32, torch.float16, torch.bfloat16, torch.float64)  # bool is written as uint8
_CHANNELS = 17
_TIMESTEPS = 255  # the most comparisons
_SHAPES = {
    "wide": (1, _CHANNELS, 2**16),
    "narrow": (1, _CHANNELS, 64),
    "odd": (1, _CHANNELS, 2**16 + 1),
    "large": (1, _CHANNELS, 2**28),
}


class Variant(NamedTuple):
    operation: str
    inputs: torch.dtype
    output: torch.dtype
    size: str   # "wide", "narrow", "odd" (unaligned): the configuration; "large": wide, 2^32 neurons; of a product: its tile
    form: str   # "plain": one row of evenly spaced levels; "full": every table by channel, bisected, with its extras; of a
                # product: "line", "scanned" (with a residual), "wide line" (whole numbers of 64 bits), "near a line", "bisected",
                # "rates", "currents", all by channel with bias and residual
    launch: common.Launch

    def __str__(self):
        inputs, output = (str(dtype).removeprefix("torch.") for dtype in (self.inputs, self.output))
        return f"{self.operation} {inputs}->{output} {self.size} {self.form}"


def _empty(dtype, *shape):
    return torch.empty(shape, dtype=dtype, device="meta")


def _tables(form):
    """levels, a value for each spike, repeat."""
    if form == "plain":
        return _empty(torch.float32, _TIMESTEPS), _empty(torch.float32), 1
    return _empty(torch.float32, _CHANNELS, _TIMESTEPS), _empty(torch.float32, _CHANNELS), 0


def _mean(operation, dtype, output, size, form, residual_dtype=torch.uint8, signed=False):
    shape = _SHAPES[size]
    levels, scale, repeat = _tables(form)
    residual = None if form == "plain" else _empty(residual_dtype, *shape)
    residual_scale = scale if residual is not None and residual_dtype == torch.uint8 else None
    launch = mean_current.plan(_empty(output, *shape), _empty(dtype, *shape), levels,
                               scale if operation == "fire_rates" else None, residual, residual_scale, repeat,
                               *((3, 2) if signed else ()))
    if signed:
        form = f"{form} signed"
    return Variant(operation, dtype, output, size, form if residual is None or residual_dtype == torch.uint8 else "sum", launch)


def _spikes(dtype, output, size, form):
    shape = (_TIMESTEPS, *_SHAPES[size])
    levels, amplitude, repeat = _tables(form)
    amplitude = amplitude if form == "full" and output.is_floating_point else None
    launch = spike_trains.plan(_empty(output, *shape), _empty(dtype, *shape), levels, amplitude, repeat)
    return Variant("fire_spikes", dtype, output, size, form, launch)


def _expand(output, size, form):
    shape = _SHAPES[size]
    order = _empty(torch.int64, _TIMESTEPS) if form == "full" else None
    amplitude = _tables(form)[1] if form == "full" and output.is_floating_point else None
    launch = expansion.plan(_empty(output, _TIMESTEPS, *shape), _empty(torch.uint8, *shape), _TIMESTEPS, order, amplitude)
    return Variant("expand_spikes", torch.uint8, output, size, form, launch)


def variants():
    """All of them: each pair of dtypes at every configuration; the forms with the most registers at the widest."""
    found = []
    for size in ("wide", "narrow"):
        for dtype in CURRENTS:
            found += [_mean("fire_counts", dtype, torch.uint8, size, "plain"), _mean("fire_rates", dtype, dtype, size, "plain")]
            found += [_spikes(dtype, output, size, "plain") for output in SPIKES]
        found += [_expand(output, size, "plain") for output in SPIKES]
    for dtype in CURRENTS:
        found += [_mean("fire_counts", dtype, torch.uint8, "wide", "full"), _mean("fire_rates", dtype, dtype, "wide", "full"),
                  _mean("fire_rates", dtype, dtype, "wide", "full", residual_dtype=dtype),
                  _mean("fire_rates", dtype, dtype, "wide", "full", signed=True),
                  _spikes(dtype, torch.uint8, "wide", "full")]
    found += [_spikes(torch.float32, output, "wide", "full") for output in SPIKES[1:]]
    found += [_expand(output, "wide", "full") for output in SPIKES]
    for dtype in CURRENTS:
        found += [_mean("fire_counts", dtype, torch.uint8, "odd", "full"), _mean("fire_rates", dtype, dtype, "odd", "plain")]
        found += [_spikes(dtype, output, "odd", "plain") for output in SPIKES[:2]]
    found += [_spikes(torch.float32, output, "odd", "full") for output in SPIKES]
    found += [_expand(output, "odd", "full") for output in SPIKES]
    for form in ("plain", "full"):
        found += [_mean("fire_counts", torch.float32, torch.uint8, "large", form), _expand(torch.uint8, "large", form),
                  _mean("fire_rates", torch.float16, torch.float16, "large", form),
                  _spikes(torch.float32, torch.uint8, "large", form)]
    # Where 128 bits hold few neurons the narrow configuration is the wide one.
    return list({(v.operation, v.inputs, v.output, v.form, v.size == "large",
                  v.launch.constants["ROWS"], v.launch.constants["COLUMNS"]): v for v in reversed(found)}.values())[::-1]


_SYNAPSES = {  # C, O, kernel: pointwise, tap after tap, in runs, without tensor cores
    "linear": (256, 256, 1),
    "conv2d": (64, 64, 3),
    "stem": (3, 64, 7),
    "depthwise": (64, 64, 3),
}
_FORMS = ("wide line", "near a line", "scanned", "bisected", "rates", "currents")
WEIGHTS = (torch.int8, torch.float16, torch.bfloat16)


def product(synapse, dtype, tile, form, timesteps, counts_dtype=torch.uint8):
    """The fused synapse of that name in `_SYNAPSES` with weights and a tile: channels and outputs fill both; None: without tensor
    cores."""
    inputs, outputs, kernel = _SYNAPSES[synapse]
    if tile and synapse in ("linear", "conv2d"):
        inputs, outputs = 2 * tile.inner, 2 * tile.columns
    groups = inputs if synapse == "depthwise" else 1
    rows = 2 * (tile.rows if tile else 2**12)
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
    launch = products.plan(image(outputs, output), image(inputs, counts_dtype), weight, bias, levels, scale, residual,
                           _empty(table_dtype, *(() if plain else (outputs,))), (1, 1), (kernel // 2,) * 2, (1, 1), groups, 0,
                           timesteps, line, 2 if form == "near a line" else 0, tile, whole and form != "line")
    size = "x".join(map(str, tile[:3])) if tile else "direct"
    size = size if timesteps == _TIMESTEPS else f"{size} T={timesteps}"
    return Variant(synapse, dtype, output, size, form if counts_dtype == torch.uint8 else f"{form} of its dtype", launch)


def products_of_every_tile():
    """Fused synapses: every tile with levels of a line, as networks have them; every form at the largest tile, with all that may
    stand behind the sum, and every synapse with the form that takes most registers."""
    found = []
    for dtype in (torch.int8, torch.bfloat16):
        for tile in tiles.of(dtype.itemsize):
            found.append(product("stem" if tile.inner == 32 else "conv2d", dtype, tile, "line", products.MAX_UNSHIFTED,
                                 torch.uint8 if dtype == torch.int8 else dtype))
    for dtype, forms in ((torch.int8, _FORMS), (torch.float16, ("wide line", "bisected", "currents")),
                         (torch.bfloat16, ("near a line", "scanned", "rates"))):
        largest, runs = tiles.of(dtype.itemsize)[0], tiles.TILES[dtype.itemsize][32][0]
        found += [product("linear", dtype, largest, form, _TIMESTEPS) for form in forms]
        found += [product("stem", dtype, runs, "bisected", _TIMESTEPS)]
        found += [product("depthwise", dtype, None, form, _TIMESTEPS) for form in ("line", "bisected")]
    return found


def attention_variant(dtype, share, width, form, *, causal=False, state=False, out_width=64):
    """Attention of heads of `width` features in the tile `share`; state: the product by K^T V, summed before."""
    heads, queries = 3, 2 * share.rows
    features = heads * width
    levels, scale = ((_empty(torch.float32, 16), _empty(torch.float32)) if form == "guessed"
                     else (_empty(torch.float32, features, _TIMESTEPS), _empty(torch.float32, features)))
    query, out = _empty(dtype, 2, queries, features), _empty(dtype, 2, queries, heads * out_width)
    key = None if state else _empty(dtype, 2, queries, features)
    value = _empty(torch.float32, 2, heads, width, out_width) if state else _empty(dtype, 2, queries, heads * out_width)
    launch = attention.plan(out, query, key, value, levels, scale, heads, causal, int(form == "guessed"), share)
    kind = "state" if state else "causal attention" if causal else "attention"
    return Variant(kind, dtype, dtype, f"{'x'.join(map(str, share[:3]))} of {width}, {out_width}", form, launch)


def attentions():
    """Attention: every tile with the widest heads it is for, in the form with the most registers; all forms of the first."""
    found = []
    for dtype in (torch.float16, torch.float32):
        tiles = attention.TILES[dtype.itemsize]
        found += [attention_variant(dtype, share, most or attention.MAX_WIDTH, "bisected", causal=True)
                  for most, share in tiles.items()]
        found.append(attention_variant(dtype, tiles[64], 32, "guessed"))
    found += [attention_variant(torch.bfloat16, attention.TILES[2][64], 64, form, causal=form == "bisected")
              for form in ("guessed", "bisected")]
    found += [attention_variant(dtype, attention.STATE_TILE, 64, form, state=True, out_width=out_width)
              for dtype in (torch.float16, torch.bfloat16, torch.float32)
              for form in ("guessed", "bisected") for out_width in (attention.STATE_COLUMNS, attention.STATE_TILE.columns)]
    return found
