"""What people give as calibration data: understood, or refused by name before anything is computed."""

import copy
import itertools

import pytest
import torch
from few_steps import few_steps
from tiny_networks import conv, network, one_thread, randomise  # noqa: F401
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import pcsnn
from pcsnn.calibration.check import check_calibration
from pcsnn.conversion import converter
from pcsnn.conversion.tracing.trace import trace
from pcsnn.data import batches as data
from pcsnn.data.batches import Batches
from pcsnn.data.inputs import Input, required_inputs

METHODS = ["max", "paper", "quick", "light", "advanced"]


@pytest.fixture(autouse=True)
def three_steps():
    with few_steps(3):
        yield


def images(count=8, side=8, seed=1):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def convolutional():
    return randomise(nn.Sequential(conv(), nn.ReLU(), conv(4, 4), nn.ReLU(), conv(4, 2)))


def two_inputs():
    return randomise(
        network(
            lambda s, image, other: s.last(s.act(s.one(image) + s.two(other))),
            one=conv(),
            two=conv(),
            act=nn.ReLU(),
            last=conv(4, 2),
        )
    )


def of_dict():
    return randomise(
        network(
            lambda s, batch: s.last(s.act(s.one(batch["image"]) + s.two(batch["other"]))),
            one=conv(),
            two=conv(),
            act=nn.ReLU(),
            last=conv(4, 2),
        )
    )


def _of_list(s, parts):
    one, two = parts
    return s.last(s.act(s.one(one) + s.two(two)))


def of_list():
    return randomise(network(_of_list, one=conv(), two=conv(), act=nn.ReLU(), last=conv(4, 2)))


def convert(net, calibration, method="max"):
    return pcsnn.convert(net, 5, calibration=calibration, method=method, progress=False)


def same(snn, expected):
    for key, value in snn.state_dict().items():
        assert torch.equal(value, expected.state_dict()[key]), key


class Photos(Dataset):
    """Images with labels, one at a time."""

    def __len__(self):
        return 8

    def __getitem__(self, place):
        return images()[place], place


class Named(Photos):
    def __getitem__(self, place):
        return {"input": images()[place], "name": f"photo {place}"}


# Understood


@pytest.mark.parametrize(
    "give",
    [
        lambda x: (x, torch.arange(8)),
        lambda x: [x, torch.arange(8)],
        lambda x: (x, torch.rand(8)),
        lambda x: next(iter(DataLoader(TensorDataset(x, torch.arange(8)), batch_size=8))),
        lambda x: TensorDataset(x, torch.arange(8)),
        lambda x: TensorDataset(x),
        lambda x: Photos(),
        lambda x: Named(),
        lambda x: {"input": x},
        lambda x: [{"input": x, "name": ["a"] * 8}],
        lambda x: [({"input": x}, torch.arange(8))],
        lambda x: DataLoader(Photos(), batch_size=8),
        lambda x: DataLoader(Photos(), batch_size=8, drop_last=True),
        lambda x: iter(DataLoader(Named(), batch_size=8)),
        lambda x: (part for part in [x]),
        lambda x: zip([x], [torch.arange(8)]),
        lambda x: [(x, {"name": "a"})],
        lambda x: map(torch.clone, [x]),
    ],
)
@pytest.mark.parametrize("method", ["max", "paper", "quick"])
def test_the_same_data_in_many_forms(give, method):
    x = images()
    same(convert(convolutional(), give(x), method), convert(convolutional(), [x], method))


@pytest.mark.parametrize(
    "make, give",
    [
        (two_inputs, lambda x, y: [(x, y)]),
        (two_inputs, lambda x, y: [[x, y, torch.zeros(8)]]),
        (two_inputs, lambda x, y: [((x, y), torch.zeros(8))]),
        (two_inputs, lambda x, y: [{"other": y, "image": x}]),
        (two_inputs, lambda x, y: {"other": y, "image": x, "label": 3}),
        (two_inputs, lambda x, y: TensorDataset(x, y)),
        (of_dict, lambda x, y: [{"image": x, "other": y}]),
        (of_dict, lambda x, y: {"image": x, "other": y, "name": "a"}),
        (of_dict, lambda x, y: [({"image": x, "other": y, "label": torch.zeros(8)}, torch.zeros(8))]),
        (of_list, lambda x, y: [(x, y)]),
        (of_list, lambda x, y: [[x, y]]),
        (of_list, lambda x, y: [([x, y], torch.zeros(8))]),
        (of_list, lambda x, y: [(x, y, torch.zeros(8))]),
        (of_list, lambda x, y: iter([[x, y]])),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_networks_with_several_named_dict_and_list_inputs(make, give, method):
    x, y = images(), images(seed=2)
    same(convert(make(), give(x, y), method), convert(two_inputs(), [(x, y)], method))


def test_dicts_and_lists_are_evaluated():
    x, y, labels = images(), images(seed=2), torch.zeros(8, dtype=torch.int64)
    expected = convert(two_inputs(), [(x, y)])
    for make, item in ((of_dict, {"image": x, "other": y}), (of_list, [x, y])):
        snn = convert(make(), [item])
        torch.testing.assert_close(snn(item), expected(x, y), rtol=0, atol=0)
        assert (
            pcsnn.analysis.evaluate(
                convert(randomise(nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.ReLU())), x), (x, labels)
            ).images
            == 8
        )


def test_images_of_dicts_are_counted_as_those_of_tensors():
    """One logit for each image, [N], and weights read anew for each: both need the number of images, not of keys."""
    x, y, labels = images(), images(seed=2), torch.arange(8) % 2
    parts = dict(one=conv(), act=nn.ReLU(), last=nn.Linear(4, 1))
    of_tensors = randomise(
        network(lambda s, image, other: s.last(s.act(s.one(image + other)).mean((2, 3))).squeeze(1), **parts)
    )
    of_keys = randomise(
        network(
            lambda s, batch: s.last(s.act(s.one(batch["image"] + batch["other"])).mean((2, 3))).squeeze(1),
            **copy.deepcopy(parts),
        )
    )
    item = {"image": x, "other": y}
    expected, snn = convert(of_tensors, [(x, y)]), convert(of_keys, [item])
    assert pcsnn.analysis.evaluate(snn, [(item, labels)]) == pcsnn.analysis.evaluate(expected, [(x, y, labels)])
    assert str(pcsnn.analysis.count_operations(snn, [item])) == str(pcsnn.analysis.count_operations(expected, [(x, y)]))
    for net, labelled, calibration in ((of_keys, [(item, labels)], [item]), (of_tensors, [(x, y, labels)], [(x, y)])):
        (row,) = pcsnn.analysis.sweep(
            net, labelled, timesteps=[5], method="max", calibration=calibration, progress=False
        ).rows
        assert row.accuracy == pcsnn.analysis.evaluate(expected, [(x, y, labels)]).accuracy


# Refused


@pytest.mark.parametrize(
    "give",
    [
        lambda x: x[0],
        lambda x: [x[0]],
        lambda x: [(x[0], 1)],
        lambda x: list(x),
        lambda x: iter(list(x)),
        lambda x: (x[0], x[1]),
        lambda x: list(Photos()),
        lambda x: x[0][None][0].clone(),
        lambda x: {"input": x[0]},
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_images_without_a_batch(give, method):
    with pytest.raises(
        ValueError, match=r"calibration: .*(layer 0 takes it as one input without a batch|\[N, \.\.\.\])"
    ):
        convert(convolutional(), give(images()), method)


def test_a_grey_image_and_a_functional_convolution():
    net = network(
        lambda s, x: s.act(torch.nn.functional.conv1d(x, s.weight)), act=nn.ReLU(), weight=torch.ones(2, 1, 3)
    )
    with pytest.raises(ValueError, match="calibration: .*conv1d takes it as one input without a batch"):
        convert(net, torch.ones(1, 9))
    with pytest.raises(ValueError, match="calibration: .*layer 0 takes it as one input without a batch"):
        convert(randomise(nn.Sequential(conv(1), nn.ReLU())), torch.ones(1, 9, 9))


@pytest.mark.parametrize(
    "give, error, words",
    [
        (lambda x: x.double(), ValueError, "calibration: .*float64.*parameters are torch.float32"),
        (lambda x: x.half(), ValueError, "calibration: .*float16.*parameters are torch.float32"),
        (lambda x: (x * 9).byte(), ValueError, "calibration: .*uint8.*parameters are torch.float32"),
        (lambda x: [(x * 9).byte()], ValueError, "calibration: .*uint8.*parameters are torch.float32"),
        (
            lambda x: x[:, :2],
            ValueError,
            "calibration: the network cannot run on the first batch, tensors .8, 2, 8, 8. float32",
        ),
        (lambda x: x.numpy(), TypeError, "calibration: expected a tensor, got ndarray; torch.from_numpy"),
        (lambda x: [x.numpy()], TypeError, "calibration: .*got ndarray in batch 0"),
        (
            lambda x: [{"image": x}],
            TypeError,
            "calibration: .*got dict with keys image where the inputs are input in batch 0",
        ),
        (lambda x: {"image": x}, TypeError, "calibration: .*got dict with keys image where the inputs are input"),
        (lambda x: "photos", TypeError, "calibration: expected tensors, got 'photos'"),
        (lambda x: b"x", TypeError, "calibration: "),
        (lambda x: ["a.png", "b.png"], TypeError, "calibration: .*got str in batch 0"),
        (lambda x: [x.tolist()], TypeError, "calibration: .*got list in batch 0"),
        (lambda x: len, TypeError, "calibration: "),
        (
            lambda x: DataLoader(x, batch_size=9, drop_last=True),
            ValueError,
            "calibration: .*got none, since its DataLoader drops",
        ),
        (lambda x: [torch.tensor(1.0)], ValueError, r"calibration: expected tensors \[N, ...\]"),
    ],
)
@pytest.mark.parametrize("method", ["max", "light"])
def test_other_objects_are_refused_by_name(give, error, words, method):
    with pytest.raises(error, match=words):
        convert(convolutional(), give(images()), method)


# Data that are wrong later on


@pytest.mark.parametrize(
    "third, words",
    [
        (images() * float("nan"), "NaN or infinity in batch 2"),
        (images() / 0, "NaN or infinity in batch 2"),
        (images()[:, :2], "the network cannot run on (batch 2|inputs of this shape), tensors .*, 2, 8, 8"),
        (images()[0], "cannot run on|without a batch|reaches"),
        (images().double(), "float64.*parameters are torch.float32"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_the_third_batch_is_wrong(third, words, method):
    if third.dim() == 3 and method in ("max", "paper"):
        pytest.skip("a single image is noticed in the first batch only")
    with pytest.raises(ValueError, match=f"calibration: .*{words}"):
        convert(convolutional(), [images(), images(), third], method)


@pytest.mark.parametrize("method", METHODS)
def test_endless_data(method, monkeypatch):
    monkeypatch.setattr(converter, "LARGEST_CALIBRATION", 2000)
    if method in ("max", "paper"):
        with pytest.raises(ValueError, match="calibration: expected data that ends, and read 2000 inputs"):
            convert(convolutional(), itertools.repeat(images()), method)
        return
    read = []
    convert(convolutional(), (read.append(1) or images() for _ in itertools.count()), method)
    assert len(read) <= 128


def test_an_iterator_that_does_not_fit_in_memory(monkeypatch):
    monkeypatch.setattr(data, "LARGEST_REPLAY", 10 * images().nbytes)
    with pytest.raises(ValueError, match="calibration: an iterator that can be read only once"):
        convert(convolutional(), (images() for _ in range(11)), "paper")
    convert(convolutional(), [images() for _ in range(11)], "paper")


@pytest.mark.parametrize("method", METHODS)
def test_what_a_loader_raises_comes_out_as_it_is(method):
    class Broken(IterableDataset):
        def __iter__(self):
            yield images()
            raise LookupError("no such file")

    with pytest.raises(LookupError, match="no such file"):
        convert(convolutional(), DataLoader(Broken(), batch_size=None), method)


def test_images_of_changing_size():
    x = [images(4, side) for side in (8, 6, 8, 9)]
    for method in METHODS:
        assert convert(convolutional(), x, method)(x[1]).isfinite().all()


# Batches that must not be cut


def _clips(s, x):
    return s.last(s.act(s.first(x)).mean((2, 3)).view(-1, 4, 4).mean(1))


def _centred(s, x):
    return s.last(s.act(s.first(x - x.mean(0, keepdim=True))).mean((2, 3)))


def _shifted(s, x):
    return s.last(s.act(s.first(torch.cat([x[1:], x[:1]]))).mean((2, 3)))


def _fixed(s, x):
    return s.last(s.act(s.first(x)).view(12, -1)[:, :4])


MIXING = {"clips": _clips, "centred": _centred, "shifted": _shifted, "fixed": _fixed}


def mixing(name):
    return randomise(network(MIXING[name], first=conv(), act=nn.ReLU(), last=nn.Linear(4, 2)))


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("method", METHODS)
def test_batches_stay_whole_where_a_network_needs_it(name, method):
    net, batches = mixing(name), [images(12, seed=seed) for seed in range(4)]
    snn = convert(net, batches, method)
    assert (snn(batches[0]) - net(batches[0])).norm() < 0.5 * net(batches[0]).norm()


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_a_batch_is_found(name):
    graph = trace(mixing(name))
    batches = Batches([images(12)], required_inputs(graph), torch.device("cpu"))
    check_calibration(batches, graph)
    assert batches.whole
    one = Batches(images(60)[:12], required_inputs(graph), torch.device("cpu"))
    check_calibration(one, graph)
    assert [len(batch[0]) for batch in one] == [12]


@pytest.mark.parametrize("count", [1, 2, 40])
def test_independent_inputs_are_cut(count):
    for make, x in ((convolutional, images(count)), (of_list, None)):
        graph = trace(make())
        given = x if x is not None else [[images(count), images(count, seed=2)]]
        batches = Batches(given, required_inputs(graph), torch.device("cpu"))
        check_calibration(batches, graph)
        assert not batches.whole


def test_a_mixing_tensor_of_many_is_one_batch():
    graph = trace(mixing("clips"))
    batches = Batches(images(44), required_inputs(graph), torch.device("cpu"))
    check_calibration(batches, graph)
    assert [len(batch[0]) for batch in batches] == [44] and batches.first()[0].shape[0] == 44


def test_inputs_of_a_network():
    assert required_inputs(trace(two_inputs())) == [Input("image"), Input("other")]
    assert required_inputs(trace(of_dict())) == [Input("batch", ("image", "other"))]
    assert required_inputs(trace(of_list())) == [Input("parts", (0, 1))]
