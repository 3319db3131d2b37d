"""FCN and DeepLabv3: their published keys, conversion, calibration with dict outputs, the benchmark on tiny data."""

import json

import camvid
import numpy
import pytest
import segmentation
import torch
import torch.nn.functional as F
from few_steps import few_steps
from lib import segmentation_train
from lib.segmentation_metrics import Confusion
from tiny_networks import network, one_thread, randomise  # noqa: F401
from torch import fx, nn

import pcsnn
from pcsnn import models
from pcsnn.analysis import layer_errors, sweep
from pcsnn.calibration import refine
from pcsnn.calibration.layerwise import LIGHT
from pcsnn.nn import QCFS

PUBLISHED = {  # parameters and keys, with the auxiliary classifier and 21 classes
    "fcn_resnet50": (35_322_218, 334),
    "fcn_resnet101": (54_314_346, 640),
    "deeplabv3_resnet50": (42_004_074, 370),
    "deeplabv3_resnet101": (60_996_202, 676),
}
BACKBONE = {
    "backbone.conv1.weight": (64, 3, 7, 7),
    "backbone.bn1.running_var": (64,),
    "backbone.layer1.0.downsample.0.weight": (256, 64, 1, 1),
    "backbone.layer3.0.conv2.weight": (256, 256, 3, 3),
    "backbone.layer4.2.bn3.num_batches_tracked": (),
    "aux_classifier.0.weight": (256, 1024, 3, 3),
    "aux_classifier.1.running_mean": (256,),
    "aux_classifier.4.weight": (21, 256, 1, 1),
    "aux_classifier.4.bias": (21,),
}
HEADS = {
    "fcn": {
        "classifier.0.weight": (512, 2048, 3, 3),
        "classifier.1.weight": (512,),
        "classifier.4.weight": (21, 512, 1, 1),
        "classifier.4.bias": (21,),
    },
    "deeplabv3": {
        "classifier.0.convs.0.0.weight": (256, 2048, 1, 1),
        "classifier.0.convs.0.1.bias": (256,),
        "classifier.0.convs.3.0.weight": (256, 2048, 3, 3),
        "classifier.0.convs.4.1.weight": (256, 2048, 1, 1),
        "classifier.0.convs.4.2.running_var": (256,),
        "classifier.0.project.0.weight": (256, 1280, 1, 1),
        "classifier.0.project.1.weight": (256,),
        "classifier.1.weight": (256, 256, 3, 3),
        "classifier.2.weight": (256,),
        "classifier.4.weight": (21, 256, 1, 1),
        "classifier.4.bias": (21,),
    },
}
SMALL = ("fcn_small", "deeplabv3_small")


def images(count=2, height=21, width=26, seed=1):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PUBLISHED)
def test_keys_and_sizes_are_the_published_ones(name):
    with torch.device("meta"):
        model = getattr(models, name)().eval()
        bare = getattr(models, name)(aux=False)
    state = model.state_dict()
    assert (sum(parameter.numel() for parameter in model.parameters()), len(state)) == PUBLISHED[name]
    expected = BACKBONE | HEADS[name.partition("_")[0]]
    assert {key: tuple(state[key].shape) for key in expected} == expected
    assert set(bare.state_dict()) == {key for key in state if not key.startswith("aux_classifier.")}


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.endswith("50")])
def test_stages_keep_an_eighth_of_the_resolution_by_dilation(name):
    with torch.device("meta"):
        model = getattr(models, name)(num_classes=7).eval()
        x = torch.empty(2, 3, 65, 97)
        third, last = model.backbone(x)
        outputs = model(x)
        traced = fx.symbolic_trace(model)(x)
    assert third.shape == (2, 1024, 9, 13) and last.shape == (2, 2048, 9, 13)
    assert list(outputs) == list(traced) == ["out", "aux"]
    assert all(value.shape == (2, 7, 65, 97) for value in (*outputs.values(), *traced.values()))
    spread = [[block.conv2.dilation[0] for block in stage] for stage in (model.backbone.layer3, model.backbone.layer4)]
    assert spread == [[1, *[2] * (len(spread[0]) - 1)], [2, 4, 4]]
    if name.startswith("deeplabv3"):
        assert [branch[0].dilation[0] for branch in list(model.classifier[0].convs)[1:4]] == [12, 24, 36]


def test_dropout_is_where_the_published_networks_have_it():
    with torch.device("meta"):
        model = models.deeplabv3_resnet50()
    drops = {key: module.p for key, module in model.named_modules() if isinstance(module, nn.Dropout)}
    assert drops == {"classifier.0.project.3": 0.5, "aux_classifier.3": 0.1}


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_train(name):
    torch.manual_seed(0)
    model = getattr(models, name)(num_classes=5, aux=True, activation=lambda: QCFS(4, 2.0))
    sum(value.square().mean() for value in model(images()).values()).backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    assert all(gradient.any() for key, gradient in gradients.items() if key.endswith(("weight", "threshold")))


def test_image_level_branch_is_the_mean_everywhere():
    branch = models.deeplabv3_small().classifier[0].convs[4].eval()
    x = images(2, 5, 7)[:, :1].expand(2, 64, 5, 7)
    out = branch(x)
    assert out.shape == (2, 48, 5, 7) and torch.allclose(out, out[:, :, :1, :1].expand_as(out), atol=1e-6)
    assert torch.allclose(out[:, :, 0, 0], branch(x.mean((2, 3), keepdim=True))[:, :, 0, 0], atol=1e-6)


@pytest.mark.parametrize("timesteps", [4, 12])
@pytest.mark.parametrize("aux", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_conversion_is_bit_equal_to_the_qcfs_network(name, aux, timesteps):
    net = randomise(getattr(models, name)(aux=aux, activation=lambda: QCFS(4)))
    x = images()
    snn = pcsnn.convert(net, timesteps)
    with torch.no_grad(), pcsnn.record(snn) as recorded:
        expected, found = net(x), snn(x)
    assert type(found) is dict and list(found) == (["out", "aux"] if aux else ["out"])
    assert all(found[key].shape == (2, 11, 21, 26) and torch.equal(found[key], expected[key]) for key in expected)
    kinds = {row.name: row.kind for row in snn.report.rows}
    assert "analog" not in kinds.values() and kinds["backbone.layer4.1.relu2"] == "spiking"
    if name == "deeplabv3_small":
        assert kinds["cat"] == kinds["classifier.0.convs.4.0"] == kinds["interpolate"] == "exact"
        assert sum(kind == "spiking" for kind in kinds.values()) == 17 + 7 + aux
    assert all(counts.unique().numel() > 2 for counts in recorded.counts.values())


def test_all_forms_of_one_network_agree(tmp_path):
    snn = pcsnn.convert(randomise(models.deeplabv3_small(aux=True, activation=lambda: QCFS(4))), 4)
    x = images()
    expected = snn(x)
    pcsnn.save(snn, tmp_path / "net.safetensors")
    same = {"loaded": pcsnn.load(tmp_path / "net.safetensors")(x), "fused": pcsnn.optimize(snn)(x)}
    for what, found in same.items():
        assert all(torch.allclose(found[key], expected[key], rtol=1e-5, atol=1e-5) for key in expected), what
    stepwise = pcsnn.baselines.packed(snn)(x)
    serial = pcsnn.baselines.serial(snn)(x)
    for key, value in expected.items():
        assert ((stepwise[key] - value).norm() / value.norm()) < 1e-3
        assert serial[key].shape == value.shape and 1e-3 < (serial[key] - value).norm() / value.norm() < 1


def dense(activation=nn.ReLU):
    """A tiny network with two outputs behind interpolations, at a size that it takes from its input."""

    def forward(s, x):
        h = s.second(s.first(x))
        big = F.interpolate(
            s.third(torch.cat([h, F.interpolate(s.mean(h), size=h.shape[-2:])], 1)), size=x.shape[2:], mode="bilinear"
        )
        return {"out": big, "aux": s.up(s.aux(h))}

    return randomise(
        network(
            forward,
            first=nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), activation()),
            aux=nn.Conv2d(8, 5, 1),
            second=nn.Sequential(nn.Conv2d(8, 8, 3, padding=2, dilation=2), activation()),
            up=nn.Upsample(scale_factor=2),
            mean=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), activation()),
            third=nn.Conv2d(12, 5, 3, padding=1, bias=False),
        )
    )


def relative_error(found, expected):
    return max(((found[key] - expected[key]).norm() / expected[key].norm()).item() for key in expected)


@pytest.mark.parametrize("method", ["quick", "light", "advanced"])
def test_calibration_lowers_the_error_of_recorded_maxima_on_dict_outputs(method):
    net, data, test = dense(), images(32, 16, 20).split(16), images(32, 16, 20, seed=2)
    with torch.no_grad():
        expected = net(test)
    with few_steps(20):
        plain, calibrated = (
            relative_error(pcsnn.convert(net, 4, calibration=data, method=each)(test), expected)
            for each in ("max", method)
        )
    assert calibrated < 0.8 * plain


def test_gradient_steps_take_fewer_inputs_where_each_has_many_outputs(monkeypatch):
    light = LIGHT.with_options(steps=2)
    taken, shuffled = [], refine.shuffled
    monkeypatch.setattr(
        refine, "shuffled", lambda groups, size, generator: taken.append(size) or shuffled(groups, size, generator)
    )
    pcsnn.convert(dense(), 4, calibration=images(16, 16, 20), method=light)
    flat = randomise(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    )
    pcsnn.convert(flat, 4, calibration=images(16, 16, 20), method=light)
    assert taken == [light.options.dense_batch, light.options.batch] == [8, 64]


def test_the_papers_method_corrects_means_on_dict_outputs():
    net, data = dense(), images(32, 16, 20)
    with torch.no_grad():
        expected = net(data)["out"]
        plain, paper = (
            pcsnn.convert(net, 3, calibration=[data] * 100, method=method)(data)["out"] - expected
            for method in ("max", "paper")
        )
    assert paper.mean((0, 2, 3)).norm() < 0.8 * plain.mean((0, 2, 3)).norm()


def test_mean_of_every_output_is_corrected_behind_interpolations():
    net, data = dense(), images(32, 16, 20)
    with torch.no_grad():
        expected, found = net(data), pcsnn.convert(net, 2, calibration=data, method="quick")(data)
    for key in expected:
        assert torch.allclose(found[key].mean((0, 2, 3)), expected[key].mean((0, 2, 3)), atol=1e-4), key


def test_one_synapse_behind_two_outputs_is_corrected_once():
    def forward(s, x):
        h = s.last(s.act(s.first(x)))
        return {"small": h, "large": F.interpolate(h, scale_factor=2)}

    net = randomise(network(forward, first=nn.Conv2d(3, 8, 3), act=nn.ReLU(), last=nn.Conv2d(8, 5, 1)))
    data = images(32, 9, 9)
    with torch.no_grad():
        expected, found = net(data), pcsnn.convert(net, 2, calibration=data, method="quick")(data)
    assert torch.allclose(found["small"].mean((0, 2, 3)), expected["small"].mean((0, 2, 3)), atol=1e-4)


def test_analyses_read_dict_outputs_and_leave_void_out():
    net, x = dense(), images(12, 16, 20)
    with torch.no_grad():
        labels = net(x)["out"].argmax(1)
    labels[:, :, :3] = 255
    result = sweep(net, [(x, labels)], [8], "max", ignore=255)
    assert result.float_accuracy == 1
    choice = pcsnn.convert(net, 8, calibration=x, method="max")(x)["out"].argmax(1)
    known = labels != 255
    assert result.rows[0].accuracy == (choice == labels)[known].double().mean().item() < 1
    assert result.rows[0].fidelity == pytest.approx((choice == net(x)["out"].argmax(1)).double().mean().item())
    assert sweep(net, [(x, labels)], [8], "max").float_accuracy == pytest.approx(17 / 20)
    with pytest.raises(ValueError, match="ignore: every label of data is 255"):
        sweep(net, [(x, torch.full_like(labels, 255))], [8], "max", ignore=255)
    with pytest.raises(TypeError, match="ignore: expected an integer, got str"):
        sweep(net, [(x, labels)], [8], "max", ignore="void")
    rows = layer_errors(net, pcsnn.convert(net, 8, calibration=x, method="max"), x).rows
    assert [row.name for row in rows] == ["first.1", "second.1", "mean.2"] and all(row.rate > 0 for row in rows)


def test_metrics_by_hand():
    labels = torch.tensor([[[0, 0, 0, 1], [1, 1, 2, 9]]], dtype=torch.uint8)  # of three classes; 9 is void
    predicted = torch.tensor([[[0, 0, 1, 1], [1, 0, 1, 2]]], dtype=torch.uint8)
    confusion = Confusion(4)  # the fourth occurs nowhere
    confusion.add(predicted, labels)
    assert confusion.counts.tolist() == [[2, 1, 0, 0], [1, 2, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert confusion.pixel_accuracy == pytest.approx(4 / 7)
    shares = confusion.intersections_over_unions
    assert shares[:3].tolist() == pytest.approx([2 / 4, 2 / 5, 0]) and shares[3].isnan()
    assert confusion.miou == pytest.approx((2 / 4 + 2 / 5 + 0) / 3)
    confusion.add(predicted, labels)
    assert confusion.counts.sum() == 14 and confusion.pixel_accuracy == pytest.approx(4 / 7)


def test_augmentation_moves_images_and_labels_alike():
    labels = (
        torch.randint(0, 3, (6, 6, 8), generator=torch.Generator().manual_seed(0))
        .repeat_interleave(8, 1)
        .repeat_interleave(8, 2)
        .byte()
    )
    pictures = (labels.float().unsqueeze(1) + 1).expand(6, 3, 48, 64)
    x, classes = segmentation_train.augment(pictures, labels, (32, 40), torch.Generator().manual_seed(0))
    assert x.shape == (6, 3, 32, 40) and classes.shape == (6, 32, 40) and classes.dtype == torch.int64
    for image, truth in zip(x[:, 0], classes):
        values = [image[truth == kind].median().item() for kind in range(3) if (truth == kind).sum() > 30]
        assert values == sorted(values) and len(values) > 1
        gain = numpy.diff(values)
        assert 0.75 < gain.min() and gain.max() < 1.25


def test_augmentation_beyond_the_border_is_void(monkeypatch):
    monkeypatch.setattr(segmentation_train, "SCALES", (0.5, 0.5))
    _x, classes = segmentation_train.augment(
        torch.ones(1, 3, 16, 16),
        torch.full((1, 16, 16), 4, dtype=torch.uint8),
        (16, 16),
        torch.Generator().manual_seed(0),
    )
    assert (classes[0, 4:12, 4:12] == 4).all() and (classes == camvid.VOID).sum() == 192


def tiny_camvid(folder):
    """Six training and three test scenes of sky, road and void whose colours tell them apart."""
    from PIL import Image

    for split, count in (("train", 6), ("val", 3)):
        (folder / split).mkdir(parents=True)
        labels = numpy.zeros((count, 24, 32), numpy.uint8)
        for i in range(count):
            labels[i, 10 + i :] = 3
            labels[i, :, :2] = camvid.VOID
            Image.fromarray(numpy.array(camvid.COLOURS, numpy.uint8)[labels[i]]).save(folder / split / f"scene{i}.jpg")
        numpy.savez(folder / f"{split}-labels.npz", names=[f"scene{i}" for i in range(count)], labels=labels)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The options of a benchmark whose networks were trained for a moment, one of them in two parts."""
    folder = tmp_path_factory.mktemp("camvid")
    options = [
        "--data",
        str(tiny_camvid(folder / "data")),
        "--weights",
        str(folder / "weights"),
        "--epochs",
        "3",
        "--crop",
        "16",
        "24",
        "--threads",
        "1",
        "--seed",
        "1",
    ]
    return options, folder / "weights"


class Killed(Exception):
    pass


def test_a_training_that_was_killed_ends_at_the_same_weights(trained, tmp_path, monkeypatch, capsys):
    options, folder = trained
    segmentation.main([*options, "--train"])
    assert "mIoU" in capsys.readouterr().out
    whole = segmentation_train.load(folder / "fcn_small.safetensors")
    assert whole[1]["epochs"] == 3 and 0 <= whole[1]["miou"] <= 1 and not list(folder.glob("*.pt"))

    other = [*options, "--models", "fcn_small", "--train", "--weights", str(tmp_path)]
    build, epochs = segmentation_train._batches, []

    def stop_in_the_third(images, labels, settings, epoch):
        epochs.append(epoch)
        if len(epochs) == 3:
            raise Killed
        return build(images, labels, settings, epoch)

    monkeypatch.setattr(segmentation_train, "_batches", stop_in_the_third)
    with pytest.raises(Killed):
        segmentation.main(other)
    with pytest.raises(SystemExit, match="delete it to start anew"):
        segmentation.main([*other, "--seed", "2"])
    segmentation.main(other)
    assert epochs == [0, 1, 2, 2]
    again = segmentation_train.load(tmp_path / "fcn_small.safetensors")
    assert all(torch.equal(value, again[0].state_dict()[key]) for key, value in whole[0].state_dict().items())
    assert again[1] == whole[1]


def test_the_benchmark_measures_once_and_draws(trained, tmp_path, capsys, monkeypatch):
    options, _ = trained
    options = [
        *options,
        "--methods",
        "max",
        "light",
        "--timesteps",
        "4",
        "8",
        "--repeats",
        "2",
        "--slow-repeats",
        "1",
        "--timed-batch",
        "1",
        "--json",
        str(tmp_path / "rows.json"),
        "--models",
        "deeplabv3_small",
    ]
    with few_steps(2):
        segmentation.main(options)
    shown = capsys.readouterr().out
    result = json.loads((tmp_path / "rows.json").read_text())
    rows = {(row["method"], row["timesteps"]): row for row in result["rows"]}
    assert set(rows) == {("float", None), *((kind, steps) for kind in ("max", "light", "time") for steps in (4, 8))}
    source, light = rows["float", None], rows["light", 8]
    assert light["lost_miou"] == source["miou"] - light["miou"] and light["seconds"] > 0 and source["images"] == 3
    assert (
        rows["time", 8]["serial"] > 0 and rows["time", 8]["speedup"] > 0 and "first layer" in rows["time", 8]["checked"]
    )
    assert all(words in shown for words in ("mIoU lost, points", "Serial IF / pcsnn", "T = 8: serial IF: same class"))

    monkeypatch.setattr(pcsnn, "convert", lambda *arguments, **named: pytest.fail("converted again"))
    monkeypatch.setattr(segmentation, "SHOWN", (4, 8))
    segmentation.main([*options, "--plot", str(tmp_path / "scenes.png")])
    assert json.loads((tmp_path / "rows.json").read_text())["rows"] == result["rows"]
    assert (tmp_path / "scenes.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit, match="delete it or name another file"):
        segmentation.main([*options, "--images", "2"])
    other = json.loads((tmp_path / "rows.json").read_text())
    next(row for row in other["rows"] if row["method"] == "float")["miou"] += 0.01
    (tmp_path / "rows.json").write_text(json.dumps(other))
    with pytest.raises(SystemExit, match="rows of another training of deeplabv3_small"):
        segmentation.main(options)


def test_a_wrong_result_is_not_timed(trained, monkeypatch):
    options, _ = trained
    forward = pcsnn.baselines.SerialNetwork.forward
    monkeypatch.setattr(
        pcsnn.baselines.SerialNetwork, "forward", lambda self, *inputs: forward(self, *(value + 1 for value in inputs))
    )
    with pytest.raises(SystemExit, match="counts wrong in the first layer"):
        segmentation.main([*options, "--methods", "max", "--timesteps", "4", "--models", "fcn_small"])


def test_missing_data_says_where_it_is(tmp_path):
    with pytest.raises(
        SystemExit, match="(?s)CamVid: no .*train-labels.npz.*mi.eng.cam.ac.uk.*camvid.py SEGNET_FOLDER"
    ):
        segmentation.main(["--data", str(tmp_path), "--weights", str(tmp_path / "weights")])


def test_camvid_is_prepared_from_segnets_edition(tmp_path):
    from PIL import Image

    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / f"{split}annot").mkdir()
        for i in range(2):
            Image.new("RGB", (480, 360), (200, 10, 20)).save(tmp_path / split / f"{i}.png")
            truth = numpy.full((360, 480), i, numpy.uint8)
            truth[:180] = 11
            Image.fromarray(truth).save(tmp_path / f"{split}annot" / f"{i}.png")
    camvid.main([str(tmp_path), str(tmp_path / "small")])
    pictures, labels = camvid.load("val", tmp_path / "small")
    assert (
        pictures.shape == (2, 3, 180, 240)
        and (pictures[0, :, 50, 50].int() - torch.tensor([200, 10, 20])).abs().max() < 8
    )
    assert (labels[:, :90] == camvid.VOID).all() and labels[:, 90:].float().mean((1, 2)).tolist() == [0, 1]
    (tmp_path / "small" / "val" / "1.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"no .*1.jpg"):
        camvid.load("val", tmp_path / "small")
