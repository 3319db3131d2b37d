"""Layers of optimised networks: a synapse with the spiking neurons behind it, counts in and counts out."""

import torch

from pcsnn import functional
from pcsnn.levels import even, integer
from pcsnn.levels.spacing import UNKNOWN, find_spacing
from pcsnn.nn.counts import check_area, check_numbers, steps_of
from pcsnn.nn.neuron import CollapsedNeuron
from pcsnn.nn.precision import FullPrecisionBuffers
from pcsnn.operators import arguments, dispatch
from pcsnn.operators.repeats import Repeats
from pcsnn.tensors import checks
from pcsnn.tensors.arithmetic import add_residual, divided
from pcsnn.tensors.memo import forget
from pcsnn.tensors.shapes import HALVES, convolved, laid_out

EVEN = 1e-3  # of a whole number of units, summed over all levels: how far int8 levels may move to be evenly spaced


class _Weights:
    """What a fused synapse multiplies by: buffers `weight`, `bias`, and for int8 `weight_scale`.

    weight: [O, ...] float32, bfloat16, float16 or int8, for counts times the amplitude of the incoming neurons.
    weight_scale: [O], what 1 is worth in int8 weights. bias: [O], of the mean current, or None.
    """

    def _check_weights(self, weight, weight_scale, bias):
        """What a constructor gets, from a file too; DIMENSIONS: of the weight."""
        checks.tensor("weight", weight, arguments.WEIGHT_DTYPES)
        if weight.dim() != self.DIMENSIONS or 0 in weight.shape:
            raise ValueError(
                f"weight: expected {self.DIMENSIONS} dimensions, none of them empty, got shape {tuple(weight.shape)}"
            )
        if weight.dtype == torch.int8 and weight_scale is None:
            raise ValueError("weight_scale: expected [O] with int8 weights, got None")
        for name, value in (("weight_scale", weight_scale), ("bias", bias)):
            if value is not None:
                checks.tensor(name, value, checks.CURRENT_DTYPES)
                if value.shape != weight.shape[:1]:
                    raise ValueError(f"{name}: expected [{len(weight)}], got shape {tuple(value.shape)}")

    def _register_weights(self, weight, weight_scale, bias):
        self.register_buffer("weight", weight.detach())
        self.register_buffer("weight_scale", None if weight_scale is None else weight_scale.detach().float())
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    def _gather(self):
        """Bring all buffers to where the weight is."""
        for name, value in self._buffers.items():
            self._buffers[name] = None if value is None else value.to(self.weight.device)

    def _apply(self, fn, recurse=True):
        weight = self.weight
        super()._apply(fn, recurse)
        if self.weight.dtype != weight.dtype:  # a cast of the network does not change what the kernels multiply
            self.weight = weight.to(self.weight.device)
        self._derive()
        return self

    def _order_weight(self):
        """Channels last, like what it is multiplied with: no reordering at every call."""
        if self.weight.dim() == 4:
            self.weight = laid_out(self.weight, torch.channels_last)

    @property
    def _current_dtype(self):
        return torch.int32 if self.weight.dtype == torch.int8 else self.weight.dtype

    @property
    def _most(self):
        """The largest count that comes in."""
        return self.input_steps if self.counted else checks.MAX_TIMESTEPS

    def _is_count(self, dtype):
        """Whether counts may have a dtype: bytes, or on a GPU that of half precision weights."""
        return dtype == torch.uint8 or dtype == self.weight.dtype and dtype in HALVES

    def _fits(self, x):
        """Whether the operator takes x, checked with as little work as can be."""
        return (
            isinstance(x, torch.Tensor)
            and (self._is_count(x.dtype) if self.counted else x.dtype == self.weight.dtype)
            and x.device == self.weight.device
            and not (x.requires_grad and torch.is_grad_enabled())
            and self._shape(x) is not None
        )

    @property
    def input_steps(self):
        """Steps of the incoming counts; 1 where what comes in is a value, not a count."""
        if not self.counted:
            return 1
        return self.fixed_steps or steps_of(self.timesteps, self.input_levels, self.input_area)

    def check_timesteps(self, timesteps):
        """ValueError where incoming counts would not fit a byte at T = `timesteps`."""
        if self.counted and not self.fixed_steps:
            check_area(timesteps, self.input_levels, self.input_area)


class _Fused(_Weights, CollapsedNeuron):
    """A synapse and CollapsedNeurons behind it, in one operation. Subclasses say which synapse."""

    TENSORS = (*CollapsedNeuron.TENSORS, "weight", "weight_scale", "bias", "residual_worth")

    def __init__(
        self,
        weight,
        timesteps,
        *,
        weight_scale=None,
        bias=None,
        counted=True,
        input_levels=None,
        input_area=1,
        fixed_steps=None,
        residual_worth=None,
        residual_levels=None,
        residual_area=1,
        emits="counts",
        **neuron,
    ):
        self._check_weights(weight, weight_scale, bias)
        check_numbers(
            counted=counted,
            input_levels=input_levels,
            input_area=input_area,
            fixed_steps=fixed_steps,
            residual_levels=residual_levels,
            residual_area=residual_area,
        )
        if residual_worth is not None:
            checks.per_layer_or_channel("residual_worth", residual_worth, (1, len(weight)), checks.CURRENT_DTYPES)
        super().__init__(timesteps=timesteps, **neuron)
        self._check_channels(len(weight))
        if emits not in ("counts", "rates"):
            raise ValueError(f"emits: expected counts or rates, got {emits!r}")
        self.counted, self.input_levels, self.input_area, self.fixed_steps = (
            counted,
            input_levels,
            input_area,
            fixed_steps,
        )
        self.residual_levels, self.residual_area, self.emits = residual_levels, residual_area, emits
        self._register_weights(weight, weight_scale, bias)
        self.register_buffer("residual_worth", None if residual_worth is None else residual_worth.detach().float())
        self._repeats = Repeats()
        for name in ("operand_levels", "operand_line", "operand_bias", "operand_residual_scale"):
            self.register_buffer(name, None, persistent=False)
        self.check_timesteps(timesteps)
        self._gather()
        self._derive()

    def _check_channels(self, outputs):
        """Neurons per channel are as many as outputs."""
        for name in ("threshold", "offset", "amplitude"):
            checks.per_layer_or_channel(name, getattr(self, name), (1, outputs), (torch.float32,))
        if self.bend is not None and self.bend.dim() == 2:
            checks.channels("bend", self.bend, (1, outputs))

    def configuration(self):
        """The arguments that are no tensors."""
        return dict(
            timesteps=self.timesteps,
            quantization_levels=self.quantization_levels,
            shift=self.shift,
            counted=self.counted,
            input_levels=self.input_levels,
            input_area=self.input_area,
            fixed_steps=self.fixed_steps,
            residual_levels=self.residual_levels,
            residual_area=self.residual_area,
            emits=self.emits,
        )

    @property
    def exact(self):
        """Whether its counts are those of the layers it was made of."""
        return self.weight.dtype == torch.float32 and not self.counted

    @property
    def steps(self):
        """The largest distinct count."""
        return steps_of(self.timesteps, self.quantization_levels)

    def _derive(self):
        super()._derive()
        if "weight" not in self._buffers:  # the neuron's own constructor
            return
        forget(self)
        self._order_weight()
        repeats = self.timesteps // self.steps
        into, kept = self.input_steps, 1 if self.emits == "counts" else repeats
        levels = self.levels.double()[..., :: repeats // kept]
        worth = (
            None
            if self.residual_worth is None
            else divided(
                self.residual_worth.double(), steps_of(self.timesteps, self.residual_levels, self.residual_area)
            )
        )
        if self.weight.dtype == torch.int8:
            unit = divided(self.weight_scale.double(), into)
            self.operand_levels, self.operand_bias = self._whole_levels(levels, unit), None
            worth = None if worth is None else (worth / unit).round().to(torch.int32)
        else:
            self.operand_levels = self._scaled_levels(levels, into, kept)
            self.operand_bias = None if self.bias is None else (self.bias.double() * into).to(self.weight.dtype)
            worth = None if worth is None else (worth * into).float()
        self.operand_residual_scale = worth
        found = find_spacing(self.operand_levels)
        found = found if self.emits == "counts" or found.repeat in (kept, 0) else UNKNOWN
        self.operand_line = found.line
        self._operand_spacing = found.repeat, found.reach

    def _scaled_levels(self, levels, into, kept):
        """Levels of the sum over `into` steps: those of a line are on the line times that (23)."""
        if not self._repeat:
            return (levels * into).float()
        first, step = ((value.double() * into).float() for value in self.line[:2])
        return even.on_line(first, step, levels.shape[-1] // kept).repeat_interleave(kept, -1)

    def _whole_levels(self, levels, unit):
        """int32 [O, steps]; evenly spaced in whole numbers where the weights were scaled for that."""
        levels = levels.expand(len(unit), levels.shape[-1])
        table = integer.table(levels, unit, None if self.bias is None else self.bias.double())
        if levels.shape[-1] == 1 or self.bend is not None:
            return table
        distance = divided(levels[:, -1] - levels[:, 0], levels.shape[-1] - 1) / unit
        whole = distance.round()
        even = ((distance - whole).abs() * levels.shape[-1] < EVEN).unsqueeze(-1)  # not where infinite
        spaced = table[:, :1] + whole.nan_to_num(0, 0, 0).long().unsqueeze(-1) * torch.arange(
            levels.shape[-1], device=levels.device
        )
        return torch.where(even, spaced.clamp(max=checks.NEVER), table).to(torch.int32)

    def _call(self, x, residual, scale):
        return self._repeats.call(self._call_anew, self, ("counts", "residual"), (x, residual), scale)

    def _call_anew(self, x, residual, scale):
        worth, levels, (repeat, reach) = self.operand_residual_scale, self.operand_levels, self._operand_spacing
        if not self._fits(x):
            self._refuse(x)
        counts_dtype = self.weight.dtype if scale is None and x.is_cuda and self.weight.dtype in HALVES else None
        if residual is None:
            return self._run(x, levels, scale, None, None, repeat, self.operand_line, reach, counts_dtype)
        if not (residual.dtype == self._current_dtype if worth is None else self._is_count(residual.dtype)):
            raise TypeError(
                f"residual: expected {self._current_dtype if worth is None else torch.uint8}, got {residual.dtype}"
            )
        if residual.shape == self._shape(x):
            return self._run(x, levels, scale, residual, worth, repeat, self.operand_line, reach, counts_dtype)
        # a residual branch of another shape: the current, their sum, and the search, one after the other
        precise = torch.float64 if self.weight.dtype == torch.int8 else torch.float32
        current = self._run(x, None, None, None, None).to(precise)
        mean = add_residual(current, residual, None if worth is None else worth.to(precise))
        if scale is None:
            return functional.fire_counts(mean, levels.to(precise), repeat=repeat)
        return functional.fire_rates(mean, levels.to(precise), scale, repeat=repeat)

    def forward(self, x, residual=None):
        """Distinct counts (or values) and a residual branch -> distinct counts, or rates.

        Counts are uint8; on a GPU layers with bfloat16 weights return them in bfloat16, which holds them exactly and spares whoever
        multiplies them the conversion.
        """
        if self.emits == "rates":
            return self._call(x, residual, self.scale.float())
        return self._call(x, residual, None)

    def counts(self, x, residual=None):
        """Spike counts 0..T, uint8, of the same inputs."""
        found = self._call(x, residual, None).to(torch.uint8)
        return found if self.emits == "rates" else found * (self.timesteps // self.steps)

    def extra_repr(self):
        kind = str(self.weight.dtype).removeprefix("torch.")
        return f"weight={kind} {list(self.weight.shape)}, emits={self.emits}, {super().extra_repr()}"


class _Convolution:
    DIMENSIONS = 4

    def _set_geometry(self, stride, padding, dilation, groups):
        self.stride, self.dilation = arguments.pair("stride", stride, 1), arguments.pair("dilation", dilation, 1)
        self.padding, self.groups = arguments.pair("padding", padding, 0), groups
        arguments.kernel(self.weight, groups)

    def _geometry(self):
        return dict(stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups)

    def _shape(self, x):
        """The shape of the result, or None where x does not fit."""
        if x.dim() != 4 or x.shape[1] != self.weight.shape[1] * self.groups:
            return None
        sizes = convolved(x.shape[2:], self.weight.shape[2:], self.stride, self.padding, self.dilation)
        return None if min(sizes) < 1 else torch.Size((x.shape[0], self.weight.shape[0], *sizes))

    def _run(self, x, levels, scale, residual, residual_scale, repeat=1, line=None, reach=0, counts_dtype=None):
        return dispatch.call(
            "conv2d_fire",
            x,
            self.weight,
            self.operand_bias,
            levels,
            scale,
            residual,
            residual_scale,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            repeat,
            self._most,
            line,
            reach,
            counts_dtype,
        )

    def _refuse(self, x):
        if self.counted:
            checks.tensor("counts", x, (torch.uint8,))
        functional.conv2d_fire(x, self.weight, **self._geometry())


class SpikingConv2d(_Convolution, _Fused):
    """A convolution and the spiking neurons behind it: one operation (10), (11).

    Args:
        weight: [O, C / groups, R, S] float32, bfloat16, float16 or int8, in units of `weight_scale`. For incoming counts it is
            multiplied by the amplitude of the incoming neurons. The layer, with all other tensors, is on its device.
        timesteps: T, 1..255.
        stride, padding, dilation, groups: of the convolution.
        weight_scale: [O], for int8 weights. bias: [O] or None.
        counted: whether distinct counts come in (uint8), or values (of the dtype of `weight`).
        input_levels, input_area: L of the incoming neurons, or None, and how many of them were added up (CountSumPool2d).
        fixed_steps: the largest incoming count where that does not depend on T (PixelCounts), or None.
        residual_worth, residual_levels, residual_area: amplitude [] or [O], L and number of neurons whose counts are the
            residual branch; None where there is none or it is a current.
        emits: "counts", distinct ones, or "rates".
        threshold, quantization_levels, offset, amplitude, bend, shift: of the neurons, as in CollapsedNeuron.

    Shape: [N, C, H, W] to [N, O, H', W'], channels last in memory.
    """

    def __init__(self, weight, timesteps, *, stride=1, padding=0, dilation=1, groups=1, **options):
        super().__init__(weight, timesteps, **options)
        self._set_geometry(stride, padding, dilation, groups)

    def configuration(self):
        """The arguments that are no tensors."""
        return super().configuration() | self._geometry()


class _Linear:
    DIMENSIONS = 2

    def _shape(self, x):
        """The shape of the result, or None where x does not fit."""
        fits = x.dim() and x.shape[-1] == self.weight.shape[1]
        return torch.Size((*x.shape[:-1], self.weight.shape[0])) if fits else None

    def _run(self, x, levels, scale, residual, residual_scale, repeat=1, line=None, reach=0, counts_dtype=None):
        return dispatch.call(
            "linear_fire",
            x,
            self.weight,
            self.operand_bias,
            levels,
            scale,
            residual,
            residual_scale,
            repeat,
            self._most,
            line,
            reach,
            counts_dtype,
        )

    def _refuse(self, x):
        if self.counted:
            checks.tensor("counts", x, (torch.uint8,))
        functional.linear_fire(x, self.weight)


class SpikingLinear(_Linear, _Fused):
    """A linear layer and the spiking neurons behind it: one operation. Arguments as of SpikingConv2d; weight [O, K].

    Shape: [..., K] to [..., O].
    """


class _Synaptic(_Weights, FullPrecisionBuffers):
    """A synapse of counts without neurons behind it. Subclasses say which one."""

    TENSORS = ("weight", "weight_scale", "bias")

    def __init__(
        self, weight, timesteps, *, weight_scale=None, bias=None, input_levels=None, input_area=1, emits="current"
    ):
        super().__init__()
        self._check_weights(weight, weight_scale, bias)
        check_numbers(input_levels=input_levels, input_area=input_area)
        if emits not in ("current", "values"):
            raise ValueError(f"emits: expected current or values, got {emits!r}")
        if emits == "values" and weight.dtype != torch.int8:
            raise TypeError(f"weight: expected torch.int8 where values are emitted, got {weight.dtype}")
        self.counted, self.input_levels, self.input_area, self.fixed_steps = True, input_levels, input_area, None
        self.emits = emits
        self._repeats = Repeats()
        self._register_weights(weight, weight_scale, bias)
        self.register_buffer("operand_bias", None, persistent=False)
        self.register_buffer("operand_scale", None, persistent=False)
        self._gather()
        self.set_timesteps(timesteps)

    def configuration(self):
        """The arguments that are no tensors."""
        return dict(
            timesteps=self.timesteps, input_levels=self.input_levels, input_area=self.input_area, emits=self.emits
        )

    def set_timesteps(self, timesteps):
        """The same layer for counts of another T."""
        checks.timesteps(timesteps)
        self.check_timesteps(timesteps)
        self.timesteps = timesteps
        self._derive()

    def _derive(self):
        forget(self)
        self._order_weight()
        if self.emits == "values":
            self.operand_scale = divided(self.weight_scale.double(), self.input_steps).float()
        if self.bias is None:
            return
        bias = self.bias.double() * self.input_steps
        whole = self.weight.dtype == torch.int8
        self.operand_bias = (
            (bias / self.weight_scale.double()).round().to(torch.int32) if whole else bias.to(self.weight.dtype)
        )

    def _load_from_state_dict(self, *arguments):
        super()._load_from_state_dict(*arguments)
        self._derive()

    def forward(self, counts):
        """uint8 -> currents or values."""
        return self._repeats.call(self._forward_anew, self, ("counts",), (counts,))

    def _forward_anew(self, counts):
        if not self._fits(counts):
            self._refuse(counts)
        return self._run(counts, None, self.operand_scale, None, None)

    def extra_repr(self):
        return f"weight={str(self.weight.dtype).removeprefix('torch.')} {list(self.weight.shape)}, timesteps={self.timesteps}"


class SynapticConv2d(_Convolution, _Synaptic):
    """A convolution of counts without neurons behind it.

    Args:
        weight, timesteps, stride, padding, dilation, groups, weight_scale, bias, input_levels, input_area: as of SpikingConv2d.
        emits: "current": what another layer adds to its own current, in the units of that layer's weights; "values": float32
            values, from int8 weights.

    Shape: distinct counts [N, C, H, W] to [N, O, H', W']: currents int32 for int8 weights, else of their dtype; or float32.
    """

    def __init__(self, weight, timesteps, *, stride=1, padding=0, dilation=1, groups=1, **options):
        super().__init__(weight, timesteps, **options)
        self._set_geometry(stride, padding, dilation, groups)

    def configuration(self):
        """The arguments that are no tensors."""
        return super().configuration() | self._geometry()


class SynapticLinear(_Linear, _Synaptic):
    """A linear layer of counts without neurons behind it. Arguments as of SynapticConv2d; weight [O, K].

    Shape: distinct counts [..., K] to [..., O].
    """
