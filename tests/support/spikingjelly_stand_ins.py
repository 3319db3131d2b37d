"""The classes of SpikingJelly 2.0 that the reader must know, small, under the same names and packages."""

import torch
from torch import nn


class StepModule:
    step_mode = "s"


class MemoryModule(nn.Module, StepModule):
    def __init__(self):
        super().__init__()
        self._memories, self._first = {}, {}

    def register_memory(self, name, value):
        self._memories[name] = self._first[name] = value

    def get_reset_value(self, name):
        return self._first[name]

    def reset(self):
        self._memories.update(self._first)


class BaseNode(MemoryModule):
    def __init__(self, v_threshold=1.0, v_reset=0.0, surrogate_function=None, step_mode="s"):
        super().__init__()
        self.v_threshold, self.v_reset, self.surrogate_function, self.step_mode = (
            v_threshold,
            v_reset,
            surrogate_function,
            step_mode,
        )
        self.register_memory("v", 0.0)

    def single_step_forward(self, x):
        v = self._memories["v"] + x
        spike = (v >= self.v_threshold).to(x)
        self._memories["v"] = v - spike * self.v_threshold
        return spike

    def forward(self, x):
        return (
            self.single_step_forward(x)
            if self.step_mode == "s"
            else torch.stack([self.single_step_forward(step) for step in x])
        )


class IFNode(BaseNode):
    pass


class HalfThresholdIFNode(BaseNode):
    def __init__(self, v_threshold=1.0, step_mode="s"):
        super().__init__(v_threshold, None, step_mode=step_mode)
        self.register_memory("v", v_threshold / 2)


class LIFNode(BaseNode):
    pass


class ActivationAwareIFNode(MemoryModule):
    pass


def _by_step(module, forward, x):
    return forward(x) if module.step_mode == "s" else forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _layer(kind):
    def __init__(self, *arguments, step_mode="s", **options):
        kind.__init__(self, *arguments, **options)
        self.step_mode = step_mode

    def forward(self, x):
        return _by_step(self, lambda value: kind.forward(self, value), x)

    return type(kind.__name__, (kind, StepModule), {"__init__": __init__, "forward": forward})


Conv2d, BatchNorm2d, MaxPool2d, Flatten, Linear = map(
    _layer, (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.Flatten, nn.Linear)
)


class Dropout(MemoryModule):
    def forward(self, x):
        return x  # in evaluation mode


class SeqToANNContainer(nn.Sequential, StepModule):
    step_mode = "m"

    def forward(self, x):
        return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class VotingLayer(nn.Module, StepModule):
    def __init__(self, voting_size=10, step_mode="s"):
        super().__init__()
        self.voting_size, self.step_mode = voting_size, step_mode

    def forward(self, x):
        return _by_step(self, lambda value: value.unflatten(1, (-1, self.voting_size)).mean(2), x)


class VoltageScaler(nn.Module, StepModule):
    def __init__(self, scale=1.0):
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, x):
        return x * self.scale


class ChannelVoltageScaler(nn.Module, StepModule):
    def __init__(self, scale, channel_dim=1):
        super().__init__()
        self.register_buffer("scale", torch.as_tensor(scale))
        self.channel_dim = channel_dim

    def forward(self, x):
        return x * self.scale.view(1, -1, *[1] * (x.dim() - 2))


class Delay(MemoryModule):
    pass


_PACKAGES = {
    "neuron": (BaseNode, IFNode, HalfThresholdIFNode, LIFNode, ActivationAwareIFNode),
    "layer": (Conv2d, BatchNorm2d, MaxPool2d, Flatten, Linear, Dropout, SeqToANNContainer, VotingLayer, Delay),
    "ann2snn.modules": (VoltageScaler, ChannelVoltageScaler),
    "base": (StepModule, MemoryModule),
}
for _package, _classes in _PACKAGES.items():
    for _class in _classes:
        _class.__module__ = f"spikingjelly.activation_based.{_package}"


def reset_net(network):
    """Every neuron to its potential at first."""
    for module in network.modules():
        if hasattr(module, "reset"):
            module.reset()


def set_step_mode(network, mode):
    """Every layer to one step a call ("s") or all ("m")."""
    for module in network.modules():
        if isinstance(module, StepModule):
            module.step_mode = mode
