"""Neurons whose spikes have two signs (S1)-(S4): levels, rates on every backend, trains, whole networks."""

import copy

import cases
import pytest
import torch
import torch.nn.functional as F
from tiny_networks import network, one_thread, randomise  # noqa: F401 (a fixture)
from torch import nn

import pcsnn
from pcsnn import baselines, functional, use_backend
from pcsnn.analysis import layer_errors
from pcsnn.calibration.signed import covering
from pcsnn.levels.activations import activation, kinds
from pcsnn.levels.signed import balance, signed_levels, signed_table
from pcsnn.operators import dispatch

SLOPES = {"leaky_relu": 0.2, "elu": 1.3}
BALANCES = ((0, 0), (0, 3), (3, 3), (5, 2), (2, 5))


@pytest.mark.parametrize("timesteps", (1, 2, 5, 8, 31, 255))
@pytest.mark.parametrize("kind", kinds())
def test_a_rate_is_the_activation_rounded_to_the_nearest_multiple(kind, timesteps):
    slope = SLOPES.get(kind)
    lowest, highest = -4.0, 3.0
    quantum = covering(kind, slope, lowest, highest).item() / timesteps
    levels, turn, low, multiple = signed_table(kind, quantum, timesteps, lowest, slope)
    quantum, most = multiple * quantum, levels.shape[-1] - turn - low
    assert 0.9 * (timesteps // multiple) <= most <= timesteps // multiple
    assert levels.shape[-1] <= 255 and (timesteps == 255 or (multiple, most) == (1, timesteps))
    z = torch.linspace(lowest, highest, 5001, dtype=torch.float64)
    exact = activation(kind, z, slope)
    place = exact / quantum - 0.5
    clear = (place - place.round()).abs() > 1e-4  # not at a tie, which float32 levels may decide either way
    counts = balance(functional.fire_counts(z, levels), turn, low)
    assert torch.equal(counts[clear], (exact / quantum).round().int().clamp(-(timesteps // multiple), most)[clear])
    assert clear.sum() > 4900
    beyond = balance(functional.fire_counts(torch.tensor([-100.0]), levels), turn, low)
    assert beyond == counts[0]


@pytest.mark.parametrize("spike_levels", (1, 3))
@pytest.mark.parametrize("timesteps", (1, 2, 4, 9))
@pytest.mark.parametrize("kind", kinds())
def test_values_reach_from_minus_to_plus_the_amplitude(kind, timesteps, spike_levels):
    slope = torch.tensor([0.3, -0.6, 1.0, -2.0, 0.0]) if kind == "leaky_relu" else SLOPES.get(kind)
    amplitude, full = 0.7, timesteps * spike_levels
    neuron = pcsnn.nn.SignedNeuron(
        kind, timesteps, amplitude=amplitude, lowest=-0.7, slope=slope, spike_levels=spike_levels
    )
    z = torch.linspace(-3, 3, 2001, dtype=torch.float64).repeat(5, 1).T.reshape(-1, 5)
    exact = activation(kind, z.clamp_min(-0.7), None if slope is None else neuron.slope.double())
    place = (exact * full / amplitude).clamp(-full, full)
    clear = (place - 0.5 - (place - 0.5).round()).abs() > 1e-4
    counts = neuron.counts(z)
    assert torch.equal(neuron.balance(counts)[clear], place.round().int()[clear])
    trains = neuron.expand(counts)
    assert trains.shape[0] == timesteps and trains.abs().max() <= spike_levels
    assert torch.equal(trains.sum(0).int(), neuron.balance(counts))
    steps = neuron.fire(z.expand(timesteps, -1, -1), torch.tensor(amplitude / spike_levels, dtype=torch.float64))
    torch.testing.assert_close(steps.mean(0)[clear], neuron(z)[clear], rtol=1e-6, atol=1e-6)
    least, most = neuron.range()
    assert least == neuron(z).min() and most == pytest.approx(amplitude)


@pytest.mark.parametrize("timesteps", (90, 100, 200, 255))
def test_values_are_of_several_spikes_where_levels_were_more_than_255(timesteps):
    slopes = torch.tensor([0.9, -0.8], dtype=torch.float64)
    neuron = pcsnn.nn.SignedNeuron("leaky_relu", timesteps, amplitude=1.0, lowest=-1.0, slope=slopes)
    multiple = neuron.multiple
    assert multiple > 1 and neuron.levels.shape[-1] <= 255
    z = torch.linspace(-1, 0.89, 1999, dtype=torch.float64).repeat(2, 1).T
    assert (neuron(z) - F.prelu(z, slopes)).abs().max() <= (multiple / 2 + timesteps % multiple) / timesteps + 1e-6
    assert neuron.range()[1] >= 0.9 - multiple / timesteps
    trains, sums = neuron.expand(neuron.counts(z)), neuron.balance(neuron.counts(z))
    assert torch.equal(trains.sum(0).int(), sums) and not (sums % multiple).any() and trains.abs().max() == 1
    steps = neuron.fire(z.expand(timesteps, -1, -1), neuron.spike.double())
    assert (steps.mean(0) != neuron(z)).float().mean() < 0.01 or torch.allclose(steps.mean(0), neuron(z), rtol=1e-6)


@pytest.mark.parametrize("kind", kinds())
def test_channels_have_amplitudes_and_tables_of_their_own(kind):
    amplitudes, lowest = torch.tensor([0.4, 2.0, 3.0]), torch.tensor([-0.5, -3.0, 0.2])
    slopes = torch.tensor([0.2, 0.9, -0.7]) if kind == "leaky_relu" else SLOPES.get(kind)
    for timesteps, spike_levels in ((1, 1), (4, 1), (2, 6), (200, 1)):
        neuron = pcsnn.nn.SignedNeuron(
            kind, timesteps, amplitude=amplitudes, lowest=lowest, slope=slopes, spike_levels=spike_levels
        )
        z = torch.randn(50, 3, 7, dtype=torch.float64) * 3
        for channel in range(3):
            slope = slopes[channel] if isinstance(slopes, torch.Tensor) else slopes
            alone = pcsnn.nn.SignedNeuron(
                kind,
                timesteps,
                amplitude=amplitudes[channel],
                lowest=lowest[channel],
                slope=slope,
                spike_levels=spike_levels,
            )
            if (neuron.multiple, timesteps) == (alone.multiple, min(timesteps, 63)):
                assert torch.equal(neuron(z)[:, channel], alone(z[:, channel]))
                one = neuron.expand(neuron.counts(z))[:, :, channel]
                assert torch.equal(one, alone.expand(alone.counts(z[:, channel])))
                assert [end[channel] for end in neuron.range()] == list(alone.range())
        assert torch.equal(neuron.rates_of(neuron.counts(z), torch.float64), neuron(z))
        sums = neuron.expand(neuron.counts(z)).sum(0).double() * neuron.spike.double()[:, None] / timesteps
        torch.testing.assert_close(sums, neuron(z), rtol=1e-6, atol=1e-9)


def test_every_channel_of_a_prelu_has_its_own_slope():
    slopes = torch.tensor([0.25, -0.1, 0.0, 0.01, -0.5])
    levels, turn, low = signed_levels("leaky_relu", 0.2, 60, -5.0, slopes)
    z = torch.linspace(-5, 3, 999).repeat(1, 5, 1)
    rates = functional.fire_rates(z, levels, 0.2, turn=turn, low=low)
    assert (rates - F.prelu(z, slopes)).abs().max() <= 0.1 + 1e-5


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("timesteps", (1, 5, 16, 255))
@pytest.mark.skipif(bool(dispatch._no_extension), reason="no C++ kernels")
def test_rates_equal_the_reference(timesteps, dtype):
    shape = (2, 5, 3, 7)
    for channels in (None, shape[1]):
        for table in cases.tables(timesteps, channels):
            levels = table.levels.clone()
            levels[..., : timesteps // 3] = -torch.inf
            current = cases.currents(shape, table.levels, dtype)
            for scale in (torch.tensor(0.3), torch.linspace(0.1, 2, shape[1])):
                for turn, low in BALANCES:
                    if max(turn, low) > timesteps:
                        continue
                    cases.compare("c++", "fire_rates", current, levels, scale, current, None, 0, turn, low)
                    for repeat, line, reach in table.spacings:
                        cases.compare(
                            "c++",
                            "fire_rates",
                            current,
                            table.levels,
                            scale,
                            None,
                            None,
                            repeat,
                            turn,
                            low,
                            line,
                            reach,
                        )
            for name, value in cases.layouts(current):
                cases.compare("c++", "fire_rates", value, levels, torch.tensor(0.3), None, None, 0, 1, 1, what=name)


def test_in_place_and_checks_of_arguments():
    levels, turn, low = signed_levels("silu", 0.1, 32, -6.0)
    current = torch.randn(3, 40)
    expected = functional.fire_rates(current, levels, 0.1, turn=turn, low=low)
    written = current.clone()
    assert functional.fire_rates(written, levels, 0.1, turn=turn, low=low, inplace=True) is written
    assert torch.equal(written, expected)
    most = levels.shape[-1]
    with pytest.raises(ValueError, match=f"turn: expected a value in 0..{most}, got {most + 1}"):
        functional.fire_rates(current, levels, 0.1, turn=most + 1)
    with pytest.raises(ValueError, match=f"low: expected a value in 0..{most}, got -1"):
        functional.fire_rates(current, levels, 0.1, low=-1)
    with pytest.raises(ValueError, match="kind: expected one of leaky_relu"):
        signed_levels("softplus", 0.1, 8, -1.0)
    with pytest.raises(ValueError, match="quantum: 0.01 takes 28 spikes for the least value of silu, more than T = 8"):
        signed_levels("silu", 0.01, 8, -6.0)
    with pytest.raises(ValueError, match="quantum: leaves no level above zero at T = 240: silu takes 3"):
        signed_levels("silu", 0.4 / 240, 240, -6.0)
    with pytest.raises(ValueError, match="slope: expected None for gelu"):
        signed_levels("gelu", 0.1, 8, -1.0, 0.1)
    with pytest.raises(ValueError, match="amplitude: expected finite values, got inf"):
        pcsnn.nn.SignedNeuron("gelu", 8, amplitude=torch.tensor([1.0, torch.inf]), lowest=-1.0)
    with pytest.raises(ValueError, match="expected quantum, lowest and slope of as many channels, got 3, 2, 1"):
        signed_levels("gelu", torch.ones(3), 8, -torch.ones(2))
    for wrong in (dict(amplitude=torch.ones(3), lowest=-torch.ones(2)), dict(amplitude=torch.ones(2), lowest=-1.0)):
        with pytest.raises(
            ValueError, match=r"amplitude: expected as many channels as of lowest and slope, got \[[23]"
        ):
            pcsnn.nn.SignedNeuron("leaky_relu", 8, slope=torch.zeros(4), **wrong)
    with pytest.raises(ValueError, match="lowest: expected finite values, a number or .C., got shape .1, 2."):
        pcsnn.nn.SignedNeuron("gelu", 8, amplitude=1.0, lowest=torch.zeros(1, 2))


ACTIVATIONS = {
    "LeakyReLU": nn.LeakyReLU,
    "strong LeakyReLU": lambda: nn.LeakyReLU(0.3),
    "PReLU": nn.PReLU,
    "PReLU by channel": lambda: nn.PReLU(8),
    "ELU": nn.ELU,
    "GELU": nn.GELU,
    "tanh GELU": lambda: nn.GELU("tanh"),
    "SiLU": nn.SiLU,
    "Hardswish": nn.Hardswish,
    "Mish": nn.Mish,
}


def convolutions(make):
    """Two convolutions and a residual sum, an activation behind each, and a classifier."""

    def forward(self, x):
        first = self.act1(self.norm(self.conv1(x)))
        second = self.act2(self.conv2(first) + first)
        return self.fc(second.mean((2, 3)))

    return randomise(
        network(
            forward,
            conv1=nn.Conv2d(3, 8, 3, padding=1),
            norm=nn.BatchNorm2d(8),
            act1=make(),
            conv2=nn.Conv2d(8, 8, 3, padding=1),
            act2=make(),
            fc=nn.Linear(8, 5),
        )
    )


DATA = torch.randn(24, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_conversion_comes_close_with_many_steps_and_saves(name, tmp_path):
    net = convolutions(ACTIVATIONS[name])
    with pytest.raises(ValueError, match="cannot spike(.|\n)*signed=True"):
        pcsnn.convert(net, 16, calibration=DATA, method="max")
    with torch.no_grad():
        expected = net(DATA)
    made, errors = {}, {}
    for timesteps in (16, 64, 255):
        made[timesteps] = snn = pcsnn.convert(
            net, timesteps, calibration=DATA, method="max", signed=True, progress=False
        )
        errors[timesteps] = ((snn(DATA) - expected).norm() / expected.norm()).item()
    assert errors[255] < 0.02 and errors[255] < errors[16] / 3
    assert [row.kind for row in snn.report.rows].count("spiking") == 2 and "signed" in str(snn.report)
    pcsnn.save(snn, tmp_path / "net.safetensors")
    assert torch.equal(pcsnn.load(tmp_path / "net.safetensors")(DATA), snn(DATA))
    assert torch.equal(copy.deepcopy(snn)(DATA), snn(DATA))
    again = pcsnn.set_timesteps(made[64], 16)
    assert ((again(DATA) - expected).norm() / expected.norm()).item() == pytest.approx(errors[16], rel=1)


@pytest.mark.parametrize("name", ("LeakyReLU", "PReLU by channel", "SiLU"))
def test_step_by_step_the_same(name):
    net = convolutions(ACTIVATIONS[name]).double()
    snn = pcsnn.convert(net, 12, calibration=DATA.double(), method="max", signed=True, progress=False)
    torch.testing.assert_close(baselines.packed(snn)(DATA.double()), snn(DATA.double()), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="spikes of two signs"):
        baselines.serial(snn)


@pytest.mark.parametrize("name", ("LeakyReLU", "SiLU"))
@pytest.mark.quick(1)
def test_least_squares_and_gradients_improve_on_the_range(name):
    net = convolutions(ACTIVATIONS[name])
    with torch.no_grad():
        expected = net(DATA)
    errors = {
        method: (pcsnn.convert(net, 6, calibration=DATA, method=method, signed=True, progress=False)(DATA) - expected)
        .square()
        .mean()
        .item()
        for method in ("max", "quick", "light", "advanced")
    }
    assert errors["quick"] < errors["max"]
    assert errors["advanced"] < errors["quick"] and errors["light"] <= errors["quick"] * 1.05
    with pytest.raises(ValueError, match="'paper' is defined for activations that do not go below zero"):
        pcsnn.convert(net, 6, calibration=DATA, method="paper", signed=True)


def test_recording_errors_and_optimising():
    net = convolutions(nn.SiLU)
    snn = pcsnn.convert(net, 32, calibration=DATA, method="max", signed=True, progress=False)
    with pcsnn.record(snn) as recording:
        snn(DATA)
    for name, neuron in snn.neurons():
        assert torch.equal(recording.rates()[name], neuron.rates_of(recording.counts[name]))
    assert recording.rates()["act1"].min() < 0
    neuron = dict(snn.neurons())["act1"]
    order = pcsnn.analysis.random_order(32)
    trains = recording.spikes("act1", order)
    assert trains.dtype == torch.int8 and set(trains.unique().tolist()) == {-1, 0, 1}
    assert torch.equal(trains.sum(0).int(), neuron.balance(recording.counts["act1"]))
    assert torch.equal(torch.stack([step["act1"] for step in recording.steps(order=order)]), trains)
    row = recording.summary()[0]
    assert row.spikes == int(trains.ne(0).sum()) and row.silent == int((trains == 0).all(1).all(0).sum())
    with pytest.raises(ValueError, match="act1 has spikes of two signs"):
        recording.packed("act1")
    assert pcsnn.analysis.check_shuffle(snn, DATA, progress=False).same
    rows = layer_errors(net, snn, DATA, progress=False).rows
    assert [row.name for row in rows] == ["act1", "act2"] and all(0 < row.clipping < row.rounding for row in rows)
    torch.testing.assert_close(pcsnn.optimize(snn, example_inputs=DATA[:2])(DATA), snn(DATA), rtol=1e-4, atol=1e-4)


def test_max_pools_before_and_behind():
    def before(self, x):
        return self.fc(self.act(F.max_pool2d(self.conv(x), 2)).flatten(1))

    def behind(self, x):
        return self.fc(F.max_pool2d(self.act(self.conv(x)), 2).flatten(1))

    def over_channels(self, x):
        return self.fc(F.max_pool2d(self.act(self.conv(x)).amax(1, keepdim=True).expand(-1, 4, -1, -1), 2).flatten(1))

    slopes = nn.PReLU(4)
    with torch.no_grad():
        slopes.weight.copy_(torch.tensor([0.5, -0.6, 0.0, -1.5]))
    for forward in (before, behind, over_channels):
        for act in (nn.LeakyReLU(0.2), nn.SiLU(), slopes):
            net = randomise(network(forward, conv=nn.Conv2d(3, 4, 3, padding=1), act=act, fc=nn.Linear(36, 5)))
            for timesteps, spike_levels in ((32, 1), (5, 7)):
                snn = pcsnn.convert(
                    net,
                    timesteps,
                    calibration=DATA,
                    method="max",
                    signed=True,
                    progress=False,
                    spike_levels=spike_levels,
                )
                assert not [row for row in snn.report.rows if row.kind == "analog"]
                torch.testing.assert_close(
                    baselines.packed(snn.double())(DATA.double()), snn(DATA.double()), rtol=1e-12, atol=1e-12
                )


def test_trains_of_a_layer_are_in_order():
    slopes = torch.tensor([0.5, -0.8, 0.1])
    for kind, slope in (("silu", None), ("leaky_relu", 0.4), ("leaky_relu", slopes), ("leaky_relu", -slopes)):
        for timesteps, spike_levels in ((12, 1), (1, 1), (3, 4), (1, 60)):
            neuron = pcsnn.nn.SignedNeuron(
                kind, timesteps, amplitude=2.0, lowest=-2.0, slope=slope, spike_levels=spike_levels
            )
            counts = torch.arange(neuron.levels.shape[-1] + 1, dtype=torch.uint8)
            trains, sums = neuron.expand(counts), neuron.balance(counts)
            ordered = trains[:, sums.sort().indices].int()
            assert trains.dtype == torch.int8
            assert bool((ordered.diff(dim=1) >= 0).all()) and torch.equal(trains.sum(0).int(), sums)
            assert not bool(((trains > 0).any(0) & (trains < 0).any(0)).any())


def test_too_few_steps_change_nothing():
    net = convolutions(nn.SiLU)
    snn = pcsnn.convert(net, 64, calibration=DATA, method="max", signed=True, progress=False)
    for _, neuron in snn.neurons():
        neuron.amplitude.mul_(0.01)
        with pytest.raises(ValueError, match="spikes for the least value of silu, more than T = 4"):
            neuron.check_timesteps(4)
    before = snn(DATA)
    with pytest.raises(ValueError, match="spikes for the least value of silu, more than T = 4"):
        pcsnn.set_timesteps(snn, 4)
    assert torch.equal(snn(DATA), before) and snn.timesteps == 64


def test_functions_convert_like_modules():
    def forward(self, x):
        return self.fc(F.silu(self.conv1(F.leaky_relu(self.conv(x), 0.1))).flatten(1))

    net = randomise(network(forward, conv=nn.Conv2d(3, 4, 3), conv1=nn.Conv2d(4, 4, 3), fc=nn.Linear(16, 5)))
    snn = pcsnn.convert(net, 128, calibration=DATA, method="max", signed=True, progress=False)
    assert [neuron.kind for _, neuron in snn.neurons()] == ["leaky_relu", "silu"]
    with torch.no_grad():
        torch.testing.assert_close(snn(DATA), net(DATA), rtol=0.1, atol=0.05)


@pytest.mark.skipif(bool(dispatch._no_extension), reason="no C++ kernels")
def test_a_network_is_the_same_on_the_reference():
    snn = pcsnn.convert(convolutions(nn.GELU), 16, calibration=DATA, method="max", signed=True, progress=False)
    with use_backend("reference"):
        expected = snn(DATA)
    assert torch.equal(snn(DATA), expected)
