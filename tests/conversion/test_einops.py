"""Patterns of einops in forward become views and means of torch."""

import pytest
import torch
from tiny_networks import conv, network, one_thread, randomise  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.nn import QCFS

einops = pytest.importorskip("einops")
from einops import rearrange, reduce, repeat
from einops.layers.torch import Rearrange, Reduce

LEVELS = 8
FORMS = {
    "tokens": lambda s, h: rearrange(h, "b c h w -> b (h w) c"),
    "by attribute": lambda s, h: einops.rearrange(h, "b c h w -> b h w c"),
    "patches": lambda s, h: rearrange(h, "b c (h p) (w q) -> b (h w) (p q c)", p=2, q=4),
    "mean": lambda s, h: reduce(h, "b c h w -> b c", "mean"),
    "pool": lambda s, h: reduce(h, "b c (h 2) (w 2) -> b c h w", "max"),
    "kept": lambda s, h: reduce(h, "b c h w -> b c 1 1", "sum"),
    "repeated": lambda s, h: repeat(h, "b c h w -> b c (h r) (w 2)", r=3),
    "new": lambda s, h: repeat(h, "b c h w -> b n c h w", n=2),
    "stacked": lambda s, h: rearrange([h, h + 1], "n b c h w -> b (n c) h w"),
    "layer": lambda s, h: s.layer(h),
    "reducing layer": lambda s, h: s.reducing(h),
    "product": lambda s, h: einops.einsum(h, s.weight, "b c h w, c out -> b out h w"),
}


@pytest.mark.parametrize("form", FORMS)
def test_patterns_compute_what_einops_does(form, tmp_path):
    net = randomise(
        network(
            lambda s, x: FORMS[form](s, s.act(s.conv(x))),
            conv=conv(),
            act=QCFS(LEVELS),
            layer=Rearrange("b c h w -> b (c h w)"),
            reducing=Reduce("b c h w -> b c", "mean"),
            weight=nn.Parameter(torch.randn(4, 2)),
        )
    )
    x = torch.randn(2, 3, 8, 8)
    snn = pcsnn.convert(net, LEVELS, example_inputs=x)
    torch.testing.assert_close(snn(x), net(x))
    pcsnn.save(snn, tmp_path / "net.safetensors")
    assert torch.equal(pcsnn.load(tmp_path / "net.safetensors")(x), snn(x))


@pytest.mark.parametrize(
    "form, words",
    [
        (lambda s, h: rearrange(h, "b c ... -> b (...) c"), ".*number of dimensions is not known"),
        (lambda s, h: rearrange(h, "b (c d) h w -> b c d h w"), ".*sizes of c and d are unknown"),
        (lambda s, h: reduce(h, "b c h w -> b c", "prod"), ".*reduction 'prod'"),
        (lambda s, h: einops.pack([h], "b * w")[0], ".pack"),
    ],
)
def test_what_needs_shapes_is_refused_with_its_line(form, words):
    net = network(lambda s, x: form(s, s.act(s.conv(x))), conv=conv(), act=QCFS(LEVELS))
    with pytest.raises(ValueError, match=rf"test_einops.py:\d+ calls einops{words}"):
        pcsnn.convert(net, LEVELS)
