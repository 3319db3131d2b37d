"""Spiking attention without softmax (20): three forms, the operator on the CPU, conversion of what is written out."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from tiny_networks import one_thread  # noqa: F401
from torch import nn

import pcsnn
from pcsnn import functional, models, reference
from pcsnn.baselines import packed
from pcsnn.nn import QCFS, CollapsedNeuron, SpikingAttention
from pcsnn.tensors import attention

N, M, S, D, E = 2, 9, 7, 4, 6  # batch, queries, keys, features of a head of queries, of values
forms = pytest.mark.parametrize("heads, causal, rows", list(itertools.product((1, 3), (False, True), (False, True))))


def currents(timesteps, heads, causal, dtype, seed=0):
    """query, key, value over time: uneven, of either sign."""
    generator = torch.Generator().manual_seed(seed)
    keys = M if causal else S
    shapes = ((M, heads * D), (keys, heads * D), (keys, heads * E))
    return [torch.randn(timesteps, N, *shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def layer(heads, causal, rows, timesteps, **options):
    generator = torch.Generator().manual_seed(9)
    theta = 0.5 + torch.rand(heads * D, generator=generator, dtype=torch.float64) if rows else 0.9
    return SpikingAttention(heads, theta, timesteps, scale=0.125, causal=causal, **options)


# ---- the forms ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("timesteps", (1, 3, 8, 20))
@forms
def test_three_forms_are_one_in_float64(heads, causal, rows, timesteps):
    inputs = currents(timesteps, heads, causal, torch.float64)
    module = layer(heads, causal, rows, timesteps).double()
    spike = module.neuron.spike * module.scale
    oracle = (*inputs, module.neuron.levels, spike, heads, causal)
    every_pair = reference.every_pair_of_steps(*oracle)
    steps = module(*inputs)
    collapsed = module(*(x.mean(0) for x in inputs))
    assert steps.shape == (timesteps, N, M, heads * E) and collapsed.shape == (N, M, heads * E)
    assert steps.dtype == collapsed.dtype == torch.float64 and collapsed.any()
    torch.testing.assert_close(steps, every_pair, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(reference.step_by_step(*oracle), every_pair, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(collapsed, every_pair.mean(0), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("timesteps", (1, 4, 32))
@forms
def test_counts_are_bit_equal_in_float32(heads, causal, rows, timesteps):
    """T is a power of two, so that sum and mean decide alike at and beside every level."""
    module = layer(heads, causal, rows, timesteps)
    query, key, value = currents(timesteps, heads, causal, torch.float32)
    query[0] += module.neuron.levels[..., 0] - query.mean(0)  # many of the sums lie at a level or next to it
    mean = reference.time_average(query)
    counts = module.counts(query)
    assert torch.equal(counts, module.counts(mean))
    neuron = CollapsedNeuron(module.neuron.threshold, timesteps)
    assert torch.equal(counts, neuron.counts(mean.flatten(0, 1)).view(mean.shape))
    spikes = reference.query_spikes(query, module.neuron.levels, torch.tensor(1.0))
    assert torch.equal(counts, spikes.sum(0).to(torch.uint8)) and counts.any()
    torch.testing.assert_close(module(query, key, value).mean(0), module(mean, key, value), rtol=1e-4, atol=1e-5)


def test_spikes_of_queries_and_keys_step_by_step_are_another_thing():
    """What (20) is not: products of the spikes of one step, whose average is far from the product of averages."""
    query, key, value = currents(8, 1, False, torch.float64)
    module = layer(1, False, False, 8).double()
    spiking_keys = reference.query_spikes(key, module.neuron.levels, module.neuron.spike)
    right = module(query, spiking_keys, value).mean(0)
    spikes = reference.query_spikes(query, module.neuron.levels, module.neuron.spike * module.scale)
    wrong = (spikes @ spiking_keys.mT @ value).mean(0)
    assert (wrong - right).norm() > 0.5 * right.norm()


@pytest.mark.parametrize("timesteps, levels", ((8, 4), (8, 8), (6, 4)))
def test_collapsed_is_qcfs_attention(timesteps, levels):
    query, key, value = (x[0] for x in currents(1, 3, True, torch.float32))
    theta = 0.7
    module = layer(3, True, False, timesteps, quantization_levels=levels)
    module.neuron = CollapsedNeuron(theta, timesteps, quantization_levels=levels)
    activation = QCFS(levels, theta) if timesteps % levels == 0 else QCFS(timesteps, theta)
    with torch.no_grad():
        rates = activation(query) * module.scale
    expected = reference.attention_products(rates, key, value, 3, True)
    torch.testing.assert_close(module(query, key, value), expected, rtol=1e-5, atol=1e-6)


def test_averages_may_be_given_and_constants_are_not_rounded():
    query, key, value = currents(6, 2, False, torch.float32)
    module = layer(2, False, False, 6)
    averaged = module(query, key.mean(0), value.mean(0))
    assert torch.equal(module(query, key, value), averaged)
    constant = key[:1].expand_as(key)
    assert torch.equal(module(query, constant, value.mean(0)), module(query, key[0], value.mean(0)))


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_half_precision(dtype):
    query, key, value = currents(4, 2, True, dtype)
    module = layer(2, True, False, 4)
    for inputs in ((query, key, value), (query.mean(0), key.mean(0), value.mean(0))):
        out = module(*inputs)
        assert out.dtype == dtype
        torch.testing.assert_close(out.float(), module(*(x.float() for x in inputs)), rtol=2e-2, atol=2e-2)


def test_set_timesteps_state_and_export():
    query, key, value = (x[0] for x in currents(1, 2, True, torch.float32))
    module = layer(2, True, True, 4)
    other = layer(2, True, True, 4)
    other.neuron.threshold.fill_(1.0)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(query, key, value), module(query, key, value))
    program = torch.export.export(module, (query, key, value)).module()
    assert torch.equal(program(query, key, value), module(query, key, value))
    module.set_timesteps(16)
    assert torch.equal(module(query, key, value), layer(2, True, True, 16)(query, key, value))


QUERY = torch.zeros(2, 5, 12)


@pytest.mark.parametrize(
    "inputs, options, error, words",
    [
        ((QUERY[0], QUERY, QUERY), {}, ValueError, "query: expected at least 3 dimensions"),
        ((QUERY, QUERY.double(), QUERY), {}, TypeError, "key: expected dtype"),
        ((QUERY, QUERY[..., :6], QUERY), {}, ValueError, "key: expected"),
        ((QUERY, QUERY, QUERY[:, :4]), {}, ValueError, "value: expected the tokens"),
        ((QUERY, QUERY, QUERY[..., :5]), {}, ValueError, "value: expected features"),
        ((QUERY, QUERY[:, :4], QUERY[:, :4]), dict(causal=True), ValueError, "key: expected as many tokens"),
        ((QUERY.expand(3, 2, 5, 12), QUERY, QUERY), {}, ValueError, "query: expected 4 time-steps"),
        ((QUERY, QUERY.expand(3, 2, 5, 12), QUERY), {}, ValueError, "key: expected 4 time-steps"),
        ((QUERY.clone().requires_grad_(), QUERY, QUERY), {}, RuntimeError, "query requires a gradient"),
        ((QUERY, None, QUERY), {}, TypeError, "key: expected a tensor"),
    ],
)
def test_the_module_refuses(inputs, options, error, words):
    with pytest.raises(error, match=words):
        SpikingAttention(4, 1.0, 4, **options)(*inputs)


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ((0, 1.0, 4), ValueError, "heads"),
        ((1.5, 1.0, 4), TypeError, "heads"),
        ((1, -1.0, 4), ValueError, "threshold"),
        ((1, 1.0, 256), ValueError, "timesteps"),
    ],
)
def test_the_constructor_refuses(arguments, error, words):
    with pytest.raises(error, match=words):
        SpikingAttention(*arguments)


# ---- the operator -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.bfloat16, torch.float64))
@forms
def test_the_cpu_equals_the_reference_where_sums_are_exact(heads, causal, rows, dtype):
    generator = torch.Generator().manual_seed(1)
    for queries, keys in ((9, 7), (90, 90), (150, 150), (0, 0), (3, 200)):
        keys = queries if causal else keys
        query = torch.randint(-8, 24, (N, queries, heads * D), generator=generator).to(dtype) / 4
        key = torch.randint(-1, 2, (N, keys, heads * D), generator=generator).to(dtype)
        value = torch.randint(-2, 3, (N, keys, heads * E), generator=generator).to(dtype)
        levels = functional.levels(4 + torch.rand(heads * D, generator=generator) if rows else 4.0, 4)
        scale = 2.0 ** torch.randint(-1, 2, (heads * D,), generator=generator) if rows else 0.5
        options = dict(scale=scale, heads=heads, causal=causal)
        with pcsnn.use_backend("reference"):
            expected = functional.spiking_attention(query, key, value, levels, **options)
        actual = functional.spiking_attention(query, key, value, levels, **options)
        assert actual.is_contiguous() and actual.dtype == dtype and torch.equal(actual, expected)


def test_the_order_of_products_is_that_of_fewer_multiplications(monkeypatch):
    assert attention.keys_first(49, 49, 32, 32) and not attention.keys_first(49, 49, 64, 64)
    orders, matmul = [], torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: orders.append(tuple(a.shape[-2:])) or matmul(a, b))
    for tokens, first in ((64, (8, 64)), (4, (4, 8))):
        query = torch.zeros(tokens, 8)
        attention.multiply(query, query, query, False)
        assert orders[0] == first
        orders.clear()


@pytest.mark.parametrize(
    "change, error, words",
    [
        (dict(heads=5), ValueError, "query: expected features"),
        (dict(causal=1), TypeError, "causal"),
        (dict(levels=torch.ones(3, 4)), ValueError, "levels: expected one row"),
        (dict(scale=torch.ones(3)), ValueError, "scale"),
        (dict(scale=torch.nan), ValueError, "scale"),
        (dict(levels=torch.tensor([2.0, 1.0])), ValueError, "ascending"),
        (dict(query=torch.zeros(1, 2, 5, 12)), ValueError, "key: expected"),
        (dict(query=torch.zeros(2, 5, 12).int()), TypeError, "query"),
        (dict(repeat=3), ValueError, "repeat"),
        (dict(key=torch.zeros(2, 5, 12, device="meta")), ValueError, "one device"),
    ],
)
def test_the_operator_refuses(change, error, words):
    arguments = dict(query=QUERY, key=QUERY, value=QUERY, levels=functional.levels(1.0, 4), scale=1.0, heads=3) | change
    with pytest.raises(error, match=words):
        functional.spiking_attention(**arguments)


# ---- conversion ---------------------------------------------------------------------------------------------------
class Attention(nn.Module):
    """[N, tokens, 12], written out; `form` says how."""

    def __init__(self, form, activation=lambda: QCFS(4, 1.0)):
        super().__init__()
        self.form = form
        self.q, self.k, self.v, self.out = (nn.Linear(12, 12) for _ in range(4))
        self.q_act, self.k_act, self.v_act, self.last = (activation() for _ in range(4))

    def forward(self, x):
        q, k, v = (
            act(layer(x)).unflatten(-1, (3, 4)).transpose(1, 2)
            for act, layer in ((self.q_act, self.q), (self.k_act, self.k), (self.v_act, self.v))
        )
        if self.form == "queries first":
            out = (q * 0.25) @ k.transpose(-2, -1) @ v
        elif self.form == "keys first":
            out = torch.matmul(q, k.mT @ v) / 4
        elif self.form == "unscaled":
            out = q.matmul(k.permute(0, 1, 3, 2)).matmul(v)
        elif self.form == "causal":
            out = (q @ k.mT).tril() @ v
        elif self.form == "softmax":
            out = (q @ k.mT).softmax(-1) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        return self.last(self.out(out.transpose(1, 2).flatten(2)))


LINEAR = ("queries first", "keys first", "unscaled", "causal")


@pytest.mark.parametrize("form", LINEAR)
def test_linear_attention_converts_exactly_and_is_named(form):
    torch.manual_seed(3)
    net, x = Attention(form).eval(), torch.randn(5, 6, 12)
    for timesteps in (4, 8):
        snn = pcsnn.convert(net, timesteps)
        with torch.no_grad():
            assert torch.equal(snn(x), net(x)) and snn(x).any()
        rows = [row for row in snn.report.rows if row.detail.startswith("linear attention")]
        assert [(row.kind, row.detail) for row in rows] == [
            ("exact", "linear attention: q_act spiking, k_act and v_act averaged over time")
        ]
        assert sum(row.detail == f"matmul within {rows[0].name}" for row in snn.report.rows) == 1
        assert not any(row.kind == "analog" for row in snn.report.rows)


@pytest.mark.parametrize("form", LINEAR)
def test_the_packed_form_averages_keys_and_values(form):
    torch.manual_seed(3)
    net, x = Attention(form).double().eval(), torch.randn(5, 6, 12, dtype=torch.float64)
    snn = pcsnn.convert(net, 8)
    torch.testing.assert_close(packed(snn)(x), snn(x), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("form, analog", (("softmax", "softmax"), ("sdpa", "scaled_dot_product_attention")))
def test_softmax_stays_analog(form, analog):
    torch.manual_seed(3)
    net, x = Attention(form).eval(), torch.randn(5, 6, 12)
    with pytest.raises(ValueError, match="1 operation cannot spike") as error:
        pcsnn.convert(net, 4)
    assert analog in str(error.value) and "attention without softmax" in str(error.value)
    snn = pcsnn.convert(net, 4, strict=False)
    assert [row.name for row in snn.report.rows if row.kind == "analog"] == [analog]
    with torch.no_grad():
        assert torch.equal(snn(x), net(x))


def test_save_load_and_optimize_keep_the_averages(tmp_path):
    torch.manual_seed(3)
    net, x = Attention("keys first").eval(), torch.randn(5, 6, 12)
    snn = pcsnn.convert(net, 4)
    pcsnn.save(snn, tmp_path / "net.safetensors")
    loaded = pcsnn.load(tmp_path / "net.safetensors")
    assert torch.equal(loaded(x), snn(x)) and torch.equal(packed(loaded)(x), packed(snn)(x))
    assert torch.equal(pcsnn.optimize(snn)(x), snn(x))


def test_the_transformer_is_lossless():
    torch.manual_seed(4)
    net = models.linear_transformer_small(activation=lambda: QCFS(4, 3.0))
    with torch.no_grad():
        for _ in range(3):
            net.train()(torch.randn(8, 1, 28, 28))
        net.eval()
        x = torch.randn(3, 1, 28, 28)
        snn = pcsnn.convert(net, 8)
        assert torch.equal(snn(x), net(x))
    assert sum("linear attention" in row.detail for row in snn.report.rows) == 2
    with pytest.raises(ValueError, match="heads: expected a divisor of 64"):
        models.linear_transformer.LinearTransformer(
            64, 1, 3, 8, scale=1.0, in_channels=1, num_classes=2, activation=nn.ReLU
        )
