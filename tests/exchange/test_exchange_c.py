"""Networks as C: a C99 compiler has nothing to say of them, and they count as the network does."""

import ctypes
import shutil
import subprocess

import pytest
import torch
import torch.nn.functional as F
from tiny_networks import build, inputs, one_thread, randomise  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.exchange.c.buffers import Block
from pcsnn.exchange.c.text import identifier
from pcsnn.nn import QCFS

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
STRICT = "-std=c99 -O2 -ffp-contract=off -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -shared -fPIC".split()
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")
CALL = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.POINTER(ctypes.c_ubyte), ctypes.c_int)
HOOK = """
static void (*hook)(int, const unsigned char *, int);
void set_hook(void (*given)(int, const unsigned char *, int)) { hook = given; }
void small_net_counts(int layer, const unsigned char *found, int size) { hook(layer, found, size); }
"""


class Shortcuts(nn.Module):
    """What a ResNet of the first kind has: pixels left out, silent channels, sums; channels joined."""

    def __init__(self):
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 16, 3, padding=1), QCFS(4)
        self.down, self.act2 = nn.Conv2d(16, 20, 3, 2, 1), QCFS(4)
        self.side, self.last, self.act3 = nn.Conv2d(20, 20, 1), nn.Conv2d(20, 20, 3, padding=1), QCFS(4)
        self.act4 = QCFS(4)
        self.pool, self.linear = nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.Linear(40 * 9, 5)

    def forward(self, x):
        x = self.act(self.stem(x))
        x = self.act2(self.down(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
        y = self.act3(self.last(x) + self.side(x))
        return self.linear(self.pool(torch.cat([y, self.act4(self.side(y))], 1)).flatten(1))


def float_tail(pool):
    """Windows whose sums do not fit a byte are averaged as values."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), QCFS(4), pool, nn.Flatten(), nn.Linear(16, 5))


NETWORKS = {
    "shortcuts": Shortcuts,
    "grouped": lambda: nn.Sequential(
        *(nn.Conv2d(3, 16, 3), QCFS(4), nn.Conv2d(16, 16, 3, dilation=2, groups=16), QCFS(4)),
        *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)),
    ),
    "rates": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=(0, 1)), QCFS(4), nn.Conv2d(4, 6, 3), QCFS(4)),
    "values": lambda: nn.Sequential(nn.Conv2d(3, 16, 3), QCFS(4), nn.Conv2d(16, 6, (3, 1))),
    "average pool": lambda: float_tail(nn.AvgPool2d(4)),
    "adaptive pool": lambda: float_tail(nn.AdaptiveAvgPool2d(2)),
}


def optimised(name, timesteps):
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    snn = pcsnn.convert(randomise(NETWORKS[name]()), timesteps, method="none")
    return pcsnn.optimize(snn, "int8", example_inputs=images[:3], first_last=True), images


def compiled(path, *options):
    library = path.with_suffix(".so")
    subprocess.run([COMPILER, *STRICT, *options, "-o", library, path], check=True, capture_output=True, text=True)
    return ctypes.CDLL(library)


def run(library, name, image, shape):
    out = torch.full(shape, torch.nan)
    function = getattr(library, f"{name}_run")
    function(ctypes.c_void_p(image.contiguous().data_ptr()), ctypes.c_void_p(out.data_ptr()))
    return out


@needs_compiler
@pytest.mark.quick(6)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_count_is_the_networks(name, tmp_path):
    snn, images = optimised(name, 41 if "pool" in name else 8)
    path = tmp_path / "small net.c"
    size = pcsnn.exchange.to_c(snn, path, images)
    path.write_text(path.read_text() + HOOK)
    library = compiled(path, "-DPCSNN_COUNTS")
    found = []
    call = CALL(lambda layer, counts, size: found.append(torch.tensor(counts[:size])))
    library.set_hook(call)
    outputs = snn(images)
    for image, expected in zip(images, outputs):
        found.clear()
        out = run(library, "small_net", image, expected.shape)
        assert torch.allclose(out, expected, rtol=0, atol=1e-6) if "pool" in name else torch.equal(out, expected)
        with pcsnn.record(snn) as rec:
            snn(image[None])
        assert len(found) == len(rec.counts)
        for own, (layer, counts) in zip(found, rec.counts.items()):
            neurons = snn.network.get_submodule(layer)
            spikes = own * (neurons.neuron.full_count // neurons.steps)  # of each distinct count
            assert counts.any() and torch.equal(spikes, counts[0].permute(1, 2, 0).flatten().to(spikes.dtype))
    assert size.constants > sum(value.numel() for key, value in snn.state_dict().items() if key.endswith("weight"))
    assert f"{size.constants} bytes of constants, {size.buffers} bytes of buffers" in path.read_text()


def test_what_is_not_of_integers_is_refused_and_no_file_touched(tmp_path):
    path = tmp_path / "net.c"
    path.write_text("kept")
    x = inputs("residual")
    plain = pcsnn.convert(build("residual"), 4)
    for given, example, error, words in (
        (build("residual"), x[0], TypeError, "snn: expected a SpikingNetwork"),
        (plain, x[0], ValueError, "has no form in integer C; expected a network of pcsnn.optimize"),
        (pcsnn.optimize(plain, "int8"), x[0], ValueError, "first_last=True"),
        (plain, x, TypeError, "example"),
        (plain, torch.zeros(2, 5, 8, 8), ValueError, r"example: the network does not run on \(2, 5, 8, 8\)"),
    ):
        with pytest.raises(error, match=words):
            pcsnn.exchange.to_c(given, path, example)
    assert path.read_text() == "kept"


def test_buffers_share_memory_where_they_may():
    block = Block("counts", "uint8_t")
    first, second, third = (block.buffer(size, step) for size, step in ((10, 0), (4, 1), (8, 2)))
    first.read, second.read, third.read = 1, 2, 3
    assert block.place() == 14 and (first.offset, second.offset, third.offset) == (0, 10, 0)


def test_names_of_files_become_names_in_c():
    names = {"net": "net", "my net-2": "my_net_2", "3d": "net_3d", "_x": "x", "größe": "gr__e", "": "net"}
    assert {stem: identifier(stem) for stem in names} == names
