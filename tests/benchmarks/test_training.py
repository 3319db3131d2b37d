"""The loading of images and the training script of benchmarks/."""

import argparse
import gzip

import accuracy
import numpy
import pytest
import safetensors
import torch
import train
from lib import data, networks

import pcsnn


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + numpy.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def folder(tmp_path):
    """A FashionMNIST folder of 40 random images in either split."""
    random = numpy.random.default_rng(0)
    for split in ("train", "t10k"):
        write_idx(tmp_path / f"{split}-images-idx3-ubyte.gz", random.integers(0, 256, (40, 28, 28), numpy.uint8))
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte.gz", random.integers(0, 10, 40, numpy.uint8))
    return tmp_path


def test_shipped_images_are_the_published_ones():
    images, labels = data.fashion_mnist("t10k")
    assert images.shape == (10_000, 1, 28, 28) and images.dtype == torch.uint8
    assert labels.bincount().tolist() == [1000] * 10
    assert labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert (data.HERE / "data" / "fashion-mnist" / "LICENSE").read_text().count("Zalando") > 0


def test_missing_files_say_where_they_are_published(tmp_path):
    with pytest.raises(FileNotFoundError, match="train-images.*train-labels.*github.com/zalandoresearch"):
        data.fashion_mnist("train", tmp_path)
    with pytest.raises(FileNotFoundError, match="test.npz"):
        data.cifar10("test", tmp_path)


@pytest.mark.parametrize(
    "content,match",
    [
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00", "magic number"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x05\x00", "expected 5 bytes"),
    ],
)
def test_damaged_files_are_refused(folder, content, match):
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=match):
        data.fashion_mnist("train", folder)


def test_cifar10_is_read_channels_first(tmp_path):
    images = numpy.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), numpy.uint8)
    numpy.savez(tmp_path / "test.npz", images=images, labels=numpy.arange(5, dtype=numpy.uint8))
    read, labels = data.cifar10("test", tmp_path)
    assert numpy.array_equal(read.permute(0, 2, 3, 1).numpy(), images) and labels.tolist() == [0, 1, 2, 3, 4]


def test_normalise_scales_each_channel():
    images = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    out = data.normalise(images, ((0.5, 0.0, 0.1), (0.5, 2.0, 0.1)))
    assert out.flatten().tolist() == pytest.approx([-1, 0.5, 1])


def test_augmentation_only_shifts_and_flips():
    images = torch.randint(1, 256, (64, 1, 6, 5), dtype=torch.uint8)
    out = train.augment(images, 2, torch.Generator().manual_seed(0))
    seen = set()
    for before, after in zip(images[:, 0], out[:, 0]):
        padded = torch.nn.functional.pad(before, (2, 2, 2, 2))
        candidates = {
            (down, right, flip): (window.flip(1) if flip else window)
            for down in range(5)
            for right in range(5)
            for flip in (False, True)
            for window in [padded[down : down + 6, right : right + 5]]
        }
        matches = [key for key, candidate in candidates.items() if torch.equal(candidate, after)]
        assert matches
        seen.update(matches)
    assert len(seen) > 25


def settings(folder, output, **changes):
    chosen = dict(
        model="vgg",
        activation="qcfs",
        data=folder,
        output=output,
        start=None,
        levels=4,
        epochs=2,
        batch=8,
        seed=3,
        rate=0.05,
        shift=2,
        weight_decay=5e-4,
        label_smoothing=0.05,
        progress_interval=0.1,
    )
    return argparse.Namespace(**{**chosen, **changes})


def weights(path):
    with safetensors.safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()


def train_until_killed(arguments, saves, monkeypatch):
    """Train until after `saves` saves of the state, then die while writing the next."""
    replace, written = train.replace_file, []

    def killed(path, write):
        if len(written) == saves:
            write(path.with_name(path.name + ".part"))
            raise KeyboardInterrupt
        written.append(path)
        replace(path, write)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "replace_file", killed)
        train.train(arguments)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_killed_training_resumes_to_the_same_weights(folder, monkeypatch, one_thread):
    monkeypatch.setattr(train, "SAVE_EVERY", 2)
    whole, resumed = settings(folder, folder / "whole.safetensors"), settings(folder, folder / "resumed.safetensors")
    train.train(whole)
    for saves in (1, 3):  # within the first epoch; after its end and again within the second
        train_until_killed(resumed, saves, monkeypatch)
        torch.rand(7)  # the generator of the process that resumes stands elsewhere
    train.train(resumed)
    expected, metadata = weights(whole.output)
    found, same = weights(resumed.output)
    assert metadata == same
    assert {key for key in expected if not torch.equal(expected[key], found[key])} == set()


def test_resuming_with_other_settings_is_refused(folder, monkeypatch):
    output = folder / "net.safetensors"
    train_until_killed(settings(folder, output), 1, monkeypatch)
    with pytest.raises(SystemExit, match="delete it to start anew"):
        train.train(settings(folder, output, seed=4))


def test_a_second_stage_goes_on_from_a_checkpoint(folder):
    first, second = folder / "first.safetensors", folder / "second.safetensors"
    train.train(settings(folder, first))
    train.train(settings(folder, second, start=first, rate=1e-30, shift=0, seed=4, weight_decay=0.0))
    before, _ = weights(first)
    after, _ = weights(second)
    learnt = [key for key in before if "running" not in key and "num_batches" not in key]
    assert all(torch.equal(before[key], after[key]) for key in learnt)
    metadata = networks.load(second)[1]
    assert metadata["epochs"] == 4 and [stage["seed"] for stage in metadata["stages"]] == [3, 4]
    with pytest.raises(SystemExit, match="4 levels"):
        train.train(settings(folder, second, start=first, levels=8))


def test_a_finished_training_leaves_only_its_checkpoint(folder):
    before = set(folder.iterdir())
    output = folder / "net.safetensors"
    train.train(settings(folder, output))
    assert set(folder.iterdir()) - before == {output}


def test_checkpoint_carries_its_metadata_and_loads(folder):
    output = folder / "net.safetensors"
    train.train(settings(folder, output))
    network, metadata = networks.load(output)
    assert metadata["model"] == "vgg" and metadata["levels"] == 4 and metadata["epochs"] == 2 and metadata["seed"] == 3
    images, labels = data.fashion_mnist("t10k", folder)
    assert train.accuracy(network, images, labels) == metadata["accuracy"]


def test_a_network_with_relu_is_trained_too(folder, tmp_path):
    output = tmp_path / "mobilenet.safetensors"
    train.train(settings(folder, output, model="mobilenet", activation="relu", levels=None))
    network, metadata = networks.load(output)
    assert metadata["levels"] is None and metadata["model"] == "mobilenet"
    assert any(isinstance(module, torch.nn.ReLU6) for module in network.modules())


def test_a_network_with_silu_is_trained_and_started_from(folder, tmp_path):
    output = tmp_path / "mobilenet.safetensors"
    train.train(settings(folder, output, model="mobilenet", activation="silu", levels=None))
    network, metadata = networks.load(output)
    assert metadata["activation"] == "silu" and any(isinstance(module, torch.nn.SiLU) for module in network.modules())
    with pytest.raises(SystemExit, match="is a mobilenet"):
        train.train(
            settings(folder, tmp_path / "other", model="mobilenet", activation="leaky_relu", levels=None, start=output)
        )


@pytest.mark.parametrize("model", networks.QCFS)
def test_comparison_counts_the_neurons_that_differ(model):
    torch.manual_seed(0)
    network = networks.build(model, 4).eval()
    images = torch.randn(6, 1, 28, 28)
    with torch.no_grad():
        own = accuracy.predict(network, images, 4, "")
        for timesteps in (4, 12):
            predictions, wrong = accuracy.compare(network, pcsnn.convert(network, timesteps), images, 4, "")
            assert torch.equal(predictions, own) and wrong == 0
        name, last = [item for item in network.named_modules() if isinstance(item[1], pcsnn.nn.QCFS)][-1]
        before = pcsnn.convert(network, 4)
        last.threshold *= 0.5
        after = pcsnn.convert(network, 4)
        with pcsnn.record(before) as recorded, pcsnn.record(after) as expected:
            before(images)
            after(images)
        differing = int((recorded.counts[name] != expected.counts[name]).sum())
        assert accuracy.compare(network, before, images, 4, "")[1] == differing > 0
