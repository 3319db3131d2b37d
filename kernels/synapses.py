"""Synapse and neurons in one launch (10), (11): a convolution or linear layer over spike counts, searched in registers.

Groups of fewer than `DIRECT_BELOW` channels are summed without tensor cores, and products of float32, which tensor
cores do not have, are left to torch.
"""

import torch

from pcsnn.kernels import direct, epilogue, geometry, library, products, tiles, tuning, variants
from pcsnn.kernels.common import contiguous
from pcsnn.kernels.launch import run
from pcsnn.tensors.memo import remembered
from pcsnn.tensors.shapes import convolved, fused_dtype

__all__ = ["conv2d_fire", "linear_fire"]

DIRECT_BELOW = 16  # input channels of a group: fewer do not fill a tensor core's inner dimension
ALIGNED, ALIGNED_FROM = 4, 2**16  # inputs of a pixel that are read at once, and pixels from which a copy pays


def _by_fours(weight):
    """weight [O, C, R, S] with channels of zeros up to a multiple of four."""
    return torch.nn.functional.pad(weight, (0, 0, 0, 0, 0, -weight.shape[1] % ALIGNED))


def _aligned(counts, weight, groups):
    """(counts, weight), with a fourth channel of zeros where three of a large image are read in runs: elements one by
    one are neither read ahead nor side by side, and take several times what the copy takes."""
    _, channels, height, width = counts.shape
    if (
        groups > 1
        or channels >= products.RUN_BELOW
        or channels % ALIGNED != ALIGNED - 1
        or weight.shape[3] == 1
        or counts.shape[0] * height * width < ALIGNED_FROM
    ):
        return counts, weight
    wider = counts.new_zeros((counts.shape[0], height, width, channels + 1)).permute(0, 3, 1, 2)
    wider[:, :channels] = counts
    return wider, remembered(weight, "by fours", lambda: _by_fours(weight))


def is_direct(weight, groups):
    """Whether a sum is too short for tensor cores."""
    return groups > 1 and weight.shape[1] < DIRECT_BELOW


def _largest_sum(weight, timesteps):
    """Of counts up to `timesteps` times int8 weights, in magnitude; None for other weights."""
    if weight.dtype != torch.int8:
        return None
    terms = weight[0].numel()
    if terms * timesteps * 128 >= 2**31:
        raise ValueError(
            f"weight: expected at most {(2**24 - 1) // timesteps} int8 weights an output with counts up to "
            f"{timesteps}, for a sum that int32 holds, got {terms}"
        )
    return terms * timesteps * 128


def plan(
    out,
    counts,
    weight,
    bias,
    levels,
    scale,
    residual,
    residual_scale,
    stride,
    padding,
    dilation,
    groups,
    repeat,
    timesteps,
    line=None,
    reach=0,
    tile=None,
    wide=None,
):
    """The launch that fills `out` [N, O, H', W'], not empty, from counts [N, C, H, W] and weight [O, C / groups, R, S],
    or [O, C] of one pixel, int8 or of half precision. counts, residual and out have their channels last in memory;
    tables are contiguous. tile: the Tile, and wide: whether int32 may not hold the sums, where they are not to be found
    here.
    """
    behind = epilogue.plan(
        out, bias, levels, line, reach, scale, residual, residual_scale, repeat, _largest_sum(weight, timesteps), wide
    )
    behind.arguments.update(geometry.arguments(out, counts, stride, padding, dilation))
    if is_direct(weight, groups):
        return direct.plan(out, counts, weight, groups, behind)
    kind = products.Kind(out, counts, weight, stride, padding, dilation, groups)
    return products.plan(out, counts, weight, kind, tile or kind.pick(), timesteps, behind)


def _plan_tuned(*, timed, **arguments):
    """The plan in the tile that was timed for such products, or is now. timed: by `tuning.state`, what its answers
    depend on."""
    out, counts, weight = (arguments[name] for name in ("out", "counts", "weight"))
    geometry_of = [arguments[name] for name in ("stride", "padding", "dilation", "groups")]
    tile = None
    if timed is not None and not is_direct(weight, arguments["groups"]):
        kind = products.Kind(out, counts, weight, *geometry_of)
        tile = tuning.choose(
            tuning.choices(out.device),
            kind.name(),
            kind.candidates(),
            lambda tile: plan(**arguments, tile=tile),
            tuning.timer(),
        )
    return plan(**arguments, tile=tile)


def _run(tensors, **facts):
    weight, bias, residual, residual_scale = (
        tensors[name] for name in ("weight", "bias", "residual", "residual_scale")
    )
    wide = epilogue.is_wide(_largest_sum(weight, facts["timesteps"]), bias, residual, residual_scale)
    run(_plan_tuned, tensors, **facts, wide=wide, timed=tuning.state(weight.device))


def conv2d_fire(
    counts,
    weight,
    bias,
    levels,
    scale,
    residual,
    residual_scale,
    stride,
    padding,
    dilation,
    groups,
    repeat,
    timesteps,
    line=None,
    reach=0,
    counts_dtype=None,
):
    """Input [N, C, H, W] -> counts, rates or currents [N, O, H', W'] of neurons behind a convolution, channels last.

    counts: uint8 up to `timesteps`, or of the dtype of weight [O, C / groups, R, S] float32, float16 or bfloat16; int8
    weights take counts. bias [O], levels [T] or [O, T], scale and residual_scale [] or [O], residual [N, O, H', W'],
    each or None.
    counts_dtype: of counts that come out. ValueError: sums over int8 weights that int32 may not hold.
    """
    if weight.dtype == torch.float32:
        return library.conv2d_fire(
            counts,
            weight,
            bias,
            levels,
            scale,
            residual,
            residual_scale,
            stride,
            padding,
            dilation,
            groups,
            repeat,
            line,
            reach,
        )
    sizes = convolved(counts.shape[2:], weight.shape[2:], stride, padding, dilation)
    out = torch.empty(
        (counts.shape[0], weight.shape[0], *sizes),
        device=counts.device,
        memory_format=torch.channels_last,
        dtype=fused_dtype(weight, levels, scale, counts_dtype),
    )
    if out.numel():
        residual = None if residual is None else geometry.channels_last(residual)
        counts, weight = _aligned(counts, weight, groups)
        bias, levels, scale, residual_scale, line = contiguous(bias, levels, scale, residual_scale, line)
        _run(
            dict(
                out=out,
                counts=geometry.channels_last(counts),
                weight=weight,
                bias=bias,
                levels=levels,
                scale=scale,
                residual=residual,
                residual_scale=residual_scale,
                line=line,
            ),
            stride=tuple(stride),
            padding=tuple(padding),
            dilation=tuple(dilation),
            groups=groups,
            repeat=repeat,
            timesteps=timesteps,
            reach=reach,
        )
    return out


def linear_fire(
    counts,
    weight,
    bias,
    levels,
    scale,
    residual,
    residual_scale,
    repeat,
    timesteps,
    line=None,
    reach=0,
    counts_dtype=None,
):
    """Input [..., K] -> counts, rates or currents [..., O] of neurons behind a linear layer; weight [O, K], else as
    conv2d_fire."""
    if weight.dtype == torch.float32:
        return library.linear_fire(counts, weight, bias, levels, scale, residual, residual_scale, repeat, line, reach)
    out = counts.new_empty(
        (*counts.shape[:-1], weight.shape[0]), dtype=fused_dtype(weight, levels, scale, counts_dtype)
    )
    if out.numel():
        counts, residual, bias, levels, scale, residual_scale, line = contiguous(
            counts, residual, bias, levels, scale, residual_scale, line
        )
        rows = out.numel() // out.shape[-1]
        pixels = [None if x is None else x.view(rows, x.shape[-1], 1, 1) for x in (out, counts, residual)]
        _run(
            dict(
                out=pixels[0],
                counts=pixels[1],
                weight=weight,
                bias=bias,
                levels=levels,
                scale=scale,
                residual=pixels[2],
                residual_scale=residual_scale,
                line=line,
            ),
            stride=(1, 1),
            padding=(0, 0),
            dilation=(1, 1),
            groups=1,
            repeat=repeat,
            timesteps=timesteps,
            reach=reach,
        )
    return out


# ---- for offline compilation ----------------------------------------------------------------------------------------
_SYNAPSES = {  # C, O, kernel: pointwise, tap after tap, in runs, without tensor cores
    "linear": (256, 256, 1),
    "conv2d": (64, 64, 3),
    "stem": (3, 64, 7),
    "depthwise": (64, 64, 3),
}
_FORMS = ("wide line", "near a line", "scanned", "bisected", "rates", "currents")
WEIGHTS = (torch.int8, torch.float16, torch.bfloat16)


def variant(synapse, dtype, tile, form, timesteps, counts_dtype=torch.uint8):
    """The fused synapse of that name in `_SYNAPSES` with weights and a tile: channels and outputs fill both; None:
    without tensor cores."""
    inputs, outputs, kernel = _SYNAPSES[synapse]
    if tile and synapse in ("linear", "conv2d"):
        inputs, outputs = 2 * tile.inner, 2 * tile.columns
    groups = inputs if synapse == "depthwise" else 1
    rows = 2 * (tile.rows if tile else 2**13)
    whole = dtype == torch.int8
    table_dtype = torch.int32 if whole else torch.float32

    def image(channels, dtype):
        shape = (rows, channels, 1, 1) if kernel == 1 else (rows // 16, channels, 4, 4)
        return variants.empty(dtype, *shape).to(memory_format=torch.channels_last)

    steps = 16 if form == "scanned" else variants.TIMESTEPS
    levels = None if form == "currents" else variants.empty(table_dtype, outputs, steps)
    line = variants.empty(table_dtype, 3, outputs) if form in ("line", "wide line", "near a line") else None
    scale = variants.empty(torch.float32, outputs) if form in ("rates", "currents") else None
    plain = form in ("line", "scanned")  # what a residual block of a network has
    bias = None if plain else variants.empty(table_dtype if whole else dtype, outputs)
    residual = image(outputs, counts_dtype)
    output = counts_dtype if scale is None else torch.float32 if whole else dtype
    weight = variants.empty(dtype, outputs, inputs // groups, kernel, kernel).to(memory_format=torch.channels_last)
    launch = plan(
        image(outputs, output),
        image(inputs, counts_dtype),
        weight,
        bias,
        levels,
        scale,
        residual,
        variants.empty(table_dtype, *(() if plain else (outputs,))),
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
    size = size if timesteps == variants.TIMESTEPS else f"{size} T={timesteps}"
    return variants.Variant(
        synapse, dtype, output, size, form if counts_dtype == torch.uint8 else f"{form} of its dtype", launch
    )


def launches():
    """Fused synapses: every tile with levels of a line, as networks have them; every form at the largest tile, with all
    that may stand behind the sum, and every synapse with the form that takes most registers."""
    found = []
    for dtype in (torch.int8, torch.bfloat16):
        for tile in tiles.of(dtype.itemsize):
            found.append(
                variant(
                    "stem" if tile.inner == 32 else "conv2d",
                    dtype,
                    tile,
                    "line",
                    products.MAX_UNSHIFTED,
                    torch.uint8 if dtype == torch.int8 else dtype,
                )
            )
    for dtype, forms in (
        (torch.int8, _FORMS),
        (torch.float16, ("wide line", "bisected", "currents")),
        (torch.bfloat16, ("near a line", "scanned", "rates")),
    ):
        largest, runs = tiles.of(dtype.itemsize)[0], tiles.TILES[dtype.itemsize][32][0]
        found += [variant("linear", dtype, largest, form, variants.TIMESTEPS) for form in forms]
        found += [variant("stem", dtype, runs, "bisected", variants.TIMESTEPS)]
        found += [variant("depthwise", dtype, None, form, variants.TIMESTEPS) for form in ("line", "bisected")]
    return found
