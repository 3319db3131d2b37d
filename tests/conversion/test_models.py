import pytest
import torch
from lib import data, networks
from torch import fx, nn

import pcsnn
from pcsnn import models

# name: parameters, keys of the state dict, activation places, image size, classes
PUBLISHED = {
    "cifar_resnet20": (269_722, 116, 19, 32, 10),
    "cifar_resnet32": (464_154, 188, 31, 32, 10),
    "cifar_resnet44": (658_586, 260, 43, 32, 10),
    "cifar_resnet56": (853_018, 332, 55, 32, 10),
    "resnet18": (11_689_512, 122, 17, 224, 1000),
    "resnet34": (21_797_672, 218, 33, 224, 1000),
    "resnet50": (25_557_032, 320, 49, 224, 1000),
    "resnet101": (44_549_160, 626, 100, 224, 1000),
    "vgg16": (138_357_544, 32, 15, 224, 1000),
    "vgg16_bn": (138_365_992, 97, 15, 224, 1000),
}
RESNET_KEYS = {"conv1.weight": (64, 3, 7, 7), "bn1.running_var": (64,), "layer2.0.downsample.1.num_batches_tracked": ()}
KEYS = {
    "cifar_resnet20": {
        "conv1.weight": (16, 3, 3, 3),
        "bn1.weight": (16,),
        "layer1.2.bn2.running_mean": (16,),
        "layer2.0.conv1.weight": (32, 16, 3, 3),
        "layer3.2.conv2.weight": (64, 64, 3, 3),
        "linear.weight": (10, 64),
        "linear.bias": (10,),
    },
    "cifar_resnet56": {"layer3.8.conv2.weight": (64, 64, 3, 3), "linear.bias": (10,)},
    "resnet18": {
        **RESNET_KEYS,
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer4.1.conv2.weight": (512, 512, 3, 3),
        "fc.weight": (1000, 512),
    },
    "resnet34": {**RESNET_KEYS, "layer3.5.bn2.weight": (256,), "fc.bias": (1000,)},
    "resnet50": {
        **RESNET_KEYS,
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer4.2.conv3.weight": (2048, 512, 1, 1),
        "fc.weight": (1000, 2048),
    },
    "resnet101": {**RESNET_KEYS, "layer3.22.bn3.bias": (1024,), "layer4.0.conv2.weight": (512, 512, 3, 3)},
    "vgg16": {
        "features.0.weight": (64, 3, 3, 3),
        "features.28.bias": (512,),
        "classifier.0.weight": (4096, 25088),
        "classifier.6.bias": (1000,),
    },
    "vgg16_bn": {
        "features.1.running_mean": (64,),
        "features.40.weight": (512, 512, 3, 3),
        "features.41.running_var": (512,),
        "classifier.3.weight": (4096, 4096),
    },
}


def build_without_memory(name, **options):
    with torch.device("meta"):
        return getattr(models, name)(**options).eval()


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_of_parameters_and_keys_are_the_published_ones(name):
    parameters, keys, *_ = PUBLISHED[name]
    model = build_without_memory(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert len(model.state_dict()) == keys


@pytest.mark.parametrize("name", KEYS)
def test_keys_and_shapes_are_the_published_ones(name):
    state = build_without_memory(name).state_dict()
    assert {key: tuple(state[key].shape) for key in KEYS[name]} == KEYS[name]


def test_published_cifar_weights_without_batch_counters_load_strictly():
    source = models.cifar_resnet20()
    published = {key: value for key, value in source.state_dict().items() if "num_batches_tracked" not in key}
    assert len(published) == 97
    models.cifar_resnet20().load_state_dict(dict(published), strict=True)


@pytest.mark.parametrize("name", PUBLISHED)
def test_shape_of_the_output_and_of_a_traced_network(name):
    _, _, _, size, classes = PUBLISHED[name]
    model = build_without_memory(name)
    images = torch.empty(2, 3, size, size, device="meta")
    assert model(images).shape == (2, classes)
    assert fx.symbolic_trace(model)(images).shape == (2, classes)


@pytest.mark.parametrize("name", [*PUBLISHED, "vgg_small", "linear_transformer_small"])
def test_channels_and_classes_can_be_chosen(name):
    model = build_without_memory(name, in_channels=2, num_classes=7)
    assert model(torch.empty(1, 2, 64, 64, device="meta")).shape == (1, 7)


@pytest.mark.parametrize("name,size", [("cifar_resnet20", 32), ("vgg_small", 28), ("linear_transformer_small", 28)])
def test_traced_network_computes_the_same(name, size):
    model = getattr(models, name)(in_channels=1).eval()
    images = torch.randn(3, 1, size, size)
    assert torch.equal(fx.symbolic_trace(model)(images), model(images))


class Activation(nn.Module):
    def forward(self, x):
        return x.relu()


class LeafTracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        return isinstance(module, Activation) or super().is_leaf_module(module, name)


@pytest.mark.parametrize("name", [*PUBLISHED, "vgg_small", "linear_transformer_small"])
def test_every_activation_place_has_its_own_module_and_uses_it_once(name):
    places = PUBLISHED[name][2] if name in PUBLISHED else {"vgg_small": 6, "linear_transformer_small": 17}[name]
    model = build_without_memory(name, activation=Activation)
    calls = [model.get_submodule(node.target) for node in LeafTracer().trace(model).nodes if node.op == "call_module"]
    activations = [module for module in calls if isinstance(module, Activation)]
    assert len(activations) == len(set(activations)) == places
    assert not any(isinstance(module, nn.ReLU) for module in model.modules())


def test_shortcut_subsamples_and_pads_with_zero_channels():
    block = models.cifar_resnet20().layer2[0]
    x = torch.randn(2, 16, 8, 8)
    out = block.shortcut(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert out.shape == (2, 32, 4, 4) and not out[:, :8].any() and not out[:, 24:].any()


def test_block_adds_its_shortcut_before_the_second_activation():
    block = models.cifar_resnet20().layer1[0].eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn(1, 16, 4, 4)
    assert torch.equal(block(x), x.relu())


def test_mobilenet_has_the_published_keys_and_sizes():
    model = models.mobilenet_v2()
    state = model.state_dict()
    assert len(state) == 314 and sum(parameter.numel() for parameter in model.parameters()) == 3_504_872
    assert state["features.0.0.weight"].shape == (32, 3, 3, 3) and state["features.18.1.running_mean"].shape == (1280,)
    assert state["features.2.conv.1.0.weight"].shape == (96, 1, 3, 3) and state["classifier.1.weight"].shape == (
        1000,
        1280,
    )
    model.eval()
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 1000)
    assert [block.adds for block in model.features[1:6]] == [False, False, True, False, True]


@pytest.mark.parametrize("name,size", [("cifar_resnet20", 16), ("vgg_small", 28)])
def test_gradients_reach_every_weight_and_threshold(name, size):
    torch.manual_seed(0)
    model = getattr(models, name)(in_channels=1, activation=lambda: pcsnn.nn.QCFS(4, 2.0))
    model(torch.randn(4, 1, size, size)).logsumexp(1).sum().backward()
    learnt = {key: parameter.grad for key, parameter in model.named_parameters()}
    assert all(gradient.isfinite().all() for gradient in learnt.values())
    assert all(gradient.any() for key, gradient in learnt.items() if key.endswith(("weight", "threshold")))
    assert (
        sum(key.endswith("threshold") for key in learnt)
        == {"cifar_resnet20": 19, "vgg_small": 6, "linear_transformer_small": 17}[name]
    )


@pytest.mark.parametrize(
    "name, activation", [*((name, "qcfs") for name in networks.QCFS), *((name, "relu") for name in networks.RELU)]
)
def test_shipped_checkpoint_reaches_its_stated_accuracy(name, activation):
    path = networks.checkpoint_path(name, activation)
    assert path.stat().st_size <= 4_000_000
    network, metadata = networks.load(path)
    least = 0.9 if activation == "relu" or name == "transformer" else 0.92
    assert metadata["model"] == name and metadata["accuracy"] >= least
    assert (metadata["levels"] is None) == (activation == "relu")
    images, labels = data.fashion_mnist("t10k")
    assert images.shape == (10_000, 1, 28, 28)
    with torch.no_grad():
        logits = torch.cat([network(data.normalise(part, data.FASHION_MNIST)) for part in images[:1000].split(250)])
    assert (logits.argmax(1) == labels[:1000]).float().mean() == pytest.approx(metadata["accuracy"], abs=0.025)
