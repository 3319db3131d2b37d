"""The command line: convert, info, errors and exit codes."""

import json
import os
import pathlib
import subprocess
import sys

import numpy
import pytest
import safetensors.torch
import torch
from cli_cases import NET, folder, inside, net, photos, run  # noqa: F401 (fixtures)
from folders import ROOT
from PIL import Image
from tiny_networks import one_thread  # noqa: F401

import pcsnn
from pcsnn.cli import images, main
from pcsnn.cli.convert import relative_report
from pcsnn.network.report import Report, Row


def test_convert_writes_the_network(tmp_path, capsys):
    assert run("convert", "cli_nets:make", "--timesteps", 8, "--output", tmp_path / "snn.safetensors") == 0
    printed = capsys.readouterr().out
    assert "QCFS L = 4: lossless" in printed and "method none, T = 8" in printed and f"wrote {tmp_path}" in printed
    x = photos()[0]
    assert torch.equal(pcsnn.load(tmp_path / "snn.safetensors")(x), net()(x))


def test_sources_are_shown_as_seen_from_here(folder):
    rows = [Row("a", "exact", "", f"{folder}/cli_nets.py:3"), Row("b", "exact", "", "/else/where.py:3")]
    given = Report("none", 4, rows)
    shown = relative_report(given)
    assert [row.location for row in shown.rows] == ["cli_nets.py:3", "/else/where.py:3"] and shown.timesteps == 4
    assert given.rows[0].location.startswith(str(folder))


def test_convert_calibrates_on_a_folder(tmp_path):
    options = (
        "--model-args",
        '{"activation": "relu", "seed": 3}',
        "--mean",
        0.5,
        0.4,
        0.3,
        "--std",
        0.2,
        "--images",
        7,
    )
    assert run("convert", *NET, *options, "--data", "photos", "--timesteps", 4, "--output", tmp_path / "snn") == 0
    x = (photos()[0] - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / 0.2
    expected = pcsnn.convert(net(activation="relu", seed=3), 4, calibration=x[:7], method="max")
    assert torch.equal(pcsnn.load(tmp_path / "snn")(x), expected(x))


def test_convert_optimises(tmp_path, capsys):
    options = ("--data", "photos", "--timesteps", 4, "--optimize", "int8")
    assert run("convert", *NET, *options, "--output", tmp_path / "snn") == 0
    assert "int8 weights" in capsys.readouterr().out
    x = photos()[0]
    plain = pcsnn.convert(net(), 4, calibration=x, method="max")
    expected = pcsnn.optimize(plain, "int8", example_inputs=x[:1])
    assert torch.equal(pcsnn.load(tmp_path / "snn")(x), expected(x))


def test_weights_and_levels_of_a_shipped_network(tmp_path, capsys):
    source = pcsnn.models.vgg_small(activation=lambda: pcsnn.nn.QCFS(4, 3.0)).eval()
    safetensors.torch.save_file(source.state_dict(), "qcfs.safetensors", {"levels": "4"})
    options = ("convert", "vgg_small", "--weights", "qcfs.safetensors", "--timesteps", 4)
    assert run(*options, "--levels", 4, "--output", tmp_path / "snn") == 0
    assert "note" not in capsys.readouterr().err
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(pcsnn.load(tmp_path / "snn")(x), source.to(memory_format=torch.channels_last)(x))
    for levels, words in (
        (("--levels", 8), "qcfs.safetensors says it was trained with 4, got 8"),
        ((), "--levels L gives the network such"),
    ):
        assert run(*options, *levels) == 1
        assert words in capsys.readouterr().err
    relu = {key: value.contiguous() for key, value in source.state_dict().items() if not key.endswith("threshold")}
    safetensors.torch.save_file(relu, "relu.safetensors")
    assert run("convert", "vgg_small", "--weights", "relu.safetensors", "--levels", 4, "--timesteps", 4) == 1
    assert "leave --levels out" in capsys.readouterr().err


def test_random_weights_are_told_and_repeat(tmp_path, capsys):
    for name in "ab":
        assert run("convert", "vgg_small", "--levels", 4, "--timesteps", 4, "--output", tmp_path / name) == 0
    assert "note: no --weights, so vgg_small has random ones" in capsys.readouterr().err
    x = torch.randn(1, 1, 28, 28)
    assert torch.equal(pcsnn.load(tmp_path / "a")(x), pcsnn.load(tmp_path / "b")(x))


def test_one_logit_and_regressions(tmp_path, capsys):
    generator = numpy.random.default_rng(0)
    arrays = {"images": generator.random((6, 3, 8, 8), dtype=numpy.float32)}
    options = ("--timesteps", 4, "--skip", "time", "operations", "--quiet")
    for name, labels in (
        ("none", None),
        ("binary", [0, 1, 1, 0, 1, 0]),
        ("many", [0, 1, 2, 0, 1, 0]),
        ("floats", generator.random(6)),
    ):
        numpy.savez(tmp_path / f"{name}.npz", **arrays, **({} if labels is None else {"labels": numpy.array(labels)}))
    for head in ("one_logit", "flat"):
        for name, code, words in (
            ("none", 0, " -  "),
            ("binary", 0, "float accuracy"),
            ("many", 1, "--data: expected labels 0..1 for cli_heads"),
            ("floats", 1, "--data: expected labels in whole numbers, one for each of 6 images"),
        ):
            data, output = tmp_path / f"{name}.npz", tmp_path / f"{head} {name}"
            assert run("sweep", f"cli_heads:{head}", "--data", data, *options, "--output", output) == code
            told = capsys.readouterr()
            assert words in told.err + told.out and output.exists() == (not code)
    assert run("sweep", "cli_heads:scalar", "--data", tmp_path / "none.npz", *options, "--output", tmp_path / "o") == 1
    assert (
        "MODEL: cli_heads:scalar: expected outputs [N, classes, ...] or, of one logit, [N]" in capsys.readouterr().err
    )
    assert run("convert", "cli_heads:scalar", "--data", tmp_path / "many.npz", "--timesteps", 3, "--method", "max") == 0


# images


def test_a_folder_of_classes():
    source = images.open_images(pathlib.Path("photos"), "--data", 3)
    data = images.Prepared(source, images.Preparation(resize=(8, 8)), None, 0)
    assert data.order != sorted(data.order)
    x, labels = photos()
    for position, (image, label) in enumerate(data[place] for place in range(12)):
        assert torch.equal(image, x[position]) and label == labels[position]


def test_a_flat_folder_in_grey_has_no_labels():
    source = images.open_images(pathlib.Path("photos/pear"), "--data", 1)
    image = images.Prepared(source, images.Preparation(), 2, 0)[0]
    assert source.labels is None and image.shape == (1, 10, 12)
    first = images.open_images(pathlib.Path("photos/pear"), "--data", 1).image(0)
    assert torch.equal(first[0], torch.from_numpy(numpy.array(Image.open("photos/pear/0.png").convert("L"))))


@pytest.mark.parametrize(
    "resize, crop, shape", [(5, None, (5, 6)), (None, 4, (4, 4)), (20, (3, 7), (3, 7)), ((6, 3), None, (6, 3))]
)
def test_sizes(resize, crop, shape):
    image = torch.arange(360, dtype=torch.float32).view(3, 10, 12)
    assert images.Preparation(resize, crop)(image, "it").shape == (3, *shape)


def test_the_middle_is_cut_out():
    image = torch.arange(120).view(1, 10, 12).to(torch.uint8)
    assert torch.equal(images.Preparation(crop=(4, 2))(image, "it"), image[:, 3:7, 5:7] / 255)


@pytest.mark.parametrize("shape", [(9, 3, 8, 6), (9, 8, 6, 3), (9, 8, 6)])
@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_arrays(tmp_path, shape, ending):
    values, path = torch.randint(0, 256, shape, dtype=torch.uint8), tmp_path / f"it.{ending}"
    if ending == "npz":
        numpy.savez(path, images=values.numpy())
    else:
        safetensors.torch.save_file({"images": values}, path)
    image = images.open_images(path, "--data", 3).image(5)
    assert image.shape == (3 if len(shape) == 4 else 1, 8, 6)
    expected = values[5] if shape[1] == 3 else values[5].permute(2, 0, 1) if len(shape) == 4 else values[5][None]
    assert torch.equal(image, expected)


def test_no_pillow(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert run("convert", *NET, "--data", "photos", "--timesteps", 4) == 1
    assert "--data: reading image files needs Pillow" in capsys.readouterr().err


# info, errors, exit codes


def test_info(capsys, monkeypatch):
    assert run("info") == 0
    words = capsys.readouterr().out
    backends = pcsnn.backend_info()
    assert all(part in words for part in (pcsnn.__version__, backends["c++"], backends["torch"], "processor"))
    monkeypatch.setattr("pcsnn.operators.dispatch._no_extension", "the C++ extension was not built")
    assert run("info", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["backends"]["c++"] == "the C++ extension was not built" and found["packages"]["pillow"]


@pytest.mark.parametrize(
    "command, code, words",
    [
        (
            "convert vgg_smal --timesteps 4",
            2,
            "MODEL: expected module:function, or one of pcsnn.models such as vgg_small, got 'vgg_smal'",
        ),
        ("convert cli_nets: --timesteps 4", 2, "MODEL: expected module:function, got 'cli_nets:'"),
        ("convert cli_nets:missing --timesteps 4", 2, "MODEL: cli_nets has no missing"),
        ("convert cli_nets:instance --timesteps 4", 2, "MODEL: expected a function or class, got cli_nets:instance"),
        (
            "convert cli_nets:number --timesteps 4",
            1,
            "MODEL: expected cli_nets:number to return a torch.nn.Module, got int",
        ),
        ("convert cli_nets:broken --timesteps 4", 1, "MODEL: cli_nets:broken raised KeyError: 'no such thing'"),
        ("convert no_such_module:f --timesteps 4", 1, "MODEL: cannot import no_such_module: ModuleNotFoundError"),
        ("convert cli_nets:make --timesteps 0", 2, "--timesteps: expected a whole number in 1..255, got '0'"),
        ("convert cli_nets:make --timesteps 4 --levels 4", 2, "--levels: is for networks of pcsnn.models"),
        ("convert cli_nets:make --timesteps 4 --model-args [1]", 2, "--model-args: expected a JSON object"),
        (
            'convert cli_nets:make --timesteps 4 --model-args {"x":1}',
            2,
            "--model-args: cli_nets:make got an unexpected keyword argument 'x'",
        ),
        ("convert cli_nets:make --timesteps 4 --weights none", 1, "--weights: no file none"),
        (
            "convert cli_nets:make --timesteps 4 --weights cli_nets.py",
            1,
            "--weights: cli_nets.py is not a safetensors file",
        ),
        ("convert cli_nets:make --timesteps 5", 1, "--data: expected data for method 'light', got None"),
        ("convert cli_nets:analog --timesteps 4", 1, "MODEL: 1 operation cannot spike"),
        ("convert cli_nets:analog --timesteps 4", 1, "--no-strict keeps them analog"),
        (
            "convert cli_nets:make --timesteps 4 --output missing/file",
            2,
            "--output: expected a file in a folder that exists, got missing/file",
        ),
        ("convert cli_nets:make --timesteps 4 --output photos", 2, "--output: expected a file, got the folder photos"),
        (
            "convert cli_nets:make --timesteps 4 --device nowhere",
            2,
            "--device: expected a device like cpu or cuda:0 that is there, got 'nowhere'",
        ),
        ("convert cli_nets:make --timesteps 4 --data none", 1, "--data: no file or folder none"),
        (
            "convert cli_nets:make --timesteps 4 --data cli_nets.py",
            2,
            "--data: expected a folder, or a .npz or .safetensors file",
        ),
        (
            "convert cli_nets:make --timesteps 4 --data photos",
            1,
            "--data: a batch (12, 3, 10, 12) does not run through cli_nets:make",
        ),
        (
            "convert cli_nets:make --timesteps 4 --data photos --resize 1x",
            2,
            "--resize: expected pixels, as 224 or 200x300",
        ),
        (
            "convert cli_nets:make --timesteps 4 --data photos --crop 11",
            1,
            "--crop: expected at most the size of the images, got 11x11",
        ),
        (
            "convert cli_nets:make --timesteps 4 --data photos --mean 1 2",
            1,
            "--mean: expected one value, or one for each of 3 channels, got 2",
        ),
        ("convert cli_nets:make --timesteps 4 --data photos --std 0", 2, "--std: expected values above 0"),
        (
            "convert vgg_small --timesteps 4 --data photos",
            1,
            "--data: a batch (12, 3, 10, 12) does not run through vgg_small",
        ),
        ("convert cli_nets:make --timesteps 4 --data mixed", 1, "--data: expected images of one size"),
        ("convert cli_nets:make --timesteps 4 --data bad", 1, "--data: cannot read bad"),
        ("convert cli_nets:make --timesteps 4 --data empty", 1, "--data: no image in empty"),
        (
            "sweep cli_nets:make --data four --resize 8x8 --output x",
            1,
            "--data: expected labels 0..2 for cli_nets:make",
        ),
        (
            "sweep cli_nets:make --data photos --resize 8x8 --calibration bad --output x",
            1,
            "--calibration: cannot read bad",
        ),
        ("sweep cli_nets:make --data photos", 2, "required: --output"),
        ("sweep", 2, "required: MODEL"),
        ("", 2, "required: COMMAND"),
    ],
)
def test_errors(folder, capsys, command, code, words):
    for kind in ("mixed", "bad", "empty", "four"):
        (folder / kind).mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save("mixed/a.png")
    Image.new("RGB", (8, 9)).save("mixed/b.png")
    (folder / "bad" / "a.png").write_bytes(b"no picture")
    for number in range(4):
        (folder / "four" / str(number)).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(f"four/{number}/a.png")
    assert run(*command.split()) == code
    told = capsys.readouterr()
    assert words in told.err and "Traceback" not in told.err and not told.out
    assert not (folder / "x").exists()


def test_debug_shows_where():
    with pytest.raises(FileNotFoundError):
        main(["convert", "cli_nets:make", "--timesteps", "4", "--weights", "none", "--debug"])


def process(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "pcsnn", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def test_processes():
    shown = process("convert", "--help")
    assert shown.returncode == 0 and "examples:" in shown.stdout and "--timesteps T" in shown.stdout
    failed = process("convert", "cli_nets:make", "--timesteps", "4", "--weights", "none")
    assert failed.returncode == 1 and failed.stderr == "pcsnn convert: error: --weights: no file none\n"


@pytest.mark.parametrize("command", ["convert", "sweep", "report", "info"])
def test_every_command_has_examples(capsys, command):
    assert run(command, "--help") == 0
    assert f"examples:\n  pcsnn {command}" in capsys.readouterr().out


def test_every_package_is_installed():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    there = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "pcsnn").rglob("__init__.py")}
    assert there <= set(project["tool"]["setuptools"]["packages"])
    assert project["project"]["scripts"]["pcsnn"] == "pcsnn.cli:main"
