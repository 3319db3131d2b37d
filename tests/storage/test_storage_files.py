"""Network files beside other programs, on full disks and in odd places: the old file or the new one, in one clear line,
nothing left."""

import errno
import os
import pathlib
import resource
import signal
import stat
import subprocess
import sys
import threading

import pytest
import torch
from network_files import parts, saved
from tiny_networks import inputs, one_thread, randomise  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.nn import QCFS
from pcsnn.storage import container


def wide(width, seed=0):
    return pcsnn.convert(
        randomise(nn.Sequential(nn.Linear(3, width), QCFS(4), nn.Linear(width, 3)), seed), 4, progress=False
    )


# A file that changed


def test_every_changed_bit_is_noticed(tmp_path):
    _, path = saved(tmp_path)
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    places = {*range(0, 8), *range(8, length + 8, 37), *range(length + 8, len(whole), 53), len(whole) - 1}
    for place in sorted(places):
        for bit in (0, 5, 7):
            data = bytearray(whole)
            data[place] ^= 1 << bit
            path.write_bytes(data)
            with pytest.raises(ValueError, match="path: "):
                pcsnn.load(path)


def test_swapped_tensors_and_bytes_are_noticed(tmp_path):
    _, path = saved(tmp_path, "residual")
    whole = path.read_bytes()
    start = int.from_bytes(whole[:8], "little") + 8
    for first, second in ((start, start + 4), (start + 8, start + 64), (20, 21), (start - 30, start - 29)):
        data = bytearray(whole)
        data[first], data[second] = data[second], data[first]
        if data != whole:
            path.write_bytes(data)
            with pytest.raises(ValueError, match="path: "):
                pcsnn.load(path)
    for other in (whole + b"\0", whole[:-1], whole[:start], whole * 2):
        path.write_bytes(other)
        with pytest.raises(ValueError, match="path: "):
            pcsnn.load(path)


def crafted(path, header, data=b""):
    text = header.encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize(
    "header",
    [
        "",
        "[]",
        "{",
        "5",
        '{"__metadata__": []}',
        '{"__metadata__": {"pcsnn": 5}}',
        '{"a": {}}',
        '{"a": []}',
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}',
        '{"a": {"dtype": "F64", "shape": [2305843009213693952, 8], "data_offsets": [0, 0]}}',
        '{"a": {"dtype": "F32", "shape": [0, 9999999999999999], "data_offsets": [0, 0]}}',
        '{"a": {"dtype": "X", "shape": [], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": ["F32"], "shape": [], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": "U8", "shape": [8.0], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": "U8", "shape": [true, 8], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}, '
        '"a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}, '
        '"b": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": "BOOL", "shape": [8], "data_offsets": [0, 8]}}',
        "[" * 100_000,
        '{"a": ' * 50_000,
    ],
    ids=lambda text: text[:70],
)
def test_broken_headers_are_value_errors(header, tmp_path):
    with pytest.raises(ValueError, match="is not a safetensors file"):
        pcsnn.load(crafted(tmp_path / "net", header, b"\7" * 8))


@pytest.mark.parametrize("length", [0, 1, 2**24 + 1, 2**40, 2**64 - 1])
def test_lengths_of_headers_are_bounded(length, tmp_path):
    (tmp_path / "net").write_bytes(length.to_bytes(8, "little") + b"{}" * 20)
    with pytest.raises(ValueError, match="is not a safetensors file"):
        pcsnn.load(tmp_path / "net")


def test_files_of_other_kinds(tmp_path):
    snn, path = saved(tmp_path)
    whole = path.read_bytes()
    with pytest.raises(FileNotFoundError, match="path: no file"):
        pcsnn.load(tmp_path / "nothing")
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is not a safetensors file"):
            pcsnn.load(path)
    torch.save(snn.state_dict(), path)
    with pytest.raises(ValueError, match="is not a safetensors file"):
        pcsnn.load(path)
    container.write(str(path), {}, snn.state_dict())
    with pytest.raises(ValueError, match="has no pcsnn network in it, only tensors"):
        pcsnn.load(path)


def test_a_loaded_network_does_not_follow_its_file(tmp_path):
    snn, path = saved(tmp_path)
    other, x = wide(40), inputs("upsampling_functions")
    loaded = pcsnn.load(path)
    pcsnn.save(other, tmp_path / "other")
    with open(path, "r+b") as file:
        file.write((tmp_path / "other").read_bytes())
    assert torch.equal(loaded(*x), snn(*x))
    with open(path, "r+b") as file:
        file.truncate(10)
    assert torch.equal(loaded(*x), snn(*x))


MEMORY = """
import resource
import sys
import pcsnn
def most():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
before = most()
snn = pcsnn.load(sys.argv[1])
print(most() - before, sum(value.nbytes for value in snn.state_dict().values()))
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="no /proc")
def test_load_takes_the_memory_of_its_tensors(tmp_path):
    pcsnn.save(
        pcsnn.convert(randomise(nn.Sequential(nn.Linear(2000, 6000), QCFS(4), nn.Linear(6000, 6000))), 4),
        tmp_path / "net",
    )
    found = subprocess.run([sys.executable, "-c", MEMORY, tmp_path / "net"], capture_output=True, text=True, check=True)
    more, tensors = map(int, found.stdout.split())
    assert tensors > 1.5e8 and more < tensors + 4e7


# Several at a time


def test_a_load_beside_savers_sees_one_network(tmp_path):
    networks, path, x = [wide(width) for width in (10, 300, 700)], tmp_path / "net", torch.randn(2, 3)
    expected, failed, stop = [snn(x) for snn in networks], [], threading.Event()
    pcsnn.save(networks[0], path)

    def save(number):
        try:
            while not stop.is_set():
                pcsnn.save(networks[number], path)
        except Exception as error:
            failed.append(error)

    savers = [threading.Thread(target=save, args=(number,)) for number in range(3)]
    for saver in savers:
        saver.start()
    try:
        for _ in range(25):
            found = pcsnn.load(path)(x)
            assert any(torch.equal(found, result) for result in expected)
    finally:
        stop.set()
        for saver in savers:
            saver.join()
    assert not failed and os.listdir(tmp_path) == ["net"]


KILLED = """
import os
import signal
import sys
import pcsnn
snn = pcsnn.load(sys.argv[1])
def kill(descriptor):
    os.kill(os.getpid(), signal.SIGKILL)
os.fsync = kill
pcsnn.save(snn, sys.argv[1])
"""


def test_a_kill_leaves_the_old_file_and_a_name_that_says_what_it_is(tmp_path):
    _, path = saved(tmp_path)
    before = path.read_bytes()
    assert subprocess.run([sys.executable, "-c", KILLED, path], capture_output=True).returncode == -signal.SIGKILL
    left = [file.name for file in tmp_path.iterdir() if file != path]
    assert path.read_bytes() == before and len(left) == 1
    assert left[0].startswith("net.safetensors.") and left[0].endswith(".unfinished")
    pcsnn.save(pcsnn.load(path), path)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=["full disk", "interrupt"]
)
def test_an_existing_file_survives_a_failed_save(error, tmp_path, monkeypatch):
    snn, path = saved(tmp_path)
    before = path.read_bytes()

    def fails(descriptor):
        raise error

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(type(error)) as found:
        pcsnn.save(snn, path)
    if isinstance(error, OSError):
        assert found.value.errno == errno.ENOSPC and found.value.filename == str(path)
        assert "path: cannot save" in str(found.value)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


LIMITED = """
import resource
import signal
import sys
import pcsnn
snn = pcsnn.load(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    pcsnn.save(snn, sys.argv[1])
except OSError as error:
    print(type(error).__name__, error.filename)
"""


def test_a_disk_that_ends_midway(tmp_path):
    _, path = saved(tmp_path)
    before = path.read_bytes()
    found = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["OSError", str(path)]
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# Places and permissions


def test_a_missing_folder_is_an_error(tmp_path):
    snn, _ = saved(tmp_path)
    with pytest.raises(FileNotFoundError, match="path: cannot save.*none/net"):
        pcsnn.save(snn, tmp_path / "none" / "net.safetensors")


def test_special_places_are_refused_in_one_line(tmp_path):
    snn, path = saved(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    os.symlink("loop", tmp_path / "loop")
    for place, kind in (
        (tmp_path, "folder"),
        (tmp_path / "pipe", "pipe"),
        ("/dev/null", "device"),
        (tmp_path / "loop", ""),
    ):
        with pytest.raises(OSError, match=f"path: cannot save.*{kind}"):
            pcsnn.save(snn, place)
        with pytest.raises((OSError, ValueError), match=f"path: .*{kind}"):
            pcsnn.load(place)
    assert sorted(os.listdir(tmp_path)) == ["loop", path.name, "pipe"]
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode) and stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_permissions_are_those_of_any_new_file_or_of_the_old_one(tmp_path):
    snn, path = saved(tmp_path)
    old = os.umask(0o027)
    try:
        pcsnn.save(snn, tmp_path / "new")
        os.chmod(path, 0o600)
        pcsnn.save(snn, path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(tmp_path / "new").st_mode) == 0o640 and stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_link_stays_a_link(tmp_path):
    snn, _path = saved(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    os.symlink("elsewhere/net", tmp_path / "link")
    for _ in range(2):
        pcsnn.save(snn, tmp_path / "link")
        assert os.readlink(tmp_path / "link") == "elsewhere/net" and os.listdir(tmp_path / "elsewhere") == ["net"]
    assert torch.equal(
        pcsnn.load(tmp_path / "link")(*inputs("upsampling_functions")), snn(*inputs("upsampling_functions"))
    )


def test_names_of_any_kind(tmp_path):
    snn, path = saved(tmp_path)
    for name in ("n" * 255, "\N{SNOWMAN}" * 85, "net.unfinished", " ", "-", "'\"$"):
        for place in (tmp_path / name, os.fsencode(tmp_path / name), str(tmp_path / name)):
            pcsnn.save(snn, place)
            assert pcsnn.load(place).timesteps == snn.timesteps
        (tmp_path / name).unlink()
    assert list(tmp_path.iterdir()) == [path]
    for wrong in (None, 5.0, object()):
        with pytest.raises(TypeError):
            pcsnn.save(snn, wrong)
        with pytest.raises(TypeError):
            pcsnn.load(wrong)
    for wrong in ("", "a\0b"):
        with pytest.raises((OSError, ValueError)):
            pcsnn.save(snn, wrong)
        with pytest.raises((OSError, ValueError)):
            pcsnn.load(wrong)


@pytest.mark.parametrize(
    "context",
    [torch.inference_mode, lambda: torch.device("meta"), torch.enable_grad],
    ids=["inference", "device", "grad"],
)
def test_what_is_set_around_load_does_not_matter(context, tmp_path):
    snn, path = saved(tmp_path, "residual")
    old = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with context():
            loaded = pcsnn.load(path)
    finally:
        torch.set_default_dtype(old)
    x = inputs("residual")
    assert torch.equal(loaded(*x), snn(*x))
    for value, other in zip(loaded.state_dict().values(), snn.state_dict().values()):
        assert value.dtype == other.dtype and value.device.type == "cpu" and not value.is_inference()


def test_limits_of_the_process_are_not_changed(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_AS)
    _, path = saved(tmp_path)
    pcsnn.load(path)
    assert resource.getrlimit(resource.RLIMIT_AS) == before and parts(path)[0]["format"] == 2
