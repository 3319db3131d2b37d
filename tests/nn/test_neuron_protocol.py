"""What every kind of neuron answers: counts, rates, trains and range belong together."""

import pytest
import torch

from pcsnn.nn import CollapsedNeuron, SignedNeuron, SpikingAttention, SpikingConv2d, SpikingLinear
from pcsnn.nn.synapses import Conv2d, Linear
from pcsnn.tensors.arithmetic import per_channel

T = 12
THETA = torch.tensor([0.5, 1.0, 2.0, torch.inf])
NEURONS = {
    "one threshold": lambda: CollapsedNeuron(1.5, T),
    "per channel": lambda: CollapsedNeuron(THETA, T, offset=torch.linspace(-0.2, 0.2, 4), amplitude=1.25),
    "staircase": lambda: CollapsedNeuron(THETA, T, quantization_levels=4),
    "spikes worth less than zero": lambda: CollapsedNeuron(1.5, T, amplitude=-0.5),
    "silu": lambda: SignedNeuron("silu", T, amplitude=1.5, lowest=-3.0),
    "leaky": lambda: SignedNeuron("leaky_relu", T, amplitude=2.0, lowest=-2.0, slope=torch.linspace(0, 0.3, 4)),
}


def currents():
    return torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(1)) * 2


@pytest.mark.parametrize("kind", NEURONS)
def test_counts_rates_and_trains_are_of_one_neuron(kind):
    neuron, x = NEURONS[kind](), currents()
    counts, order = neuron.counts(x), torch.randperm(T, generator=torch.Generator().manual_seed(2))
    rates = neuron(x)
    assert neuron.neuron is neuron and neuron.synapse is None
    assert torch.equal(neuron.rates_of(counts), rates) and counts.max() <= neuron.levels.shape[-1]
    least, most = (per_channel(end, 4) for end in neuron.range())
    assert (least - 1e-6 <= rates).all() and (rates <= most + 1e-6).all() and (rates.double() - most).abs().min() < 1e-6
    trains = neuron.expand(counts, order)
    assert torch.equal(trains, neuron.expand(counts)[order])
    low, high = neuron.spike_range
    assert low <= trains.to(torch.int8).min() and trains.to(torch.int8).max() == high
    assert (trains.dtype is torch.bool) == (neuron.spike_range == (0, 1))
    torch.testing.assert_close(trains.float().mean(0) * per_channel(neuron.spike, 4), rates)
    steady = x.expand(T, *x.shape).contiguous()
    fired = neuron.fire(steady, neuron.spike)
    step = neuron.spike.abs().max().item() / T  # at a level, where the sum of T currents rounds
    assert ((fired.mean(0) - rates).abs() <= step + 1e-6).all() and (fired.mean(0) - rates).abs().mean() < step / 20
    assert neuron.describe()


@pytest.mark.parametrize("kind", NEURONS)
def test_trains_of_counts_at_another_number_of_time_steps(kind):
    neuron, counts = NEURONS[kind](), torch.arange(6, dtype=torch.uint8)
    other = NEURONS[kind]()
    other.set_timesteps(5)
    assert torch.equal(neuron.expand(counts, timesteps=5), other.expand(counts))


def test_layers_have_a_neuron_and_a_synapse():
    weight, counts = torch.randn(4, 3, 3, 3), torch.randint(0, T + 1, (2, 3, 7, 7), dtype=torch.uint8)
    layer = SpikingConv2d(weight, T, stride=2, padding=1, threshold=THETA, offset=0.25, input_levels=4)
    assert type(layer.neuron) is CollapsedNeuron and type(layer.synapse) is Conv2d
    assert layer.synapse.geometry() == dict(stride=(2, 2), padding=(1, 1), dilation=(1, 1), groups=1)
    for name in ("levels", "threshold", "offset", "amplitude", "scale"):
        assert getattr(layer, name) is getattr(layer.neuron, name)
    assert torch.equal(layer.rates_of(layer.counts(counts)), layer.neuron.rates_of(layer.counts(counts)))
    layer.set_timesteps(4)
    assert layer.timesteps == layer.neuron.timesteps == 4 and layer.levels.shape == (4, 4)
    assert "neuron.threshold" not in layer.state_dict() and "threshold" in layer.state_dict()
    linear = SpikingLinear(torch.randn(4, 6), T, threshold=1.0)
    assert type(linear.synapse) is Linear and linear.synapse.geometry() == {} and not hasattr(linear, "stride")
    attention = SpikingAttention(2, THETA, T)
    assert attention.synapse is None and type(attention.neuron) is CollapsedNeuron
