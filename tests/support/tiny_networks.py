"""Tiny networks, one for each construct that the converter knows; `build` makes them with any activation."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pcsnn.nn import QCFS

LEVELS = 4


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for each other cost more than these networks."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network(forward, **parts):
    """A module with this forward, holding these modules, parameters and buffers (plain tensors)."""
    net = type("Tiny", (nn.Module,), {"forward": forward})()
    for name, part in parts.items():
        if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
            net.register_buffer(name, part)
        else:
            setattr(net, name, part)
    return net


def randomise(net, seed=0):
    """Weights, batch norm statistics and QCFS thresholds that make about half of all neurons fire; evaluation mode."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor, low, high):
        tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * (high - low) + low)

    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, QCFS):
                draw(module.threshold, 0.7, 1.6)
                continue
            for parameter in module.parameters(recurse=False):
                fan = max(parameter[0].numel() if parameter.dim() > 1 else 4, 1)
                draw(parameter, -((3 / fan) ** 0.5), 1.2 * (3 / fan) ** 0.5)
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
                draw(module.running_mean, -0.4, 0.4)
                draw(module.running_var, 0.4, 1.5)
    return net.eval()


def inputs(name, dtype=torch.float32, batch=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(batch, *shape, generator=generator, dtype=torch.float64).to(dtype) for shape in NETWORKS[name][1]
    )


def build(name, activation=lambda: QCFS(LEVELS), dtype=torch.float32):
    return randomise(NETWORKS[name][0](activation)).to(dtype)


def conv(inside=3, outside=4, kernel=3, padding=1, **options):
    return nn.Conv2d(inside, outside, kernel, padding=padding, **options)


def _loop(s, x):
    for layer in s.layers:
        x = layer(x)
    return x


def _iadd(s, x):
    x = s.act(s.conv(x))
    out = s.second(x)
    out += x
    return s.last(out)


def _two_norms(s, x):
    x = s.act(s.conv(x))
    x = s.b(s.norm1(s.shared(x)))
    return s.c(s.norm2(s.shared(x)))


def _split(s, h):
    one, two = h.chunk(2, 1)
    return s.last(torch.cat([s.third(one), two], 1))


def _functional(s, x):
    current = F.conv2d(x, weight=s.w, bias=s.b, padding=1)
    return F.linear(s.act(F.batch_norm(current, s.mean, s.variance, training=False)).flatten(1), s.w2)


def _pre_activation(s, x):
    x = s.pool(s.conv(x))
    return s.third(s.last(s.norm2(s.second(s.act(s.norm(x)))))) + x


def _twice(block, activation):
    return nn.Sequential(conv(), activation(), block, block)


def _two_names(activation):
    return network(lambda s, x: s.b(s.conv(s.a(x))), conv=conv(), a=activation, b=activation)


def _cat(s, x):
    h = s.act(s.conv(x))
    return s.last(s.third(torch.cat([s.second(h), h, x], 1)))


def _views(s, h):
    h = s.linear(h.view(h.size(0), -1)).reshape(-1, 5).unsqueeze(1)
    return h.permute(0, 2, 1).transpose(1, 2).squeeze(1)


def _pool_first(s, x):
    h = s.act(F.max_pool2d(s.conv(x), 2))
    return s.last(F.max_pool2d(F.dropout2d(s.second(h), training=s.training), 2))


def _upsample(s, x):
    h = F.interpolate(s.act(s.conv(x)), scale_factor=2, mode="nearest")
    return F.interpolate(s.last(s.second(h)), size=x.shape[-2:], mode="bilinear")


def _sizes(s, x):
    _n, _channels, height, _width = x.shape
    height //= 2
    x = s.act(s.conv(x))
    return s.linear(x[:, :, :height].reshape(x.size(0), -1)) + height


def _option(s, x, mask=None, double=False, mode="sum"):
    x = s.act(s.conv(x))
    if mask is not None:
        x = x * mask
    return x.sum((2, 3)) if mode == "sum" else x


def holding(forward, **others):
    """Factory of networks that hold conv, act, second, last (in this order of use) and `others`."""
    return lambda a: network(forward, conv=conv(), act=a(), second=conv(4, 4), last=a(), **copy.deepcopy(others))


def behind(tail, **others):
    """Factory of networks whose forward is tail(s, act(conv(x)))."""
    return holding(lambda s, x: tail(s, s.act(s.conv(x))), **others)


def parameter(*shape):
    return nn.Parameter(torch.zeros(shape))


IMAGE = (3, 8, 8)
SMALL = (3, 4, 4)
seq = nn.Sequential

LAYERS = {
    "mlp": (lambda a: seq(nn.Linear(6, 8), a(), nn.Linear(8, 8), a(), nn.Linear(8, 5)), [(6,)]),
    "tokens": (lambda a: seq(nn.Linear(6, 8), a(), nn.Linear(8, 8), a(), nn.Linear(8, 5)), [(7, 6)]),
    "convolutions": (lambda a: seq(conv(), a(), conv(4, 4, stride=2), a(), nn.Flatten(), nn.Linear(64, 5)), [IMAGE]),
    "no_bias": (lambda a: seq(conv(bias=False), a(), conv(4, 4, bias=False), a()), [IMAGE]),
    "depthwise": (lambda a: seq(conv(), a(), conv(4, 4, groups=4), a(), conv(4, 6, 1, 0)), [IMAGE]),
    "grouped": (lambda a: seq(conv(3, 6), a(), conv(6, 4, groups=2), a()), [IMAGE]),
    "dilated": (lambda a: seq(conv(), a(), conv(4, 4, padding=2, dilation=2, padding_mode="circular"), a()), [IMAGE]),
    "transposed": (
        lambda a: seq(
            conv(),
            a(),
            nn.ConvTranspose2d(4, 6, 3, 2),
            nn.BatchNorm2d(6),
            a(),
            nn.ConvTranspose2d(6, 6, 3, groups=2),
            nn.BatchNorm2d(6),
            a(),
            nn.ConvTranspose2d(6, 6, 3, groups=6),
            nn.BatchNorm2d(6),
            a(),
        ),
        [SMALL],
    ),
    "conv1d": (
        lambda a: seq(
            nn.Conv1d(3, 4, 3),
            nn.BatchNorm1d(4),
            a(),
            nn.MaxPool1d(2),
            nn.AvgPool1d(2),
            nn.ConvTranspose1d(4, 4, 3),
            a(),
            nn.AdaptiveMaxPool1d(3),
        ),
        [(3, 16)],
    ),
    "conv3d": (
        lambda a: seq(
            nn.Conv3d(2, 4, 3),
            nn.BatchNorm3d(4),
            a(),
            nn.MaxPool3d(2, ceil_mode=True),
            nn.AvgPool3d(2),
            nn.ConvTranspose3d(4, 3, 2),
            a(),
            nn.AdaptiveAvgPool3d(1),
        ),
        [(2, 7, 7, 7)],
    ),
    "stem_only": (lambda a: seq(conv(), a()), [IMAGE]),
    "on_the_input": (lambda a: seq(a(), conv(), a()), [IMAGE]),
    "activation_twice": (lambda a: seq(conv(), a(), a(), conv(4, 2)), [IMAGE]),
    "functional_layers": (
        lambda a: network(
            _functional,
            act=a(),
            w=parameter(4, 3, 3, 3),
            b=parameter(4),
            mean=torch.tensor([0.1, -0.2, 0.3, 0.0]),
            variance=torch.tensor([0.5, 0.6, 0.9, 1.1]),
            w2=parameter(5, 256),
        ),
        [IMAGE],
    ),
    "constant_matrix": (
        lambda a: network(
            lambda s, x: torch.einsum("nf,fg->ng", s.act(x @ s.w), s.w2) @ s.w2.T,
            act=a(),
            w=parameter(6, 8),
            w2=parameter(8, 5),
        ),
        [(6,)],
    ),
}
NORMS = {
    "conv_bn": (lambda a: seq(conv(bias=False), nn.BatchNorm2d(4), a(), conv(4, 4), nn.BatchNorm2d(4), a()), [IMAGE]),
    "bn_no_affine": (
        lambda a: seq(
            conv(),
            nn.BatchNorm2d(4, affine=False),
            a(),
            nn.Flatten(),
            nn.Linear(256, 5),
            nn.BatchNorm1d(5, affine=False),
            a(),
        ),
        [IMAGE],
    ),
    "linear_bn": (
        lambda a: seq(
            nn.Linear(6, 8),
            nn.BatchNorm1d(8),
            a(),
            nn.Linear(8, 8, bias=False),
            nn.BatchNorm1d(8),
            a(),
            nn.Linear(8, 3),
        ),
        [(6,)],
    ),
    "linear_bn_over_tokens": (lambda a: seq(nn.Linear(6, 6), nn.BatchNorm1d(6), a(), nn.Linear(6, 6), a()), [(6, 6)]),
    "bn_after_add": (
        holding(lambda s, x: s.last(s.norm(s.act(s.conv(x)) + s.conv(x))), norm=nn.BatchNorm2d(4)),
        [IMAGE],
    ),
    "pre_activation": (
        holding(
            _pre_activation, pool=nn.MaxPool2d(2), norm=nn.BatchNorm2d(4), norm2=nn.BatchNorm2d(4), third=conv(4, 4)
        ),
        [IMAGE],
    ),
    "bn_first": (lambda a: seq(nn.BatchNorm2d(3), a(), conv(), a()), [IMAGE]),
    "bn_twice": (lambda a: seq(conv(), nn.BatchNorm2d(4), nn.BatchNorm2d(4), a()), [IMAGE]),
    "shared_conv_two_norms": (
        lambda a: network(
            _two_norms,
            conv=conv(),
            act=a(),
            shared=conv(4, 4),
            b=a(),
            c=a(),
            norm1=nn.BatchNorm2d(4),
            norm2=nn.BatchNorm2d(4),
        ),
        [IMAGE],
    ),
}
SHARED = {
    "shared_activation": (behind(lambda s, h: s.act(s.second(h + s.act(s.second(s.act(h)))))), [IMAGE]),
    "shared_block": (lambda a: _twice(seq(conv(4, 4), nn.BatchNorm2d(4), a()), a), [IMAGE]),
    "two_names": (lambda a: _two_names(a()), [IMAGE]),
}
SUMS = {
    "residual": (behind(lambda s, h: s.last(s.second(h) + h)), [IMAGE]),
    "residual_other_order": (behind(lambda s, h: s.last(h + s.second(h))), [IMAGE]),
    "residual_iadd": (holding(_iadd), [IMAGE]),
    "residual_add_function": (behind(lambda s, h: s.last(torch.add(s.second(h), h))), [IMAGE]),
    "residual_add_alpha": (behind(lambda s, h: s.last(torch.add(s.second(h), h, alpha=0.5))), [IMAGE]),
    "residual_add_method": (behind(lambda s, h: s.last(s.second(h).add_(h))), [IMAGE]),
    "residual_doubled": (behind(lambda s, h: s.last(h + h)), [IMAGE]),
    "residual_minus": (behind(lambda s, h: s.last(1 - s.second(h) - h)), [IMAGE]),
    "broadcast_sum": (behind(lambda s, h: s.last(h.mean((2, 3), keepdim=True) + s.second(h))), [IMAGE]),
    "broadcast_both": (behind(lambda s, h: s.last(h.mean(2, keepdim=True) + h.mean(3, keepdim=True))), [IMAGE]),
    "three_branches": (behind(lambda s, h: s.last(s.second(h) + h + s.third(h)), third=conv(4, 4, 1, 0)), [IMAGE]),
    "sum_of_list": (behind(lambda s, h: s.last(sum([s.second(h), h, h]))), [IMAGE]),
    "add_a_size": (holding(lambda s, x: s.last(s.second(s.act(s.conv(x))) + x.size(1))), [IMAGE]),
    "scaled": (behind(lambda s, h: s.last(s.second(h * 0.7) / 2).mul(-1.5).div(3)), [IMAGE]),
    "learned_constants": (
        behind(
            lambda s, h: s.last(s.second(h * torch.sigmoid(s.gate)) + s.bias),
            gate=parameter(1, 4, 1, 1),
            bias=torch.tensor([[[0.1]], [[-0.2]], [[0.3]], [[0.4]]]),
        ),
        [IMAGE],
    ),
}
MOVES = {
    "cat": (holding(_cat, third=conv(11, 4)), [IMAGE]),
    "cat_of_currents": (
        behind(lambda s, h: s.last(torch.cat((s.second(h), s.third(h)), dim=1)), third=conv(4, 2)),
        [IMAGE],
    ),
    "split": (behind(_split, third=conv(2, 2)), [IMAGE]),
    "pad": (behind(lambda s, h: s.last(s.second(F.pad(F.pad(h, (1, 2, 0, 1)), (1, 1), "constant", 0.3)))), [IMAGE]),
    "pad_modules": (
        lambda a: seq(
            nn.ReflectionPad2d(1),
            conv(padding=0),
            a(),
            nn.ZeroPad2d(1),
            nn.ReplicationPad2d(1),
            conv(4, 4),
            a(),
            nn.ConstantPad2d(1, 0.5),
            conv(4, 2),
        ),
        [IMAGE],
    ),
    "slices": (behind(lambda s, h: s.last(s.second(h[:, :, ::2, 1:-1]))[..., 0]), [IMAGE]),
    "views": (behind(_views, linear=nn.Linear(256, 5)), [IMAGE]),
    "sizes": (holding(_sizes, linear=nn.Linear(128, 5)), [IMAGE]),
    "pixel_shuffle": (
        lambda a: seq(conv(), a(), nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.ChannelShuffle(2), conv(4, 4), a()),
        [IMAGE],
    ),
}


def _heads(h):
    """[N, 4, 8, 8] -> [N, 2 heads, 64 tokens, 2]."""
    return h.flatten(2).unflatten(1, (2, 2)).transpose(-2, -1)


def _attention(s, h):
    q, k, v = _heads(s.last(s.second(h))), _heads(s.third(s.conv3(h))), _heads(h)
    out = (q @ k.transpose(-2, -1)) @ v * 0.01
    return s.fourth(s.conv4(out.transpose(-2, -1).reshape(h.shape)))


def _keys_first(s, h):
    q, k, v = _heads(s.last(s.second(h))), _heads(s.conv3(h)), _heads(h)
    out = torch.matmul(q, k.mT.matmul(v).div(64))
    return s.fourth(s.conv4(out.transpose(-2, -1).contiguous().view(h.size())))


def _causal(s, h):
    q, v = s.last(s.second(h)).flatten(2).transpose(1, 2), h.flatten(2).transpose(1, 2)
    scores = torch.bmm(q, v.permute(0, 2, 1)).masked_fill(s.future, 0)
    return torch.bmm(scores.tril(3) / 64, v)


ATTENTION = {
    "attention": (
        lambda a: network(
            lambda s, x: _attention(s, s.act(s.conv(x))),
            conv=conv(),
            act=a(),
            second=conv(4, 4),
            last=a(),
            conv3=conv(4, 4),
            third=a(),
            conv4=conv(4, 4),
            fourth=a(),
        ),
        [IMAGE],
    ),
    "attention_keys_first": (
        lambda a: network(
            lambda s, x: _keys_first(s, s.act(s.conv(x))),
            conv=conv(),
            act=a(),
            second=conv(4, 4),
            last=a(),
            conv3=conv(4, 4),
            conv4=conv(4, 4),
            fourth=a(),
        ),
        [IMAGE],
    ),
    "causal_attention": (
        behind(lambda s, h: _causal(s, h), future=torch.ones(64, 64, dtype=torch.bool).triu(1)),
        [IMAGE],
    ),
    "product": (behind(lambda s, h: s.last(s.second(h)) @ s.weights(h), weights=conv(4, 4)), [IMAGE]),
}
POOLS = {
    "average_pools": (
        lambda a: seq(
            conv(),
            a(),
            nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
            conv(4, 4),
            a(),
            nn.AdaptiveAvgPool2d(2),
        ),
        [IMAGE],
    ),
    "average_pool_functions": (
        behind(lambda s, h: F.adaptive_avg_pool2d(s.last(s.second(F.avg_pool2d(h, 2))), 1).flatten(1)),
        [IMAGE],
    ),
    "max_pools": (
        lambda a: seq(
            nn.MaxPool2d(2, 1),
            conv(),
            a(),
            nn.MaxPool2d(3, 2, 1, ceil_mode=True),
            conv(4, 4),
            a(),
            nn.AdaptiveMaxPool2d(2),
        ),
        [IMAGE],
    ),
    "max_pool_functions": (
        behind(
            lambda s, h: F.adaptive_max_pool2d(s.last(s.second(F.max_pool2d(h, 3, 2, padding=1, ceil_mode=True))), 1)
        ),
        [IMAGE],
    ),
    "max_pool_first": (
        lambda a: seq(
            conv(),
            nn.MaxPool2d(2),
            a(),
            conv(4, 4),
            nn.BatchNorm2d(4),
            nn.Dropout(),
            nn.MaxPool2d(2),
            nn.AdaptiveMaxPool2d(1),
            a(),
            nn.Flatten(),
            nn.Linear(4, 3),
        ),
        [IMAGE],
    ),
    "max_pool_function_first": (holding(_pool_first), [IMAGE]),
    "max_pool_over_channels": (
        behind(
            lambda s, h: F.max_pool1d(s.last(s.linear(h.amax(1).flatten(1))).unsqueeze(1), 2), linear=nn.Linear(64, 8)
        ),
        [IMAGE],
    ),
    "max_pool_after_cat": (behind(lambda s, h: F.max_pool2d(torch.cat([h, s.last(s.second(h))], 1), 2)), [IMAGE]),
    "means": (behind(lambda s, h: torch.mean(s.last(s.second(h)), dim=(2, 3)) + h.mean((1, 2, 3))[:, None]), [IMAGE]),
    "upsampling": (
        lambda a: seq(
            conv(),
            a(),
            nn.Upsample(scale_factor=2),
            nn.MaxPool2d(2),
            conv(4, 4),
            a(),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            conv(4, 2),
            a(),
        ),
        [SMALL],
    ),
    "upsampling_functions": (holding(_upsample), [SMALL]),
}
DROPPED = {
    "dropout": (
        lambda a: seq(
            nn.Dropout2d(),
            conv(),
            nn.Identity(),
            a(),
            nn.Dropout(0.9, inplace=True),
            conv(4, 4),
            nn.AlphaDropout(),
            a(),
            nn.Flatten(),
            nn.Dropout1d(),
            nn.Linear(256, 4),
            nn.Dropout(),
        ),
        [IMAGE],
    ),
    "dropout_functions": (
        behind(lambda s, h: F.dropout(s.last(s.second(F.dropout2d(h, 0.5, s.training))), 0.9, False)),
        [IMAGE],
    ),
}
SHAPES = {
    "nested": (
        lambda a: network(_loop, layers=nn.ModuleList([seq(seq(conv(), a()), conv(4, 4)), a(), nn.Identity()])),
        [IMAGE],
    ),
    "two_inputs": (holding(lambda s, x, y: s.last(s.second(s.act(s.conv(x))) + s.conv(y))), [IMAGE, IMAGE]),
    "tuple_output": (behind(lambda s, h: (h, [s.last(s.second(h))])), [IMAGE]),
    "dict_output": (behind(lambda s, h: {"aux": h, "out": s.last(s.second(h))}), [IMAGE]),
    "options": (holding(_option), [IMAGE]),
}

# name: (activation factory -> network, shapes of its inputs without the batch)
NETWORKS = LAYERS | NORMS | SHARED | SUMS | MOVES | ATTENTION | POOLS | DROPPED | SHAPES
MOVED_POOLS = {"max_pool_first", "max_pool_function_first"}  # their activations see other shapes after conversion
