"""Agreement of gpu.py: the counts of a network on the GPU against those on the CPU."""

import copy

import pcsnn
from lib import checks
from lib.gpu_forms import EXAMPLES, forms_of
from lib.gpu_rows import Prepared, Row

IMAGES = 2
FLIPS = 1e-3  # share of counts so close to a level that float32 sums in another order may decide them


def _prepared(wrong, neurons, right):
    return Prepared(checks.Verdict(right, f"{wrong} of {neurons} counts differ"), {}, lambda seconds: wrong)


def _compare(network, images, host, host_images):
    """(counts that differ, counts) between two networks of the same layers."""
    found, _ = checks.layer_counts(network, images)
    expected, _ = checks.layer_counts(host, host_images)
    if found.keys() != expected.keys():
        raise ValueError(f"layers: expected {', '.join(expected)}, got {', '.join(found)}")
    return (
        sum((found[name].cpu() != expected[name]).sum().item() for name in expected),
        sum(part.numel() for part in expected.values()),
    )


def _float32(model):
    """Every layer fed what the CPU's layers fire: else one flip makes others behind it."""

    def build(setting):
        forms = forms_of(model, setting)
        network, images = copy.deepcopy(forms.snn), forms.images(IMAGES)
        counts, _ = checks.layer_counts(forms.host, forms.load.images[:IMAGES])
        wrong = 0

        def compare(name):
            def hook(neuron, arguments, output):
                nonlocal wrong
                expected = neuron.rates_of(counts[name].to(output.device), output.dtype)
                wrong += (output != expected).sum().item()
                return expected

            return hook

        for name, neuron in network.neurons():
            neuron.register_forward_hook(compare(name))
        network(images)
        neurons = sum(part.numel() for part in counts.values())
        return _prepared(wrong, neurons, wrong <= FLIPS * neurons)

    return build


def _int8(model):
    def build(setting):
        forms = forms_of(model, setting)
        host, network = forms.optimised("int8", True)
        wrong, neurons = _compare(network, forms.images(IMAGES), host, forms.load.images[:IMAGES])
        return _prepared(wrong, neurons, wrong == 0)

    return build


def _optimised_there(model):
    """Optimised where it runs, and compared with itself moved to the CPU: the weights are the same."""

    def build(setting):
        forms = forms_of(model, setting)
        network = pcsnn.optimize(forms.snn, "int8", example_inputs=forms.images(EXAMPLES), first_last=True)
        host = copy.deepcopy(network).to("cpu")
        wrong, neurons = _compare(network, forms.images(IMAGES), host, forms.load.images[:IMAGES])
        return _prepared(wrong, neurons, wrong == 0)

    return build


def rows(setting, models):
    """Of the first model alone: float32 layer by layer, int8 exactly, int8 optimised on the GPU."""
    model = (models or ("resnet34",))[0]
    return [
        Row(f"{model} float32, fed the CPU's counts: counts unlike the CPU's", "counts", _float32(model), True),
        Row(f"{model} int8: counts unlike the CPU's", "counts", _int8(model), True),
        Row(f"{model} int8, optimised on the GPU: counts unlike the CPU's", "counts", _optimised_there(model), True),
    ]
