"""Synapses of counts: weights and what is known of what comes in, with neurons behind them or without."""

from typing import Any

import torch

from pcsnn.nn.counts import check_area, check_numbers, steps_of
from pcsnn.nn.precision import FullPrecisionBuffers
from pcsnn.operators import arguments
from pcsnn.operators.repeats import Repeats
from pcsnn.tensors import checks
from pcsnn.tensors.arithmetic import divided
from pcsnn.tensors.memo import forget
from pcsnn.tensors.shapes import HALVES, laid_out


def attribute_of(part, name):
    """A property that is an attribute of `layer.synapse` or `layer.neuron`."""

    def get(layer: Any) -> Any:
        return getattr(getattr(layer, part), name)

    def put(layer, value):
        setattr(getattr(layer, part), name, value)

    return property(get, put)


class SynapseLayer(FullPrecisionBuffers):
    """A synapse of counts, or of values: its kind and geometry, its weights, and what is known of what comes in.

    Buffers: weight, float32, bfloat16, float16 or int8, for counts times the amplitude of the incoming neurons, laid
        out as its kind says; weight_scale [O], what 1 is worth in int8 weights; bias [O], of the mean current; None
        where there is none.

    Attributes:
        synapse: a `pcsnn.nn.synapses.Synapse`; names of its geometry are attributes of the layer too.
    """

    kind: Any = None  # of synapse
    counted: bool
    timesteps: int
    input_levels: int | None
    input_area: int
    input_spike_levels: int
    fixed_steps: int | None

    def __init_subclass__(cls, kind=None, **options):
        super().__init_subclass__(**options)
        if kind is not None:
            cls.kind = kind
            for name in kind.GEOMETRY:
                setattr(cls, name, attribute_of("synapse", name))

    def _set_synapse(self, weight, weight_scale, bias, geometry):
        """Checks and registers what a constructor gets, from a file too; returns the number of outputs."""
        checks.tensor("weight", weight, arguments.WEIGHT_DTYPES)
        if weight.dim() != self.kind.DIMENSIONS or 0 in weight.shape:
            raise ValueError(
                f"weight: expected {self.kind.DIMENSIONS} dimensions, none of them empty, "
                f"got shape {tuple(weight.shape)}"
            )
        if weight.dtype == torch.int8 and weight_scale is None:
            raise ValueError("weight_scale: expected [O] with int8 weights, got None")
        self.synapse = self.kind(weight, **geometry)
        outputs = self.synapse.outputs(weight)
        for name, value in (("weight_scale", weight_scale), ("bias", bias)):
            if value is not None:
                checks.tensor(name, value, checks.CURRENT_DTYPES)
                if value.shape != (outputs,):
                    raise ValueError(f"{name}: expected [{outputs}], got shape {tuple(value.shape)}")
        self.register_buffer("weight", weight.detach())
        self.register_buffer("weight_scale", None if weight_scale is None else weight_scale.detach().float())
        self.register_buffer("bias", None if bias is None else bias.detach().float())
        for name in ("operand_bias", "operand_scale"):
            self.register_buffer(name, None, persistent=False)
        self._repeats = Repeats()
        return outputs

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

    def _derive(self):
        """What the operator reads, made anew of weights, neurons and T; subclasses add theirs."""
        forget(self)
        if self.weight.dim() == 4:  # channels last, like what it is multiplied with: no reordering at every call
            self.weight = laid_out(self.weight, torch.channels_last)
        self._most = self.input_steps if self.counted else checks.MAX_TIMESTEPS

    @property
    def _current_dtype(self):
        return torch.int32 if self.weight.dtype == torch.int8 else self.weight.dtype

    @property
    def input_steps(self) -> int:
        """The largest incoming count; 1 where what comes in is a value, not a count."""
        if not self.counted:
            return 1
        return self.fixed_steps or steps_of(
            self.timesteps * self.input_spike_levels, self.input_levels, self.input_area
        )

    def check_timesteps(self, timesteps: int, spike_levels: int | None = None) -> None:
        """ValueError where incoming counts would not fit a byte at T = `timesteps` and D."""
        if self.counted and not self.fixed_steps:
            several = self.input_spike_levels if spike_levels is None else spike_levels
            check_area(timesteps, several, self.input_levels, self.input_area)

    def _shape(self, x):
        """The shape of the result, or None where x does not fit."""
        return self.synapse.shape(x, self.weight)

    def _is_count(self, dtype):
        """Whether counts may have a dtype: bytes, or on a GPU that of half precision weights."""
        return dtype == torch.uint8 or dtype == self.weight.dtype and dtype in HALVES

    def _check(self, x):
        """Names what does not fit in x; else with as little work as can be."""
        weight = self.weight
        fits = (
            isinstance(x, torch.Tensor)
            and (self._is_count(x.dtype) if self.counted else x.dtype == weight.dtype)
            and x.device == weight.device
            and not (x.requires_grad and torch.is_grad_enabled())
            and self.synapse.shape(x, weight) is not None
        )
        if not fits:
            if self.counted:
                checks.tensor("counts", x, (torch.uint8,))
            self.synapse.refuse(x, weight)

    def _current(self, x, scale=None):
        """The operator without levels: currents, or those times a scale."""
        return self.synapse.run(
            x, self.weight, self.operand_bias, None, scale, None, None, 1, self._most, None, 0, None
        )

    def _weight_repr(self):
        return f"weight={str(self.weight.dtype).removeprefix('torch.')} {list(self.weight.shape)}"


class CountSynapse(SynapseLayer):
    """A synapse of counts without neurons behind it."""

    TENSORS = ("weight", "weight_scale", "bias")

    counted, fixed_steps = True, None

    def __init__(
        self,
        weight: torch.Tensor,
        timesteps: int,
        *,
        weight_scale: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        input_levels: int | None = None,
        input_area: int = 1,
        input_spike_levels: int = 1,
        emits: str = "current",
        **geometry: int | tuple[int, int],
    ):
        super().__init__()
        self._set_synapse(weight, weight_scale, bias, geometry)
        check_numbers(input_levels=input_levels, input_area=input_area)
        if emits not in ("current", "values"):
            raise ValueError(f"emits: expected current or values, got {emits!r}")
        if emits == "values" and weight.dtype != torch.int8:
            raise TypeError(f"weight: expected torch.int8 where values are emitted, got {weight.dtype}")
        self.input_levels, self.input_area, self.emits = input_levels, input_area, emits
        self.input_spike_levels = input_spike_levels
        self._gather()
        self.set_timesteps(timesteps)

    def configuration(self) -> dict[str, Any]:
        """The arguments that are no tensors."""
        return dict(
            timesteps=self.timesteps,
            input_levels=self.input_levels,
            input_area=self.input_area,
            input_spike_levels=self.input_spike_levels,
            emits=self.emits,
            **self.synapse.geometry(),
        )

    def set_timesteps(self, timesteps: int, spike_levels: int | None = None) -> None:
        """The same layer for counts of another T and, where it is given, D."""
        self.check_timesteps(timesteps, spike_levels)
        self.timesteps = timesteps
        self.input_spike_levels = self.input_spike_levels if spike_levels is None else spike_levels
        self._derive()

    def _derive(self):
        super()._derive()
        if self.emits == "values":
            self.operand_scale = divided(self.weight_scale.double(), self.input_steps).float()
        if self.bias is None:
            return
        bias = self.bias.double() * self.input_steps
        if self.weight.dtype == torch.int8:
            self.operand_bias = (bias / self.weight_scale.double()).round().to(torch.int32)
        else:
            self.operand_bias = bias.to(self.weight.dtype)

    def _load_from_state_dict(self, *arguments):
        super()._load_from_state_dict(*arguments)
        self._derive()

    def forward(self, counts: torch.Tensor) -> torch.Tensor:
        """uint8 -> currents or values."""
        return self._repeats.call(self._call_anew, self, ("counts",), (counts,))

    def _call_anew(self, counts):
        self._check(counts)
        return self._current(counts, self.operand_scale)

    def extra_repr(self):
        return f"{self._weight_repr()}, timesteps={self.timesteps}"
