"""What the commands write: over nothing that is not theirs, as a whole, and by one of them at a time."""

import errno
import multiprocessing
import os
import resource
import shutil
import stat
import subprocess
import sys

import pytest
import safetensors
import safetensors.torch
from cli_cases import NET, QUICK, folder, inside, lines, net, run, swept  # noqa: F401 (fixtures)
from folders import ROOT
from tiny_networks import one_thread  # noqa: F401

import pcsnn
from pcsnn.cli import files, results

COMMON = {
    "convert": ("convert", *NET, "--timesteps", 2),
    "report": ("report", *NET, "--timesteps", 2, *QUICK),
    "sweep": ("sweep", *NET, "--timesteps", 2, *QUICK, "--skip", "time", "operations"),
}


@pytest.fixture
def place(tmp_path):
    """A folder with a file of every kind."""
    safetensors.torch.save_file(
        {name: value.contiguous() for name, value in net().state_dict().items()}, tmp_path / "w.safetensors"
    )
    shutil.copy("arrays.npz", tmp_path / "d.npz")
    shutil.copytree("photos", tmp_path / "photos")
    return tmp_path


def state(place):
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


def refused(capsys, place, command, output, *options, words):
    before = state(place)
    data = () if "--data" in options else ("--data", place / "photos")
    assert run(*COMMON[command], *data, *options, "--output", output) in (1, 2)
    told = capsys.readouterr().err
    assert "error: --output: " in told and words in told and "Traceback" not in told and state(place) == before, told


@pytest.mark.parametrize("command", COMMON)
@pytest.mark.parametrize("way", ["same", "symlink", "hard link", "other spelling"])
@pytest.mark.parametrize("option, name", [("--weights", "w.safetensors"), ("--data", "d.npz"), ("--data", "photos")])
def test_an_output_that_is_an_input(place, capsys, command, way, option, name):
    file = next((place / name).rglob("*.png")) if name == "photos" else place / name
    output = file
    if way == "symlink":
        output = place / "output"
        os.symlink(file, output)
    elif way == "hard link":
        output = place / "output"
        os.link(file, output)
    elif way == "other spelling":
        output = f"{file.parent}/../{file.parent.name}/./{file.name}"
    refused(capsys, place, command, output, option, place / name, words="")


@pytest.mark.parametrize("command, option", [("sweep", "--calibration"), ("report", "--calibration")])
def test_an_output_that_is_the_calibration_data(place, capsys, command, option):
    refused(capsys, place, command, place / "d.npz", option, place / "d.npz", words="")


@pytest.mark.parametrize("kind", ["network", "page"])
def test_an_input_of_the_kind_that_is_written(place, capsys, kind):
    """Where the kind alone does not tell."""
    if kind == "network":
        weights = place / "net.safetensors"
        pcsnn.save(pcsnn.convert(net(), 4), weights)
        refused(capsys, place, "convert", weights, "--weights", weights, words="is the file of --weights")
    else:
        page = place / "d.npz"
        page.write_text(files.PAGE)
        refused(capsys, place, "report", page, "--data", page, words="is the file of --data")


def test_files_of_another_kind(place, swept, capsys):
    kinds = {
        "sweep.jsonl": swept.read_bytes(),
        "notes.txt": b"notes",
        "net.py": b"def make(): ...",
        "x.png": b"\x89PNG",
    }
    for name, written in kinds.items():
        (place / name).write_bytes(written)
        for command in ("convert", "report"):
            refused(capsys, place, command, place / name, words="name another file")
    refused(capsys, place, "sweep", place / "notes.txt", words="expected results of pcsnn sweep")
    pcsnn.save(pcsnn.convert(net(), 4), place / "net")
    (place / "page.html").write_text(files.PAGE)
    refused(capsys, place, "report", place / "net", words="is no report")
    refused(capsys, place, "convert", place / "page.html", words="is no spiking network")


@pytest.mark.parametrize("command", COMMON)
def test_devices_pipes_and_folders(place, capsys, command):
    os.mkfifo(place / "pipe")
    for output, words in (
        ("/dev/full", "got the device"),
        ("/dev/null", "got the device"),
        (place / "pipe", "got the pipe"),
        (place, "got the folder"),
        (place / "none" / "x", "a file in a folder that exists"),
        (place / "d.npz" / "x", "a file in a folder that exists"),
        (place / ("long" * 100), "too long"),
    ):
        refused(capsys, place, command, output, words=words)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    os.symlink(place / "none" / "x", place / "nowhere")
    refused(capsys, place, command, place / "nowhere", words="a file in a folder that exists")


@pytest.mark.parametrize("command", COMMON)
def test_no_permission(place, capsys, monkeypatch, command):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root
    refused(capsys, place, command, place / "output", words="no permission to write")


@pytest.mark.parametrize("command", COMMON)
def test_what_a_command_wrote_it_writes_anew(place, command):
    options = (*COMMON[command], "--data", place / "photos", "--output", place / "file")
    (place / "file").touch()
    assert run(*options) == 0
    first = (place / "file").read_bytes()
    assert first and run(*options) == 0
    assert command == "report" or (place / "file").read_bytes() == first  # a report has times
    assert sorted(path.name for path in place.iterdir()) == ["d.npz", "file", "photos", "w.safetensors"]


def test_a_link_stays_one(tmp_path):
    os.symlink("file", tmp_path / "link")
    files.write(tmp_path / "link", "page")
    results_link = tmp_path / "results"
    os.symlink("rows", results_link)
    results.Results(results_link, {"seed": 0}).append({"timesteps": 2})
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "page"
    assert results_link.is_symlink() and len(lines(tmp_path / "rows")) == 2


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "path: cannot save: too big"),
        safetensors.SafetensorError("I/O error: No space left"),
        ValueError("path: no network"),
    ],
)
def test_a_network_that_cannot_be_saved(place, capsys, monkeypatch, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(pcsnn, "save", fails)
    assert run("convert", "cli_nets:make", "--timesteps", 4, "--output", place / "net") == 1
    told = capsys.readouterr().err
    assert told.startswith(f"pcsnn convert: error: --output: cannot write {place / 'net'}: ") and told.count("\n") == 1
    assert "path: " not in told and not (place / "net").exists()


def limited(*arguments, limit=300, stdout=subprocess.PIPE):
    """A command in a process whose files are at most `limit` bytes: what a full disk is like."""
    return subprocess.run(
        [sys.executable, "-m", "pcsnn", *map(str, arguments)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )


def test_a_full_disk(place, capfd):
    done = limited("convert", "cli_nets:make", "--timesteps", 4, "--output", place / "net")
    told = done.stderr
    assert told.startswith(f"pcsnn convert: error: --output: cannot write {place / 'net'}: "), told
    assert done.returncode == 1 and "Traceback" not in told
    assert not [path for path in place.iterdir() if path.name.startswith("net")]
    with open("/dev/full", "w") as full:
        done = limited("info", stdout=full)
    assert (done.returncode, done.stderr) == (1, "pcsnn info: error: [Errno 28] No space left on device\n")


def test_results_on_a_full_disk(tmp_path, monkeypatch):
    path, write = tmp_path / "s.jsonl", os.write
    grown = results.Results(path, {"seed": 0})
    grown.append({"timesteps": 2})
    before = path.read_bytes()

    def full(file, data):
        if len(data) < 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:20])  # some of it still fits

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=f"--output: cannot write {path}: No space left on device"):
        grown.append({"timesteps": 4, "text": "x" * 50})
    assert path.read_bytes() == before and grown.done() == {2}
    monkeypatch.undo()
    grown.append({"timesteps": 4})
    assert [row["timesteps"] for row in lines(path)[1:]] == [2, 4]


def test_a_page_on_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "r.html"
    files.write(path, "the old page")
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match=f"--output: cannot write {path}: No space left on device"):
        files.write(path, "the new page")
    assert path.read_text() == "the old page" and os.listdir(tmp_path) == ["r.html"]


def test_files_of_the_user_stay(tmp_path):
    (tmp_path / "r.html.unfinished").write_text("mine")
    os.umask(umask := os.umask(0o022))
    files.write(tmp_path / "r.html", "page \udcff")
    assert (tmp_path / "r.html.unfinished").read_text() == "mine"
    assert (tmp_path / "r.html").read_text() == "page \\udcff"
    assert (tmp_path / "r.html").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_reader_that_goes_away():
    shown = subprocess.Popen(
        [sys.executable, "-m", "pcsnn", "info"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    shown.stdout.close()
    assert (shown.stderr.read(), shown.wait()) == ("", 1)
    shown.stderr.close()


# one writer at a time


def test_results_belong_to_one_sweep(tmp_path):
    path = tmp_path / "s.jsonl"
    first = results.Results(path, {"seed": 0})
    first.append({"timesteps": 2})
    for settings in ({"seed": 0}, {"seed": 1}):
        with pytest.raises(ValueError, match="--output: another sweep writes into .*s.jsonl now"):
            results.Results(path, settings)
    os.link(path, tmp_path / "other name")
    with pytest.raises(ValueError, match="another sweep writes"):
        results.Results(tmp_path / "other name", {"seed": 0})
    assert results.read(path)[1] == [{"timesteps": 2}]  # others may read
    first.close()
    first.close()
    second = results.Results(path, {"seed": 0})
    assert second.done() == {2}
    del second  # as where an exception ends a sweep
    assert results.Results(path, {"seed": 0}).done() == {2}


def test_refused_results_are_left_to_others(tmp_path):
    path = tmp_path / "s.jsonl"
    results.Results(path, {"seed": 0}).close()
    with pytest.raises(ValueError, match="results of other settings"):
        results.Results(path, {"seed": 1})
    results.Results(path, {"seed": 0}).close()


def _many(path, start, verdicts):
    start.wait()
    try:
        grown = results.Results(path, {"seed": 0})
        for timesteps in (2, 4, 8):
            grown.append({"timesteps": timesteps, "process": os.getpid()})
        verdicts.put(os.getpid())
        start.wait()  # nobody leaves before all have tried
    except ValueError as error:
        verdicts.put(str(error))
        start.wait()


def test_processes_that_start_together(tmp_path):
    context = multiprocessing.get_context("fork")
    start, verdicts = context.Barrier(4), context.Queue()
    path = tmp_path / "s.jsonl"
    started = [context.Process(target=_many, args=(path, start, verdicts)) for _ in range(4)]
    for process in started:
        process.start()
    told = [verdicts.get(timeout=60) for _ in started]
    for process in started:
        process.join()
    writer = [verdict for verdict in told if isinstance(verdict, int)]
    assert len(writer) == 1 and all("another sweep writes" in verdict for verdict in told if verdict not in writer)
    rows = results.read(path)[1]
    assert [(row["timesteps"], row["process"]) for row in rows] == [(2, *writer), (4, *writer), (8, *writer)]


def test_two_sweeps_of_one_file(place, capsys):
    path, options = place / "s.jsonl", (*COMMON["sweep"], "--data", place / "photos", "--output")
    assert run(*options, path) == 0
    held = results.Results(path, lines(path)[0]["settings"])
    before = path.read_bytes()
    assert run(*options, path) == 1 and "another sweep writes into" in capsys.readouterr().err
    held.close()
    assert run(*options, path) == 0 and path.read_bytes() == before


@pytest.mark.parametrize(
    "change", [os.unlink, lambda path: os.replace(shutil.copy(path, f"{path}.new"), path)], ids=["deleted", "replaced"]
)
def test_results_whose_file_goes_away(tmp_path, change):
    path = tmp_path / "s.jsonl"
    grown = results.Results(path, {"seed": 0})
    change(path)
    with pytest.raises(ValueError, match="was deleted, or another file took its name"):
        grown.append({"timesteps": 2})


@pytest.mark.parametrize("why", ["no module", "file system"])
def test_where_nothing_can_be_locked_it_is_said(tmp_path, capsys, monkeypatch, why):
    if why == "no module":
        monkeypatch.setattr(results, "fcntl", None)
    else:
        error = OSError(errno.ENOSYS, "Function not implemented")
        monkeypatch.setattr(results.fcntl, "flock", lambda *_: (_ for _ in ()).throw(error))
    results.Results(tmp_path / "s.jsonl", {"seed": 0}).append({"timesteps": 2})
    assert "s.jsonl cannot be locked (" in capsys.readouterr().err and len(lines(tmp_path / "s.jsonl")) == 2
