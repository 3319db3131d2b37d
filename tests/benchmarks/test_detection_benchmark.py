"""MTCNN's networks, its cascade and the benchmark's measures."""

import importlib.util
import json
import pathlib
import sys
import types

import detection
import pytest
import torch
from lib import faces, mtcnn
from lib.face_boxes import Detector, Faces, best, overlaps
from lib.packages import Missing
from tiny_networks import one_thread, randomise  # noqa: F401

import pcsnn
from pcsnn import baselines

SIDES = {"pnet": 30, "rnet": 24, "onet": 48}


def stage(name):
    """A network with random weights and slopes of either sign."""
    network = randomise(getattr(mtcnn, name)())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.PReLU):
                module.weight.copy_(2 * torch.rand(module.weight.shape, generator=generator) - 1)
    inputs = torch.randn(6, 3, SIDES[name], SIDES[name], generator=generator)
    return network, inputs


@pytest.mark.parametrize("name", SIDES)
def test_a_stage_is_converted_whole(name):
    network, inputs = (part.double() for part in stage(name))
    snn = pcsnn.convert(network, 20, calibration=inputs, method="max", signed=True, progress=False)
    assert {row.kind for row in snn.report.rows} == {"spiking", "synapse", "exact"}
    for found, expected in zip(baselines.packed(snn)(inputs), snn(inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_boxes_that_overlap_a_better_one_go():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20], [5, 0, 15, 10], [0, 0, 10, 9]])
    torch.testing.assert_close(overlaps(boxes[:1], boxes), torch.tensor([[1.0, 0.5, 1 / 3, 0.9]]))
    assert overlaps(boxes[:1], boxes, of_smaller=True).tolist() == [[1, 1, 0.5, 1]]
    assert overlaps(boxes[:1], boxes[2:3], border=1).item() == pytest.approx(66 / 176)
    scores = torch.tensor([0.6, 0.9, 0.8, 0.7])
    assert best(boxes, scores, 0.7).tolist() == [1, 2, 3]
    assert best(boxes, scores, 0.3).tolist() == [1, 2]
    assert best(boxes[:0], scores[:0], 0.3).tolist() == []


def test_nobody_is_found_by_a_network_that_says_so():
    networks = [network.eval() for network in (mtcnn.pnet(), mtcnn.rnet(), mtcnn.onet())]
    picture = torch.randint(0, 256, (40, 60, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert len(Detector(networks, thresholds=(1.1, 1.1, 1.1))(picture)) == 0
    found = Detector(networks, thresholds=(0, 1.1, 1.1))(picture)
    assert found.boxes.shape == (0, 4) and found.landmarks.shape == (0, 5, 2)
    assert len(Detector(networks)(picture[:10, :10])) == 0  # smaller than the smallest face
    levels, middle, last = Detector(networks, thresholds=(0, 0, 1.1)).inputs([picture])
    assert [tuple(part.shape[2:]) for part in levels] == [(25, 37), (18, 26), (13, 19)]
    assert middle[0].shape[1:] == (3, 24, 24) and last[0].shape[1:] == (3, 48, 48)


def published_detector(monkeypatch):
    """facenet-pytorch's own detector; the two names of torchvision that it imports are made here."""
    folder = importlib.util.find_spec("facenet_pytorch").submodule_search_locations[0]

    def batched_nms(boxes, scores, images, most):
        return best(boxes, scores, most)  # of one image

    made = {name: types.ModuleType(name) for name in ("torchvision", "torchvision.transforms", "torchvision.ops.boxes")}
    made["torchvision.transforms"].functional = None
    made["torchvision.ops.boxes"].batched_nms = batched_nms
    made["torchvision.ops"] = types.ModuleType("torchvision.ops")
    for name in ("facenet_pytorch", "facenet_pytorch.models", "facenet_pytorch.models.utils"):
        made[name] = types.ModuleType(name)
        made[name].__path__ = [str(pathlib.Path(folder, *name.split(".")[1:]))]
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    source = importlib.import_module("facenet_pytorch.models.utils.detect_face")
    theirs = importlib.import_module("facenet_pytorch.models.mtcnn")
    networks = [make().eval() for make in (theirs.PNet, theirs.RNet, theirs.ONet)]
    return lambda picture: source.detect_face(picture, 20, *networks, (0.6, 0.7, 0.7), 0.709, torch.device("cpu"))


def test_boxes_are_those_of_the_published_detector(monkeypatch):
    if importlib.util.find_spec("facenet_pytorch") is None:
        pytest.skip("facenet-pytorch is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib, which ships the picture, is not installed")
    pytest.importorskip("PIL", reason="Pillow is not installed")
    networks = mtcnn.load()
    folder = importlib.util.find_spec("matplotlib").submodule_search_locations[0]
    picture = faces.picture(pathlib.Path(folder, "mpl-data", "sample_data", "grace_hopper.jpg"))
    found = Detector(networks)(picture)
    with torch.no_grad():
        boxes, points = published_detector(monkeypatch)(picture.numpy())
    expected = torch.tensor(boxes[0].tolist())
    assert len(found) == len(expected) == 1
    torch.testing.assert_close(found.boxes, expected[:, :4], rtol=0, atol=1e-3)
    torch.testing.assert_close(found.scores, expected[:, 4], rtol=0, atol=1e-4)
    torch.testing.assert_close(found.landmarks, torch.tensor(points[0].tolist()), rtol=0, atol=1e-3)


def some(*boxes):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Faces(boxes, torch.ones(len(boxes)), boxes[:, None, :2].repeat(1, 5, 1))


def test_how_faces_agree():
    wanted = {"a": some([0, 0, 10, 10], [20, 0, 30, 10]), "b": some([0, 0, 4, 4])}
    found = {"a": some([0, 0, 10, 8], [50, 0, 60, 10]), "b": some()}
    assert detection.row(found, wanted) == {
        "faces": 3,
        "found": 1,
        "others": 1,
        "overlap": pytest.approx(0.8),
        "overlap_of_all": pytest.approx(0.8 / 3),
        "landmarks": 0,
    }
    assert detection.row({"b": some()}, {"b": wanted["b"]})["landmarks"] is None
    text = "\n".join(
        detection.lines([{"method": "quick", "timesteps": 2, "spike_levels": 15, **detection.row(found, wanted)}])
    )
    assert "1 of 3" in text and "80.0 %" in text and "26.7 %" in text


def test_sheets_have_five_rows():
    portraits = torch.zeros(25, 25, 25)
    portraits[6] = 1  # second row, second column
    page = faces.sheet(portraits)
    assert page.shape == (420, 420, 3) and page.dtype == torch.uint8
    assert page[130, 130].min() >= 254 and page[50, 130].tolist() == [0] * 3 and page[5, 5].tolist() == [127] * 3


def test_what_is_missing_or_wrong_is_named(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Missing, match="facenet-pytorch is not installed"):
        mtcnn.load()
    with pytest.raises(SystemExit, match="facenet-pytorch is not installed .pip install --no-deps facenet-pytorch"):
        detection.main([])
    for arguments, words in (
        (["--timesteps", "64x15"], "invalid steps value: '64x15'"),
        (["--images", "nowhere.png"], "no file nowhere.png"),
    ):
        with pytest.raises(SystemExit):
            detection.main(arguments)
        assert words in capsys.readouterr().err


def test_the_command_from_end_to_end(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    torch.manual_seed(0)
    networks = tuple(getattr(mtcnn, name)().eval() for name in mtcnn.NETWORKS)  # small weights, which move boxes little
    picture = torch.randint(0, 256, (70, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(mtcnn, "load", lambda: networks)
    monkeypatch.setattr(faces, "test", lambda: {"one": picture, "two": picture[:60]})
    monkeypatch.setattr(faces, "calibration", lambda: [picture])
    monkeypatch.setattr(detection, "CROPS", 8)
    monkeypatch.setattr(detection, "CANDIDATES", (0, 0, 0))
    detection.main(
        [
            "--timesteps",
            "20",
            "4x10",
            "--methods",
            "max",
            "--json",
            str(tmp_path / "rows.json"),
            "--plot",
            str(tmp_path / "a.png"),
        ]
    )
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["timesteps"], row["spike_levels"]) for row in rows] == [(20, 1), (4, 10)]
    assert (tmp_path / "a.png").stat().st_size > 1000
