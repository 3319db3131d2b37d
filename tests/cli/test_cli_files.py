"""The files that options name: whatever is wrong with one ends in a line with the option's name; nothing is written."""

import io
import json
import os
import pathlib
import socket
import zipfile

import numpy
import pytest
import safetensors.torch
import torch
from cli_cases import NET, QUICK, folder, inside, lines, net, run, swept  # noqa: F401 (fixtures)
from tiny_networks import one_thread  # noqa: F401

from pcsnn.cli import files, images, machine, results

COMMANDS = {
    "--weights": ("convert", "cli_nets:make", "--timesteps", 4),
    "--data": ("sweep", *NET, "--timesteps", 2, *QUICK, "--skip", "time", "operations"),
    "--calibration": ("sweep", *NET, "--timesteps", 2, *QUICK, "--skip", "time", "operations", "--data", "photos"),
    "--sweep": ("report", *NET, "--timesteps", 2, *QUICK, "--data", "photos"),
}
ENDINGS = {
    "--weights": ["safetensors"],
    "--data": ["npz", "safetensors"],
    "--calibration": ["npz", "safetensors"],
    "--sweep": ["jsonl"],
}
CASES = [(option, ending) for option, endings in ENDINGS.items() for ending in endings]


def refused(capsys, tmp_path, option, path, words=""):
    """That a command refuses a file by the option's name, and writes nothing."""
    output = tmp_path / "output"
    assert run(*COMMANDS[option], option, path, "--output", output) in (1, 2)
    told = capsys.readouterr()
    assert f"error: {option}: " in told.err and "Traceback" not in told.err and not told.out, told.err
    assert words in told.err and not output.exists()
    return told.err


def content(option, ending, swept):
    """A whole file for an option."""
    stream, generator = io.BytesIO(), numpy.random.default_rng(0)
    arrays = {
        "images": generator.integers(0, 256, (9, 3, 8, 8), dtype=numpy.uint8),
        "labels": generator.integers(0, 3, 9),
    }
    if option == "--weights":
        return safetensors.torch.save({name: value.contiguous() for name, value in net().state_dict().items()})
    if option == "--sweep":
        return swept.read_bytes()
    if ending == "safetensors":
        return safetensors.torch.save({name: torch.from_numpy(value) for name, value in arrays.items()})
    numpy.savez(stream, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize("option, ending", CASES)
def test_what_is_no_file(tmp_path, capsys, option, ending):
    assert "no file" in refused(capsys, tmp_path, option, tmp_path / f"missing.{ending}")
    os.symlink("nowhere", tmp_path / f"link.{ending}")
    assert "no file" in refused(capsys, tmp_path, option, tmp_path / f"link.{ending}")
    os.symlink(f"loop.{ending}", tmp_path / f"loop.{ending}")
    refused(capsys, tmp_path, option, tmp_path / f"loop.{ending}")
    refused(capsys, tmp_path, option, tmp_path / f"{'long' * 100}.{ending}", "too long")
    os.mkfifo(tmp_path / f"pipe.{ending}")
    refused(capsys, tmp_path, option, tmp_path / f"pipe.{ending}", "it is a pipe, expected a file")
    refused(capsys, tmp_path, option, "/dev/zero", "it is a device, expected a file")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        refused(capsys, tmp_path, option, tmp_path / "s", "it is a socket, expected a file")
    (tmp_path / f"folder.{ending}").mkdir()
    words = "no image in" if option in ("--data", "--calibration") else "it is a folder, expected a file"
    refused(capsys, tmp_path, option, tmp_path / f"folder.{ending}", words)
    (tmp_path / f"empty.{ending}").touch()
    refused(capsys, tmp_path, option, tmp_path / f"empty.{ending}", "it is empty")


@pytest.mark.parametrize("option, ending", CASES)
def test_no_permission(tmp_path, capsys, monkeypatch, option, ending):
    path = tmp_path / f"mine.{ending}"
    path.write_bytes(b"secret")

    def closed(file, *arguments, **named):
        if file == path:
            raise PermissionError(13, "Permission denied", str(file))
        return open(file, *arguments, **named)

    monkeypatch.setattr(files, "open", closed, raising=False)  # the tests may run as root
    refused(capsys, tmp_path, option, path, f"cannot read {path}: Permission denied")


@pytest.mark.parametrize("option, ending", CASES)
def test_files_cut_and_damaged(tmp_path, capsys, swept, option, ending):
    whole, path = content(option, ending, swept), tmp_path / f"it.{ending}"
    generator = numpy.random.default_rng(1)
    for cut in (1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        if option != "--sweep" or b"\n" not in whole[:cut]:  # a last line that was cut is that of a run that was killed
            refused(capsys, tmp_path, option, path)
    path.write_bytes(generator.bytes(5000))
    refused(capsys, tmp_path, option, path)
    for _ in range(12):  # what still can be read may pass
        changed = bytearray(whole)
        for place in generator.integers(0, min(len(whole), 400), 3):
            changed[place] ^= int(generator.integers(1, 256))
        path.write_bytes(changed)
        code = run(*COMMANDS[option], option, path, "--output", tmp_path / "output")
        told = capsys.readouterr().err
        assert code in (0, 1, 2) and "Traceback" not in told, told
        assert not code or f"error: {option}: " in told or "MODEL" in told, told
        (tmp_path / "output").unlink(missing_ok=True)


def npz(path, name="images.npy", shape=(9, 3, 8, 8), data=b"", descr="|u1"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        numpy.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
        archive.writestr(name, header.getvalue() + data)
    return path


@pytest.mark.parametrize("option", ["--data", "--calibration"])
def test_arrays_that_lie(tmp_path, capsys, monkeypatch, option):
    path = tmp_path / "it.npz"
    refused(
        capsys, tmp_path, option, npz(path, shape=(10**6, 3, 1000, 1000), data=bytes(1000)), f"cannot read {path}: "
    )
    refused(capsys, tmp_path, option, npz(path, shape=(2**62, 2**62)), f"cannot read {path}: ")
    refused(capsys, tmp_path, option, npz(path, data=bytes(1000)), f"cannot read {path}: ")
    refused(capsys, tmp_path, option, npz(path, data=bytes(9 * 192 + 1)), "images has bytes behind its array")
    refused(capsys, tmp_path, option, npz(path, shape=(-1, 3, 8, 8), data=bytes(1000)), f"cannot read {path}: ")
    refused(
        capsys, tmp_path, option, npz(path, descr="|O", data=b"\x80\x04."), "cannot be loaded when allow_pickle=False"
    )
    refused(capsys, tmp_path, option, npz(path, name="pixels.npy"), "expected an array images")
    numpy.savez(path, images=numpy.zeros((4, 3, 8, 8), numpy.uint8), labels=numpy.zeros((), numpy.int64))
    refused(capsys, tmp_path, option, path, "expected labels in whole numbers, one for each of 4 images")
    monkeypatch.setattr(images, "available_memory", lambda: 1000)
    refused(
        capsys, tmp_path, option, npz(path, data=bytes(9 * 192)), "images takes 0.0 GiB, and 0.0 GiB of memory are free"
    )


def test_the_memory_that_is_there(monkeypatch):
    assert 2**20 < machine.available_memory() < 2**60
    monkeypatch.setattr(pathlib.Path, "read_text", lambda self: (_ for _ in ()).throw(OSError))
    assert machine.available_memory() == float("inf")


@pytest.mark.parametrize(
    "shape, dtype, words",
    [
        ((), numpy.uint8, "expected images [N, ...] with N > 0"),
        ((9,), numpy.uint8, "expected images [N, ...] with N > 0"),
        ((0, 3, 8, 8), numpy.uint8, "expected images [N, ...] with N > 0"),
        ((9, 5, 8, 8), numpy.uint8, "expected uint8 images"),
        ((9, 3, 8, 8), numpy.uint16, "expected images of dtype uint8 or floating point"),
        ((9, 3, 8, 8), numpy.complex64, "expected images of dtype uint8 or floating point"),
        ((9, 3, 8, 8), "U3", "cannot read"),
        ((9, 3, 8, 8), [("a", "u1")], "cannot read"),
        ((9, 2, 8, 8), numpy.float32, "does not run through cli_nets:make"),
    ],
)
def test_arrays_of_the_wrong_kind(tmp_path, capsys, shape, dtype, words):
    numpy.savez(tmp_path / "it.npz", images=numpy.zeros(shape, dtype))
    assert run("sweep", "cli_nets:make", "--data", tmp_path / "it.npz", "--output", tmp_path / "o") in (1, 2)
    assert words in (told := capsys.readouterr().err) and "error: --data: " in told


def test_arrays_do_not_follow_their_file(tmp_path):
    path = tmp_path / "it.safetensors"
    safetensors.torch.save_file({"images": torch.full((2, 3, 40, 40), 7, dtype=torch.uint8)}, path)
    source = images.open_images(path, "--data", 3)
    os.truncate(path, 100)
    assert (source.image(1) == 7).all()


# rows of results


@pytest.fixture
def rows(swept):
    return lines(swept)


def written(path, header, rows):
    path.write_text("".join(f"{json.dumps(line)}\n" for line in (header, *rows)))
    return path


def without(row, *names):
    """A row that lacks something."""
    row = json.loads(json.dumps(row))
    *above, name = names
    inner = row
    for part in above:
        inner = inner[part]
    del inner[name]
    return row


FIELDS = [
    ("fidelity",),
    ("method",),
    ("time",),
    ("time", "milliseconds", "serial"),
    ("time", "rounds"),
    ("operations", "energy", "float"),
    ("operations", "layers", 1, "counts", "serial", "bytes"),
    ("operations", "uncounted"),
    ("float_accuracy",),
]


@pytest.mark.parametrize("field", FIELDS, ids=str)
def test_rows_that_lack_something(tmp_path, capsys, rows, swept, field):
    header, first, second = rows
    path = written(tmp_path / "s.jsonl", header, (first, without(second, *field)))
    before = path.read_bytes()
    refused(
        capsys, tmp_path, "--sweep", path, f"has no complete results of T = 4: {'.'.join(map(str, field))} is missing"
    )
    assert run("sweep", *NET, "--data", "photos", "--timesteps", 2, 4, *QUICK, "--output", path) == 1
    told = capsys.readouterr().err
    assert "--output: " in told and f"{field[-1]} is missing" in told and path.read_bytes() == before


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("timesteps", "4", "line 3 is no result of pcsnn sweep: it has no timesteps"),
        ("timesteps", True, "it has no timesteps"),
        ("timesteps", 2, "lines 2 and 3 are both of T = 2"),
        ("timesteps", 10**30, "timesteps is '1000"),
        ("timesteps", 0, "not in 1..255"),
        ("fidelity", "high", "fidelity is 'high'"),
        ("fidelity", None, "fidelity is 'None'"),
        ("logit_error", 10**400, "logit_error is '1000"),
        ("accuracy", True, "accuracy is 'True'"),
        ("method", 3, "method is '3'"),
        ("time", [], "time is a list"),
        ("operations", {}, "operations.timesteps is missing"),
    ],
)
def test_rows_that_hold_something_else(tmp_path, capsys, rows, field, value, words):
    header, first, second = rows
    refused(capsys, tmp_path, "--sweep", written(tmp_path / "s.jsonl", header, (first, second | {field: value})), words)


@pytest.mark.parametrize("line", ["[1, 2]", "null", '"text"', "[" * 100000, "{}", "NaN", "\udcff"])
def test_lines_that_are_no_rows(tmp_path, capsys, rows, line):
    path = tmp_path / "s.jsonl"
    path.write_bytes(f"{json.dumps(rows[0])}\n{line}\n".encode("utf-8", "surrogateescape"))
    refused(capsys, tmp_path, "--sweep", path, "line 2 is no")
    path.write_bytes(f"{line}\n".encode("utf-8", "surrogateescape"))
    refused(capsys, tmp_path, "--sweep", path)
    path.write_text(json.dumps({"pcsnn_sweep": 1, "settings": 3}) + "\n")
    refused(capsys, tmp_path, "--sweep", path, "expected results of pcsnn sweep, format 1")


def test_results_that_are_too_many(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(results, "MOST_BYTES", 1000)
    (tmp_path / "s.jsonl").write_bytes(b" " * 1001)
    refused(capsys, tmp_path, "--sweep", tmp_path / "s.jsonl", "at most 1,000 bytes, got 1,001")
