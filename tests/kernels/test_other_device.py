"""The pretended device itself: it lets meet what torch lets meet on CUDA, and nothing else."""

import copy

import pytest
import torch
import torch.nn.functional as F
from gpu_free.other_device import DEVICE, OnOtherDevice, assert_same, assert_there, pretended, there
from torch import nn

from pcsnn import functional
from pcsnn.operators import dispatch

LEVELS = torch.arange(3.0)


@pytest.fixture(autouse=True)
def device():
    with pretended():
        yield


@pytest.mark.parametrize(
    "meet",
    [
        lambda x, there: there + x,
        lambda x, there: x + there.sum(),
        lambda x, there: x.add_(there),
        lambda x, there: torch.cat([x, there]),
        lambda x, there: there @ x.T,
        lambda x, there: F.linear(there, x),
        lambda x, there: torch.equal(x, there),
        lambda x, there: x[there > 0],
        lambda x, there: x[torch.tensor([0], device=DEVICE)],
        lambda x, there: torch.where(there > 0, x, there),
        lambda x, there: there.index_select(0, torch.tensor([0])),
        lambda x, there: there.gather(1, torch.zeros(2, 1, dtype=torch.long)),
        lambda x, there: torch.stack([there.sum(), x.sum()]),
        lambda x, there: there.index_put_((torch.tensor([0]),), x[:1]),
        lambda x, there: torch.tensor(1.0).add_(there.sum()),
        lambda x, there: setattr(x, "data", there),
        lambda x, there: dispatch.call("fire_counts", there, LEVELS, None, None, 1),
        lambda x, there: dispatch.call("fire_rates", there, LEVELS.to(DEVICE), torch.tensor(1.0), None, None, 1),
        lambda x, there: there.uniform_(generator=torch.Generator()),
        lambda x, there: torch.randn(2, device=DEVICE, generator=torch.Generator()),
        lambda x, there: x.to("cuda:1"),
    ],
)
def test_what_may_not_meet(meet):
    x = torch.arange(6.0).view(2, 3)
    with pytest.raises(RuntimeError, match="same device|incompatible tensor type|for generator|invalid device ordinal"):
        meet(x, x.to(DEVICE))


@pytest.mark.parametrize(
    "meet",
    [
        lambda x: x + torch.tensor(2.0),
        lambda x: torch.tensor(2.0) - x,
        lambda x: torch.where(x > 0, torch.tensor(1.0), x),
        lambda x: x[torch.tensor([1, 0])],
        lambda x: x[torch.tensor([True, False])],
        lambda x: x.clone().copy_(torch.ones(2, 3)),
        lambda x: torch.empty_like(x, device="cpu").copy_(x).to(DEVICE),
        lambda x: x.masked_fill(x > 1, torch.tensor(0.5)),
        lambda x: x.clone().index_put_((torch.tensor([0]),), torch.tensor(9.0)),
        lambda x: x.mul(x.sum().item()),
        lambda x: torch.as_tensor(x, dtype=torch.float64),
        lambda x: x.new_tensor([1.0]) * x.new_full((2,), 3.0),
        lambda x: torch.ones(2, 3).to(x) + torch.zeros(3, device=x.device),
        lambda x: torch.einsum("ab,cb->ac", x, x).cummax(0).values,
        lambda x: F.adaptive_avg_pool2d(x.expand(2, 3, 2, 3).contiguous(memory_format=torch.channels_last), 1),
        lambda x: torch.ne(x, 1.0, out=torch.empty(2, 3, dtype=torch.bool, device=x.device)),
        lambda x: x.clone().t_().unsqueeze_(0),
        lambda x: functional.fire_counts(x, LEVELS.to(x.device)),
        lambda x: torch.unravel_index(x.long().flatten(), (2, 3)),
    ],
)
def test_what_may_meet(meet):
    x = torch.arange(6.0).view(2, 3)
    assert_same(meet(x.to(DEVICE)), [value.cpu() for value in _listed(meet(x))])


def _listed(value):
    return value if isinstance(value, tuple) else [value]


def test_a_tensor_there():
    x = torch.arange(6.0, device="cuda").view(2, 3)
    assert x.device == DEVICE and x.is_cuda and not x.is_cpu and x.get_device() == 0 and f"{x.sum():.1f}" == "15.0"
    assert x.tolist() == [[0, 1, 2], [3, 4, 5]] and x.t().stride() == (1, 3) and type(x.cpu()) is torch.Tensor
    for refused in (x.numpy, x.__array__):
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            refused()
    version = x._version
    x[0] += 1
    assert x._version > version and x.tolist()[0] == [1, 2, 3]
    assert isinstance(copy.deepcopy(nn.Parameter(x)), nn.Parameter)


def test_modules_and_gradients():
    torch.manual_seed(0)
    near = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    far, x = there(near), torch.randn(5, 3, 4, 4)
    assert all(isinstance(value, OnOtherDevice) and isinstance(value, nn.Parameter) for value in far.parameters())
    for net, given in ((near, x), (far, there(x))):
        optimiser = torch.optim.Adam(net.parameters())
        for _ in range(3):
            optimiser.zero_grad()
            net(given).square().mean().backward()
            optimiser.step()
    assert_there(far)
    assert_same([value.grad for value in far.parameters()], [value.grad for value in near.parameters()])
    assert_same(list(far.state_dict().values()), list(near.state_dict().values()))
    far.half().cpu().load_state_dict(near.half().state_dict())
    assert {value.device.type for value in far.parameters()} == {"cpu"}
