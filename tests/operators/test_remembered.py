"""What is computed from a tensor once is never used for other values, whoever wrote them."""

import gc
import os
import subprocess
import sys

import pytest
import torch
from folders import ROOT

import pcsnn
from pcsnn import functional, use_backend
from pcsnn.tensors import memo
from pcsnn.tensors.memo import facts, forget

try:
    from pcsnn._C import checksum
except ImportError:
    checksum = memo._checksum_of_bytes


def through_data(tensor):
    tensor.data.copy_(-tensor)


def through_numpy(tensor):
    tensor.numpy().__imul__(-1)


def through_an_alias(tensor):
    torch.frombuffer(tensor.numpy(), dtype=tensor.dtype).neg_()


def by_other_data(tensor):
    tensor.data = -tensor


def one_element(tensor):
    tensor.data.view(-1)[-1] = 120


def in_place(tensor):
    tensor.neg_()


WRITES = [through_data, through_numpy, through_an_alias, by_other_data, one_element, in_place]


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
@pytest.mark.parametrize("shared", (False, True))
@pytest.mark.parametrize("kind", ("conv2d", "grouped", "linear"))
def test_weights_of_int8_that_change(write, shared, kind):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(1, 5, (2, 16, 6, 6), generator=generator).to(torch.uint8)
    weight = torch.randint(-9, 10, (16, 4 if kind == "grouped" else 16, 3, 3), generator=generator).to(torch.int8)
    levels = torch.arange(1, 5, dtype=torch.int32) * 20
    run = {
        "conv2d": lambda: functional.conv2d_fire(x, weight, levels, timesteps=4),
        "grouped": lambda: functional.conv2d_fire(x, weight, levels, groups=4, timesteps=4),
        "linear": lambda: functional.linear_fire(x[..., 0, 0], weight, levels, timesteps=4),
    }[kind]
    if kind == "linear":
        weight = weight[:, :, 0, 0].contiguous()
    if shared:
        weight.share_memory_()
    before = run()
    write(weight)
    with use_backend("reference"):
        expected = run()
    assert torch.equal(run(), expected) and not torch.equal(before, expected)


@pytest.mark.parametrize("dtype", (torch.float32, torch.int32))
def test_levels_biases_and_orders_that_change(dtype):
    whole = dtype == torch.int32
    x = torch.randint(0, 5, (2, 16, 6, 6), dtype=torch.uint8)
    weight = torch.randint(-9, 10, (16, 16, 3, 3)).to(torch.int8 if whole else torch.float32)
    levels, bias = (torch.arange(1, 9) * 20).to(dtype), torch.zeros(16, dtype=dtype)
    for write in (
        lambda: None,
        lambda: levels.data.add_(30),
        lambda: levels.data.copy_(levels**2),
        lambda: levels.numpy().fill(7),
        lambda: bias.data.fill_(2**20),
        lambda: bias.data.fill_(2**30 if whole else 0),
    ):
        write()
        for added in (None, bias):
            with use_backend("reference"):
                expected = functional.conv2d_fire(x, weight, levels, bias=added, timesteps=4)
            assert torch.equal(functional.conv2d_fire(x, weight, levels, bias=added, timesteps=4), expected)
    table = torch.arange(1.0, 9.0)
    functional.fire_counts(torch.rand(9), table)
    table.data[3] = 0
    with pytest.raises(ValueError, match="^levels: expected ascending"):
        functional.fire_counts(torch.rand(9), table)
    order = torch.arange(4)
    functional.expand_spikes(x, 4, order)
    order.numpy()[0] = 3
    with pytest.raises(ValueError, match="^order"):
        functional.expand_spikes(x, 4, order)


def test_layers_of_an_optimised_network():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3),
        pcsnn.nn.QCFS(4),
        torch.nn.Conv2d(16, 16, 3),
        pcsnn.nn.QCFS(4),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 3),
    ).eval()
    x = torch.randn(2, 3, 6, 6)
    snn = pcsnn.optimize(pcsnn.convert(net, 4, progress=False), "int8")
    layer = next(module for module in snn.modules() if getattr(module, "weight", x).dtype == torch.int8)
    counts = torch.randint(0, 5, (2, 16, 4, 4), dtype=torch.uint8)
    before = layer(counts)
    layer.weight.data.neg_()
    with use_backend("reference"):
        expected = layer(counts)
    assert torch.equal(layer(counts), expected) and not torch.equal(before, expected)
    state = {name: value.clone() for name, value in snn.state_dict().items()}
    layer.weight.numpy().fill(1)
    snn.load_state_dict(state)
    assert torch.equal(layer(counts), expected)
    assert torch.isfinite(snn(x)).all()


def test_the_checksum_tells_every_change_of_values_shape_and_strides():
    generator = torch.Generator().manual_seed(0)
    for size in (0, 1, 7, 63, 64, 65, 1000, 2**18 + 5, 2**20 + 1):
        x = torch.randint(0, 256, (size,), generator=generator).to(torch.uint8)
        sums = {checksum(x)}
        for place in {0, 7, 63, 64, size // 2, size - 1} & set(range(size)):
            for bit in (1, 128):
                y = x.clone()
                y[place] ^= bit
                sums.add(checksum(y))
                assert checksum(x.clone()) == checksum(x)
        assert len(sums) == 1 + 2 * len({0, 7, 63, 64, size // 2, size - 1} & set(range(size)))
    x = torch.randn(64, 64, generator=generator)
    forms = [
        x,
        -x,
        x.t(),
        x.t().contiguous(),
        x.flip(0),
        x[:, ::2],
        x.reshape(-1),
        x.view(torch.int32),
        x.double(),
        x + 0,
        x.roll(8),
    ]
    assert len({checksum(form) for form in forms}) == len(forms) - 1  # x + 0 is x
    assert checksum(x.requires_grad_()) == checksum(x.detach().clone())


def test_what_has_no_bytes_here_has_no_checksum():
    x = torch.zeros(3)
    for other in (x.to("meta"), x.to_sparse(), torch._neg_view(x)):
        assert checksum(other) is None
    with pytest.raises((TypeError, AttributeError)):
        checksum([1.0])


def test_without_a_checksum_the_version_tells_and_forget_drops(monkeypatch):
    monkeypatch.setattr(memo, "_checksum", lambda tensor: None)
    layer = torch.nn.Linear(2, 2).requires_grad_(False)
    calls = []

    def look(tensor):
        return memo.remembered(tensor, "sum", lambda: calls.append(0) or float(tensor.sum()))

    assert look(layer.weight) == look(layer.weight) and len(calls) == 1
    layer.weight.add_(1)
    look(layer.weight)
    assert len(calls) == 2
    network = torch.nn.Sequential(layer)
    for drop in (lambda: forget(layer.weight), lambda: forget(layer), forget, lambda: pcsnn.forget(network)):
        layer.weight.data.add_(1)  # unseen
        stale = look(layer.weight)
        drop()
        assert look(layer.weight) == stale + 4 or len(calls) == 3
    assert len(calls) == 6
    with torch.inference_mode():
        inferred = torch.ones(2)
        assert look(inferred) == look(inferred) == 2 and len(calls) == 8  # nothing tells: looked at anew
    with pytest.raises(TypeError, match="^of: expected a tensor, a module or None, got list"):
        forget([])


def test_facts_die_with_their_tensor_and_keep_none_alive():
    tensor = torch.ones(3)
    known = facts(tensor)
    assert known("kept", lambda: 5) == known("kept", lambda: 6) == 5
    assert known("itself", lambda: tensor) is tensor  # noqa: F821, deleted below
    assert known("view", lambda: tensor[1:]).shape == (2,)  # noqa: F821, deleted below
    identity = id(tensor)
    assert identity in memo._known
    del tensor, known
    gc.collect()
    assert identity not in memo._known


WRITTEN_TO = """
import mmap
import sys
import torch
from pcsnn import functional
file = open(sys.argv[1], "r+b")
memory = mmap.mmap(file.fileno(), 16 * 16)
weight = torch.frombuffer(memory, dtype=torch.int8).view(16, 16)
for _ in range(2):
    print(functional.linear_fire(torch.ones(1, 16, dtype=torch.uint8), weight, timesteps=1)[0, 0].item(), flush=True)
    input()
"""


def test_another_process_writes(tmp_path):
    path = tmp_path / "weight"
    path.write_bytes(bytes([1]) * 256)
    places = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": places})
    command = [sys.executable, "-c", WRITTEN_TO, path]
    with subprocess.Popen(command, **pipes) as child, path.open("r+b", buffering=0) as file:
        assert child.stdout.readline() == "16\n"
        file.write(bytes([2]) * 256)
        assert child.communicate("\n\n")[0] == "32\n"
