"""How images are normalised: what a checkpoint or a saved network says is used, carried on, and told."""

import json

import numpy
import pytest
import safetensors
import safetensors.torch
import torch
from cli_cases import NET, QUICK, SIZES, folder, inside, lines, net, photos, run  # noqa: F401 (fixtures)
from tiny_networks import one_thread  # noqa: F401

import pcsnn

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
CONVERT = ("convert", *NET, "--timesteps", 4, "--data", "photos", "--model-args", '{"activation": "relu"}')


def state():
    return {name: value.contiguous() for name, value in net(activation="relu", seed=3).state_dict().items()}


def normalised(x, mean=MEAN, std=STD):
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    return (x - mean) / std


def expected(mean=MEAN, std=STD):
    """The network of `state` calibrated on the photos, normalised so."""
    network = net(activation="relu", seed=3)
    return pcsnn.convert(network, 4, calibration=normalised(photos()[0], mean, std), method="max")


METADATA = {
    "lists": {"mean": json.dumps(MEAN), "std": json.dumps(STD)},
    "commas": {"mean": "0.5, 0.4, 0.3", "std": "(0.2, 0.25, 0.3)"},
    "names of processors": {"image_mean": json.dumps(MEAN), "image_std": json.dumps(STD)},
    "a settings object": {"pretrained_cfg": json.dumps({"input": {"mean": MEAN, "std": STD}}), "format": "pt"},
}
AROUND = {
    "beside the state dict": lambda: {"state_dict": state(), "mean": MEAN, "std": STD, "epoch": 3},
    "tensors": lambda: {"model": state(), "mean": torch.tensor(MEAN), "std": torch.tensor(STD).view(3, 1, 1)},
    "settings": lambda: {"net": state(), "config": {"data": {"mean": tuple(MEAN), "std": tuple(STD)}}},
    "among the tensors": lambda: {**state(), "mean": torch.tensor(MEAN), "std": torch.tensor(STD)},
}


def saved(kind):
    """A file of weights that says MEAN and STD, in one of the ways above."""
    if kind in METADATA:
        safetensors.torch.save_file(state(), "w.safetensors", METADATA[kind])
        return "w.safetensors"
    torch.save(AROUND[kind](), "w.pt")
    return "w.pt"


@pytest.mark.parametrize("kind", [*METADATA, *AROUND])
@pytest.mark.quick(8)
def test_what_a_checkpoint_says_is_used_and_carried_on(tmp_path, capsys, kind):
    path = saved(kind)
    assert run(*CONVERT, "--weights", path, "--output", tmp_path / "snn") == 0
    told = capsys.readouterr().err
    assert f"note: images are normalised: mean 0.5 0.4 0.3, std 0.2 0.25 0.3, as {path} says" in told
    loaded, x = pcsnn.load(tmp_path / "snn"), normalised(photos()[0])
    assert torch.equal(loaded(x), expected()(x))
    assert loaded.normalisation == (tuple(MEAN), tuple(STD))


@pytest.mark.parametrize("name", ["mean", "std"])
def test_options_win_and_say_so(tmp_path, capsys, name):
    path = saved("lists")
    assert run(*CONVERT, "--weights", path, f"--{name}", 0.7, "--output", tmp_path / "snn") == 0
    told = capsys.readouterr().err
    theirs = [0.7]
    said = {"mean": "0.5 0.4 0.3", "std": "0.2 0.25 0.3"}
    assert f"note: --{name} 0.7 is used; {path} says {name} {said[name]}" in told
    used = {"mean": f"0.7, std {said['std']}", "std": f"{said['mean']}, std 0.7"}[name]
    whose = {"mean": f"--mean and {path}", "std": f"{path} and --std"}[name]
    assert f"images are normalised: mean {used}, as {whose} say" in told
    x = photos()[0]
    wanted = expected(**{name: theirs})
    used = {"mean": MEAN, "std": STD} | {name: theirs}
    assert torch.equal(pcsnn.load(tmp_path / "snn")(normalised(x, **used)), wanted(normalised(x, **used)))


def test_equal_options_are_no_conflict(tmp_path, capsys):
    assert run(*CONVERT, "--weights", saved("lists"), "--mean", *MEAN, "--std", *STD) == 0
    assert "note: " not in capsys.readouterr().err


def test_a_file_that_does_not_say_is_told(tmp_path, capsys):
    safetensors.torch.save_file(state(), "w.safetensors", {"mean": "0.91", "epochs": "3"})
    assert run(*CONVERT, "--weights", "w.safetensors", "--output", tmp_path / "snn") == 0
    assert "note: --data: neither --mean and --std nor a file say how images are normalised" in capsys.readouterr().err
    assert pcsnn.load(tmp_path / "snn").normalisation is None


@pytest.mark.parametrize("mean, std", [("many", "[1]"), ("[0.5]", "[0]"), ("[NaN]", "[1]"), ("[1, 2]", "[1, 2, 3]")])
def test_what_cannot_be_understood_is_refused(tmp_path, capsys, mean, std):
    safetensors.torch.save_file(state(), "w.safetensors", {"mean": mean, "std": std})
    assert run(*CONVERT, "--weights", "w.safetensors", "--output", tmp_path / "snn") == 1
    told = capsys.readouterr().err
    assert "error: --weights: w.safetensors says how images are normalised, and cannot be understood: " in told
    assert not (tmp_path / "snn").exists()
    assert run(*CONVERT, "--weights", "w.safetensors", "--mean", 0.5, "--std", 0.2) == 0
    assert "note: --mean and --std are used" in capsys.readouterr().err


def test_another_number_of_channels_names_the_file(capsys):
    safetensors.torch.save_file(state(), "w.safetensors", {"mean": "[1, 2]", "std": "[1, 2]"})
    assert run(*CONVERT, "--weights", "w.safetensors") == 1
    told = capsys.readouterr().err
    assert "--mean: expected one value, or one for each of 3 channels, got 2 of w.safetensors" in told


@pytest.mark.parametrize("low, high, used", [(0.0, 1.0, True), (-2.0, 2.0, False), (0.0, 255.0, False)])
def test_floats_that_are_no_pixels_are_taken_as_they_are(tmp_path, capsys, low, high, used):
    images = numpy.random.default_rng(0).uniform(low, high, (6, 3, 8, 8)).astype(numpy.float32)
    numpy.savez(tmp_path / "floats.npz", images=images)
    options = (*CONVERT, "--weights", saved("lists"), "--data", tmp_path / "floats.npz", "--output", tmp_path / "snn")
    assert run(*options) == 0
    assert ("taken as they are, normalised already" in capsys.readouterr().err) != used
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(images)[order]
    x = normalised(x) if used else x
    wanted = pcsnn.convert(net(activation="relu", seed=3), 4, calibration=x, method="max")
    assert torch.equal(pcsnn.load(tmp_path / "snn")(x), wanted(x))


def test_sweep_goes_on_with_a_file_in_the_place_of_options(tmp_path, capsys):
    path, output = saved("lists"), tmp_path / "s.jsonl"
    options = ("sweep", *NET, "--model-args", '{"activation": "relu"}', "--weights", path, "--data", "photos", *QUICK)
    options = (*options, "--skip", "time", "operations", "--output", output)
    assert run(*options, "--timesteps", 2) == 0
    assert run(*options, "--timesteps", 2, 4, "--mean", *MEAN, "--std", *STD) == 0
    assert "there already: T = 2" in capsys.readouterr().err
    header = lines(output)[0]["settings"]["data"]
    assert header["mean"] == MEAN and header["std"] == STD


@pytest.mark.parametrize("optimize", ["none", "int8"])
def test_evaluate_uses_what_a_saved_network_says(tmp_path, capsys, optimize):
    snn = tmp_path / "snn.safetensors"
    assert run(*CONVERT, "--weights", saved("lists"), "--optimize", optimize, "--output", snn) == 0
    capsys.readouterr()
    assert run("evaluate", snn, "--data", "photos", *SIZES, "--quiet") == 0
    told = capsys.readouterr()
    assert f"images are normalised: mean 0.5 0.4 0.3, std 0.2 0.25 0.3, as {snn} says" in told.err
    x, labels = photos()
    right = int((pcsnn.load(snn)(normalised(x)).argmax(1) == labels).sum())
    assert f"({right} of 12)" in told.out and "spikes an image" in told.out


@pytest.mark.parametrize("content", [b"", b"no network"])
def test_evaluate_refuses_what_is_no_network(tmp_path, capsys, content):
    (tmp_path / "snn").write_bytes(content)
    assert run("evaluate", tmp_path / "snn", "--data", "photos") == 1
    assert f"error: FILE: cannot read {tmp_path / 'snn'}: " in capsys.readouterr().err


def test_saved_networks_carry_it(tmp_path):
    snn = pcsnn.convert(net(), 4)
    assert snn.normalisation is None
    snn.normalisation = ([0.5, 0.4, 0.3], torch.tensor(0.25))
    pcsnn.save(pcsnn.optimize(snn), tmp_path / "snn")
    assert pcsnn.load(tmp_path / "snn").normalisation == ((0.5, 0.4, 0.3), (0.25,))
    for wrong, kind in (((1,), TypeError), (0.5, TypeError), (([], [1]), ValueError), ((["a"], [1]), ValueError)):
        with pytest.raises(kind, match="expected"):
            snn.normalisation = wrong


@pytest.mark.parametrize("entry", [3, {"mean": [1]}, {"mean": [1], "std": [0]}, {"mean": [True], "std": [1]}])
def test_files_with_a_broken_one_are_refused(tmp_path, entry):
    snn = pcsnn.convert(net(), 4)
    pcsnn.save(snn, tmp_path / "snn")
    with safetensors.safe_open(tmp_path / "snn", "pt") as file:
        description = json.loads(file.metadata()["pcsnn"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    from pcsnn.storage import container

    container.write(tmp_path / "snn", {"pcsnn": json.dumps(description | {"normalisation": entry})}, tensors)
    with pytest.raises(ValueError, match="path: has a normalisation that is none"):
        pcsnn.load(tmp_path / "snn")


def test_shipped_checkpoints_say_it():
    from lib import data, networks

    for path in sorted((data.HERE / "checkpoints").glob("*.safetensors")):
        _, metadata = networks.load(path)
        assert (metadata["mean"], metadata["std"]) == tuple(map(list, data.FASHION_MNIST)), path
