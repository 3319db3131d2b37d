"""benchmarks/quantised.py on a tiny network: what quantised activations are, what is printed, kept and refused."""

import json

import pytest
import quantised
import torch
from lib import calibration_networks, snnc, uniform_activations
from lib.uniform_activations import CHOICES, UniformActivation
from tiny_networks import one_thread, randomise  # noqa: F401
from torch import nn

import pcsnn

LEVELS = 5


def tiny():
    """Three layers, currents of varying size, a batch norm, a max pool, a channel that never fires; 5 classes."""
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 5),
    )
    randomise(net)
    with torch.no_grad():
        net[4].bias[3] = -100
        net[4].weight *= torch.linspace(0.3, 3, 8).view(-1, 1, 1, 1)
    return net


def images(count, seed=3):
    return torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def case(monkeypatch):
    net, test = tiny(), images(48, 5)
    with torch.no_grad():
        labels = net(test).argmax(1)
    made = calibration_networks.Case("tiny", "A tiny network", net, images(96), test, labels)
    monkeypatch.setattr(quantised, "CASES", {"tiny": lambda args: made})
    return made


def activations(network, data):
    """{layer: its output}."""
    seen, hooks = {}, []
    for name, module in network.named_modules():
        if isinstance(module, (UniformActivation, snnc.FloatActivation)):
            hooks.append(module.register_forward_hook(lambda m, i, out, name=name: seen.update({name: out})))
    network(data)
    for hook in hooks:
        hook.remove()
    return seen


@torch.no_grad()
@pytest.mark.parametrize("choice", CHOICES)
def test_activations_take_the_values_they_may(choice):
    net, data = tiny(), images(96)
    network = uniform_activations.quantised(net, LEVELS, data, choice, progress=False)
    for name, output in activations(network, data).items():
        module = network.get_submodule(name)
        per_channel = module.largest.dim() == 1
        assert per_channel == (choice in ("ptq-max", "ptq-mse"))
        for channel in range(output.shape[1]):
            step = module.step[channel] if per_channel else module.step
            values = output[:, channel].unique()
            assert len(values) <= LEVELS + 1 and values.min() >= 0
            assert torch.allclose(values, (values / step).round() * step if step else torch.zeros_like(values))
    verdict = uniform_activations.as_neurons(network, data)
    assert verdict.right, verdict.words


@torch.no_grad()
def test_quantised_to_the_largest_activation_is_a_spiking_network_with_that_threshold():
    net, data = tiny(), images(96)
    network = uniform_activations.quantised(net, LEVELS, data, "ptq-max", progress=False)
    snn = pcsnn.convert(net, LEVELS, calibration=data, method="max", fold=True, progress=False)
    torch.testing.assert_close(network(data), snn(data))
    module = network.get_submodule(next(snn.neurons())[0])
    module.largest = module.largest * 1.1  # and its step as it was
    assert not uniform_activations.as_neurons(network, data).right


@torch.no_grad()
def test_the_choices_search_for_the_least_error():
    net, data = tiny(), images(96)

    def error(choice):
        network = uniform_activations.quantised(net, LEVELS, data, choice, progress=False)
        first = next(name for name, module in network.named_modules() if isinstance(module, UniformActivation))
        expected = net[:3](data)
        return (activations(network, data)[first] - expected).square().mean().item()

    found = {choice: error(choice) for choice in CHOICES}
    assert found["ptq-mse"] < found["ptq-mse-layer"] < found["ptq-max-layer"]
    assert found["ptq-mse"] < found["ptq-max"] and found["ptq-histogram"] < found["ptq-max-layer"]


def run(path, *options):
    code = quantised.main(
        ["--networks", "tiny", "--levels", "3", "2", "--methods", "max", "--json", str(path), "--threads", "1"]
        + ["--rounds", "1", "--timed-images", "4", "--counted-images", "4", *options]
    )
    rows = json.loads(path.read_text())["rows"]
    return code, {(row["method"], row["timesteps"]): row for row in rows}


@torch.no_grad()
def test_rows_tables_and_resuming(case, tmp_path, capsys, monkeypatch):
    code, rows = run(tmp_path / "rows.json")
    assert code == 0
    assert rows.keys() == {("float", None), *((name, levels) for name in (*CHOICES, "max") for levels in (2, 3))}
    network = uniform_activations.quantised(case.network, 3, case.calibration, "ptq-mse", progress=False)
    classes = network(case.images).argmax(1)
    assert rows["ptq-mse", 3]["accuracy"] == (classes == case.labels).double().mean()
    assert rows["ptq-max", 3]["accuracy"] == rows["max", 3]["accuracy"]
    printed = capsys.readouterr().out
    assert "A tiny network: float 100.00 %, 48 test images" in printed
    for heading in ("Drop against the float network, points", "Same class", "time", "S  quantised"):
        assert heading in printed
    drops = next(line for line in printed.splitlines() if line.startswith(CHOICES["ptq-mse"])).split()[-2:]
    assert drops == [f"{rows['ptq-mse', levels]['drop']:.2f}" for levels in (2, 3)]

    def refuse(*arguments, **options):
        raise AssertionError("measured again")

    monkeypatch.setattr(quantised, "quantised", refuse)
    code, again = run(tmp_path / "rows.json", "--no-costs")
    assert code == 0 and again == rows and "time" not in capsys.readouterr().out.split()


@torch.no_grad()
def test_operations_are_those_of_the_network_at_t_steps_and_at_one(case):
    args = quantised.arguments(["--methods", "max", "--counted-images", "4"])
    levels, *amounts = quantised.operations(case, 3, args)
    assert levels == "3" and len(amounts) == 8
    found = []
    for timesteps, spike_levels, execution in (
        (3, 1, "float"),
        (1, 3, "packed integers"),
        (3, 1, "packed"),
        (1, 3, "packed"),
    ):
        snn = pcsnn.convert(
            case.network,
            timesteps,
            calibration=case.calibration,
            method="max",
            fold=True,
            progress=False,
            spike_levels=spike_levels,
        )
        total = pcsnn.analysis.count_operations(snn, case.images[:4], progress=False).total(execution)
        found.append((total.accumulates, total.macs + total.spike_macs))
    assert amounts[:4] == [quantised.in_words(pair) for pair in found]
    joules = [f"{1e6 * (0.1e-12 * additions + 0.3e-12 * products):.2f}" for additions, products in found]
    assert amounts[4:] == joules
    assert found[0][1] > found[1][1] > 0 and found[2][0] > found[3][0] > 0
    assert quantised.in_words((2e6, 0)) == "2.00" and quantised.in_words((2e6, 3e6)) == "2.00 + 3.00 MACs"
    assert quantised.in_words((0, 3e6)) == "3.00 MACs"


def test_what_is_wrong_gets_no_row_and_no_time(case, tmp_path, capsys, monkeypatch):
    wrong = uniform_activations.checks.Verdict(False, "other levels")
    monkeypatch.setattr(uniform_activations, "as_neurons", lambda *options: wrong)
    code, rows = run(tmp_path / "rows.json", "--no-costs")
    assert code == 1 and rows["ptq-max", None]["why"] == "other levels" and ("ptq-max", 2) not in rows
    assert "quantised: max, channel: not run: other levels" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="other levels"):
        run(tmp_path / "rows.json")


def test_what_is_missing_is_said():
    with pytest.raises(SystemExit, match="needs --data FOLDER"):
        quantised.main(["--networks", "vgg", "--threads", "1"])
