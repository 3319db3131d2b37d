"""Fused layers: a synapse and the spiking neurons behind it in one operation, counts in and counts out."""

from typing import Any

import torch

from pcsnn import functional
from pcsnn.levels import even, integer
from pcsnn.levels.spacing import UNKNOWN, find_spacing
from pcsnn.nn.counts import check_numbers, steps_of
from pcsnn.nn.neuron import CollapsedNeuron, Spiking
from pcsnn.nn.synaptic import SynapseLayer, attribute_of
from pcsnn.tensors import checks
from pcsnn.tensors.arithmetic import add_residual, divided
from pcsnn.tensors.shapes import HALVES

EVEN = 1e-3  # of a whole number of units, summed over all levels: how far int8 levels may move to be evenly spaced


def _of_neuron(name):
    return attribute_of("neuron", name)


def _flat(module, state, prefix, metadata):
    """The state of a fused layer has the names of its neurons' tensors as they are in files: without "neuron."."""
    for name in CollapsedNeuron.TENSORS:
        if (value := state.pop(f"{prefix}neuron.{name}", None)) is not None:
            state[f"{prefix}{name}"] = value


def _derive_anew(layer, incompatible):
    layer._derive()


class SpikingSynapse(SynapseLayer, Spiking):
    """A synapse and the `CollapsedNeuron`s behind it, in one operation.

    Attributes:
        neuron: the CollapsedNeuron; what it knows of threshold, levels and rates are attributes of the layer too.
    """

    neuron: CollapsedNeuron
    TENSORS = (*CollapsedNeuron.TENSORS, "weight", "weight_scale", "bias", "residual_worth")

    timesteps, spike_levels = map(_of_neuron, ("timesteps", "spike_levels"))
    quantization_levels, shift = map(_of_neuron, ("quantization_levels", "shift"))
    threshold, offset, amplitude, bend = map(_of_neuron, CollapsedNeuron.TENSORS)
    levels, scale, spacing, spike = map(_of_neuron, ("levels", "scale", "spacing", "spike"))

    def __init__(
        self,
        weight: torch.Tensor,
        timesteps: int,
        *,
        weight_scale: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        counted: bool = True,
        input_levels: int | None = None,
        input_area: int = 1,
        input_spike_levels: int = 1,
        fixed_steps: int | None = None,
        residual_worth: torch.Tensor | None = None,
        residual_levels: int | None = None,
        residual_area: int = 1,
        residual_spike_levels: int = 1,
        emits: str = "counts",
        **options: Any,
    ):
        super().__init__()
        geometry = {name: options.pop(name) for name in self.kind.GEOMETRY if name in options}
        outputs = self._set_synapse(weight, weight_scale, bias, geometry)
        check_numbers(
            counted=counted,
            input_levels=input_levels,
            input_area=input_area,
            fixed_steps=fixed_steps,
            residual_levels=residual_levels,
            residual_area=residual_area,
        )
        for several in (input_spike_levels, residual_spike_levels):
            checks.full_count(timesteps, several)
        if residual_worth is not None:
            checks.per_layer_or_channel("residual_worth", residual_worth, (1, outputs), checks.CURRENT_DTYPES)
        self.neuron = CollapsedNeuron(timesteps=timesteps, **options)
        self._check_channels(outputs)
        if emits not in ("counts", "rates"):
            raise ValueError(f"emits: expected counts or rates, got {emits!r}")
        self.counted, self.input_levels, self.input_area = counted, input_levels, input_area
        self.input_spike_levels, self.fixed_steps = input_spike_levels, fixed_steps
        self.residual_levels, self.residual_area, self.emits = residual_levels, residual_area, emits
        self.residual_spike_levels = residual_spike_levels
        self.register_buffer("residual_worth", None if residual_worth is None else residual_worth.detach().float())
        for name in ("operand_levels", "operand_line", "operand_residual_scale"):
            self.register_buffer(name, None, persistent=False)
        self.check_timesteps(timesteps)
        self.neuron.to(weight.device)
        self._gather()
        self.register_state_dict_post_hook(_flat)
        self.register_load_state_dict_post_hook(_derive_anew)
        self._derive()

    def _check_channels(self, outputs):
        """Neurons per channel are as many as outputs."""
        for name in ("threshold", "offset", "amplitude"):
            checks.per_layer_or_channel(name, getattr(self.neuron, name), (1, outputs), (torch.float32,))
        bend = self.neuron.bend
        if bend is not None and bend.dim() == 2:
            checks.channels("bend", bend, (1, outputs))

    def configuration(self) -> dict[str, Any]:
        """The arguments that are no tensors."""
        return dict(
            timesteps=self.timesteps,
            spike_levels=self.spike_levels,
            quantization_levels=self.quantization_levels,
            shift=self.shift,
            counted=self.counted,
            input_levels=self.input_levels,
            input_area=self.input_area,
            input_spike_levels=self.input_spike_levels,
            fixed_steps=self.fixed_steps,
            residual_levels=self.residual_levels,
            residual_area=self.residual_area,
            residual_spike_levels=self.residual_spike_levels,
            emits=self.emits,
            **self.synapse.geometry(),
        )

    def set_timesteps(self, timesteps: int, spike_levels: int | None = None) -> None:
        """The same layer at T = `timesteps` and, where it is given, D = `spike_levels` of it and what it reads."""
        self.neuron.set_timesteps(timesteps, spike_levels)
        if spike_levels is not None:
            self.input_spike_levels = self.residual_spike_levels = spike_levels
        self._derive()

    def _load_from_state_dict(self, state, prefix, *rest):
        for name in CollapsedNeuron.TENSORS:
            if f"{prefix}{name}" in state:
                state[f"{prefix}neuron.{name}"] = state.pop(f"{prefix}{name}")
        super()._load_from_state_dict(state, prefix, *rest)

    @property
    def exact(self) -> bool:
        """Whether its counts are those of the layers it was made of."""
        return self.weight.dtype == torch.float32 and not self.counted

    @property
    def steps(self) -> int:
        """The largest distinct count."""
        return steps_of(self.neuron.full_count, self.quantization_levels)

    def _derive(self):
        super()._derive()
        repeats = self.neuron.full_count // self.steps
        into, kept = self.input_steps, 1 if self.emits == "counts" else repeats
        levels = self.neuron.levels.double()[..., :: repeats // kept]
        worth = self.residual_worth
        if worth is not None:
            full = self.timesteps * self.residual_spike_levels
            worth = divided(worth.double(), steps_of(full, self.residual_levels, self.residual_area))
        if self.weight.dtype == torch.int8:
            unit = divided(self.weight_scale.double(), into)
            self.operand_levels, self.operand_bias = self._whole_levels(levels, unit), None
            worth = None if worth is None else (worth / unit).round().to(torch.int32)
        else:
            self.operand_levels = self._scaled_levels(levels, into, kept)
            self.operand_bias = None if self.bias is None else (self.bias.double() * into).to(self.weight.dtype)
            worth = None if worth is None else (worth * into).float()
        self.operand_residual_scale = worth
        self.operand_scale = self.neuron.scale.float() if self.emits == "rates" else None
        found = find_spacing(self.operand_levels)
        found = found if self.emits == "counts" or found.repeat in (kept, 0) else UNKNOWN
        self.operand_line = found.line
        self.operand_spacing = found.repeat, found.reach

    def _scaled_levels(self, levels, into, kept):
        """Levels of the sum over `into` steps: those of a line are on the line times that (23)."""
        spacing = self.neuron.spacing
        if not spacing.repeat:
            return (levels * into).float()
        first, step = ((value.double() * into).float() for value in spacing.line[:2])
        return even.on_line(first, step, levels.shape[-1] // kept).repeat_interleave(kept, -1)

    def _whole_levels(self, levels, unit):
        """int32 [O, steps]; evenly spaced in whole numbers where the weights were scaled for that."""
        levels = levels.expand(len(unit), levels.shape[-1])
        table = integer.table(levels, unit, None if self.bias is None else self.bias.double())
        if levels.shape[-1] == 1 or self.neuron.bend is not None:
            return table
        distance = divided(levels[:, -1] - levels[:, 0], levels.shape[-1] - 1) / unit
        whole = distance.round()
        evenly = ((distance - whole).abs() * levels.shape[-1] < EVEN).unsqueeze(-1)  # not where infinite
        spaced = table[:, :1] + whole.nan_to_num(0, 0, 0).long().unsqueeze(-1) * torch.arange(
            levels.shape[-1], device=levels.device
        )
        return torch.where(evenly, spaced.clamp(max=checks.NEVER), table).to(torch.int32)

    def _call(self, x, residual, scale):
        return self._repeats.call(self._call_anew, self, ("counts", "residual"), (x, residual), scale)

    def _call_anew(self, x, residual, scale):
        weight, worth, levels = self.weight, self.operand_residual_scale, self.operand_levels
        self._check(x)
        repeat, reach = self.operand_spacing
        counts_dtype = weight.dtype if scale is None and x.is_cuda and weight.dtype in HALVES else None
        if residual is None:
            worth = None
        else:
            if not (residual.dtype == self._current_dtype if worth is None else self._is_count(residual.dtype)):
                raise TypeError(
                    f"residual: expected {self._current_dtype if worth is None else torch.uint8}, got {residual.dtype}"
                )
            if residual.shape != self._shape(x):
                return self._added(x, residual, worth, scale)
        operands = (x, weight, self.operand_bias, levels, scale, residual, worth)
        return self.synapse.run(*operands, repeat, self._most, self.operand_line, reach, counts_dtype)

    def _added(self, x, residual, worth, scale):
        """With a residual branch of another shape: the current, their sum, and the search, one after the other."""
        precise = torch.float64 if self.weight.dtype == torch.int8 else torch.float32
        repeat, _ = self.operand_spacing
        levels = self.operand_levels.to(precise)
        mean = add_residual(self._current(x).to(precise), residual, None if worth is None else worth.to(precise))
        if scale is None:
            return functional.fire_counts(mean, levels, repeat=repeat)
        return functional.fire_rates(mean, levels, scale, repeat=repeat)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Distinct counts (or values) and a residual branch -> distinct counts, or rates.

        Counts are uint8; on a GPU layers with bfloat16 weights return them in bfloat16, which holds them exactly and
        spares whoever multiplies them the conversion.
        """
        return self._call(x, residual, self.operand_scale)

    def counts(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:  # type: ignore[override]
        """Spike counts 0..T D, uint8, of the same inputs."""
        found = self._call(x, residual, None).to(torch.uint8)
        return found if self.emits == "rates" else found * (self.neuron.full_count // self.steps)

    def describe(self) -> str:
        """The neurons in the words of a report."""
        return self.neuron.describe(self.exact)

    def extra_repr(self):
        return f"{self._weight_repr()}, emits={self.emits}"
