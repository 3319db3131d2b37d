"""A network in the forms that gpu.py compares, on the same weights and images, each result checked once."""

import copy
import functools

import torch

import pcsnn
from lib import checks, gpu_clock, workloads
from lib.gpu_rows import all_right
from lib.gpu_setting import TIMESTEPS
from pcsnn import baselines

LARGEST = 256
EXAMPLES = 8  # images that optimise sets ranges by
SAMPLE = 2  # images of a batch that the CPU computes too
# relative difference of outputs from float32's; 34 layers in bfloat16 are 0.04 apart, and tf32 has three bits more
ROUNDING = {"float32": checks.ROUNDING, "tf32": 2e-2, "bfloat16": 0.1}
FLIPS = 1e-3  # share of counts that sums in another order, rounded to bfloat16, may decide otherwise


def alike(network, images, flips):
    """Each layer, on what it is fed, must fire what the reference does; a share `flips` of counts may be one apart.

    Comparing outputs alone would say little: one neuron decided otherwise by rounding changes others behind it.
    """
    wrong = values = 0
    bad, expected = set(), {}

    def before(name):
        def hook(module, arguments):
            with pcsnn.use_backend("reference"):  # on copies: neurons may write over their current
                expected[name] = module.forward(*(None if value is None else value.clone() for value in arguments))

        return hook

    def after(name):
        def hook(module, arguments, output):
            nonlocal wrong, values
            due = expected.pop(name)
            if output.shape != due.shape or output.dtype != due.dtype:
                bad.add(name)
            elif output.dtype == torch.uint8:
                apart = (output.int() - due.int()).abs()
                wrong, values = wrong + (apart != 0).sum().item(), values + due.numel()
                bad.update({name} if flips and apart.max() > 1 else ())
            elif flips:
                bad.update({name} if checks.difference(output.float(), due.float()) > ROUNDING["bfloat16"] else ())
            else:
                wrong, values = wrong + (output != due).sum().item(), values + due.numel()

        return hook

    hooks = []
    synapses = pcsnn.nn.SynapticConv2d, pcsnn.nn.SynapticLinear
    neurons = {name for name, _ in network.neurons()}
    for name, module in network.network.named_modules():
        if name in neurons or isinstance(module, synapses):
            hooks += [module.register_forward_pre_hook(before(name)), module.register_forward_hook(after(name))]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return checks.Verdict(
        bool(values) and not bad and wrong <= flips * values,
        f"{wrong} of {values} differ from the reference layer by layer"
        f"{', too far in ' + ', '.join(sorted(bad)) if bad else ''}",
    )


def near(output, expected, dtype):
    """The output must be float32's up to the rounding of `dtype`."""
    apart = checks.difference(output.float(), expected)
    return checks.Verdict(apart <= ROUNDING[dtype], f"{dtype} {apart:.0e} from float32")


class Forms:
    """A model of workloads.py, converted at T = 32; in a dry run a small one on few small images."""

    def __init__(self, model, setting):
        self.model, self.setting, self._made = model, setting, {}
        name, size = setting.small((model, None), ("cifar_resnet20", 8))
        self.load = workloads.load(name, setting.small(LARGEST, 2), size)
        self.host = self.load.convert(TIMESTEPS)
        self.relu = self.load.relu_network().to(setting.device)
        self.snn = copy.deepcopy(self.host).to(setting.device)

    def images(self, batch, dtype=torch.float32):
        """The first `batch` images on the device."""
        return workloads.in_layout(self.load.images[:batch].to(self.setting.device, dtype))

    def form(self, name, batch):
        """(call, verdict) of a form in FORMS at a batch size, built and checked once."""
        return self._once((name, batch), lambda: FORMS[name](self, batch))

    def _once(self, key, make):
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def outputs(self, batch):
        """Those of the float32 ReLU network."""
        return self.relu(self.images(batch))

    def optimised(self, weights, first_last=False):
        """(on the CPU, on the device): optimised there, moved here."""

        def make():
            host = pcsnn.optimize(self.host, weights, example_inputs=self.load.images[:EXAMPLES], first_last=first_last)
            return host, copy.deepcopy(host).to(self.setting.device)

        return self._once(("optimised", weights, first_last), make)


def tf32(call):
    """The same call with convolutions in tf32."""

    def run():
        torch.backends.cudnn.allow_tf32 = True
        try:
            return call()
        finally:
            torch.backends.cudnn.allow_tf32 = False

    return run


def _relu(forms, batch, dtype):
    network = copy.deepcopy(forms.relu).bfloat16() if dtype == "bfloat16" else forms.relu
    images = forms.images(batch, torch.bfloat16 if dtype == "bfloat16" else torch.float32)

    def call():
        return network(images)

    call = tf32(call) if dtype == "tf32" else call
    if dtype != "float32":
        return call, near(call(), forms.outputs(batch), dtype)
    few = images[:EXAMPLES]
    unfolded = copy.deepcopy(forms.load.network).to(few.device)
    return call, checks.close(call()[:EXAMPLES], unfolded(few), "the network before folding")


def _compiled(forms, batch):
    """torch.compile of the bfloat16 ReLU network; in a dry run its graph alone, without code."""
    network = torch.compile(
        copy.deepcopy(forms.relu).bfloat16(),
        fullgraph=True,
        dynamic=False,
        backend=forms.setting.small("inductor", "eager"),
    )
    images = forms.images(batch, torch.bfloat16)
    verdict = near(network(images), forms.outputs(batch), "bfloat16")
    return (lambda: network(images)), checks.Verdict(verdict.right, f"torch.compile {verdict.words}")


def _collapsed(forms, batch, dtype):
    network = copy.deepcopy(forms.snn).bfloat16() if dtype == "bfloat16" else forms.snn
    images = forms.images(batch, torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    in_dtype = tf32 if dtype == "tf32" else lambda call: call
    return in_dtype(lambda: network(images)), in_dtype(lambda: alike(network, images, 0))()


def _bfloat16(forms, batch):
    """bfloat16 weights, but for the first layer, whose float32 convolution is in tf32, as is torch's default."""
    _, network = forms.optimised("bfloat16")
    images = forms.images(batch)
    return tf32(lambda: network(images)), tf32(lambda: alike(network, images, FLIPS))()


def as_on_cpu(network, images, host, host_images, sample):
    """Every layer of `network` must fire, for the images `sample` of its batch, what that of `host` does, bit for bit.

    The outputs may be apart by what float32 can do to a head behind the counts: an average of rates, whose terms are
    not negative, and a linear layer of K products, each summed in an order of its own. Without such a head they are the
    same.
    """
    heads = [module for module in host.network.modules() if isinstance(module, torch.nn.Linear)]
    read = []
    hooks = [head.register_forward_pre_hook(lambda module, arguments: read.append(arguments[0])) for head in heads]
    due, expected = checks.layer_counts(host, host_images)
    for hook in hooks:
        hook.remove()
    counts, output = checks.layer_counts(network, images)
    if counts.keys() != due.keys():
        return checks.Verdict(False, f"layers: expected {', '.join(due)}, got {', '.join(counts)}")
    wrong = sum((counts[name][sample].cpu() != due[name]).sum().item() for name in due)
    values = sum(part.numel() for part in due.values())
    words = f"{wrong} of {values} counts differ from the CPU's"
    output = output[sample].cpu()
    if not heads:
        verdict = checks.same_bits(output, expected, "the CPU's")
        return checks.Verdict(wrong == 0 and verdict.right, f"{words}; outputs {verdict.words}")
    (head,) = heads
    averaged = next(reversed(due.values()))[0, 0].numel()
    most = _head_rounding(head, read[0], averaged)
    apart = ((output.double() - expected.double()).abs() / most).max().item()  # NaN is not right either
    return checks.Verdict(
        wrong == 0 and apart <= 1,
        f"{words}; outputs {checks.difference(output, expected):.0e} apart, "
        f"{apart:.1g} of what float32 may make of the head",
    )


def _head_rounding(head, values, averaged):
    """How far two float32 evaluations may be apart: of averages of `averaged` rates, and a linear layer behind them."""
    terms = values.double().abs() @ head.weight.double().abs().t()
    if head.bias is not None:
        terms += head.bias.double().abs()
    return 2 * (head.in_features + 1 + averaged + 2) * torch.finfo(torch.float32).eps / 2 * terms


def _int8(forms, batch):
    """int8 weights, first and last layer too: whole numbers up to the last counts, the same on every machine."""
    host, network = forms.optimised("int8", True)
    images = forms.images(batch)
    sample = sorted({0, len(images) - 1})[:SAMPLE]
    return (lambda: network(images)), as_on_cpu(network, images, host, forms.load.images[:batch][sample], sample)


def _replayed(forms, batch, name):
    """Another form as a CUDA graph, whose replay must give the same bits again."""
    call, verdict = forms.form(name, batch)
    expected = call().clone()
    replay = gpu_clock.captured(call, forms.setting)
    replay().zero_()
    return replay, all_right(verdict, checks.same_bits(replay(), expected, "the call that it replays"))


def _serial(forms, batch):
    network, images = baselines.serial(forms.snn), forms.images(batch)
    return (lambda: network(images)), checks.serial_first_layer(network, forms.snn, images)


FORMS = {
    **{f"relu-{dtype}": functools.partial(_relu, dtype=dtype) for dtype in ROUNDING},
    "compiled": _compiled,
    "compiled-graph": functools.partial(_replayed, name="compiled"),
    **{f"collapsed-{dtype}": functools.partial(_collapsed, dtype=dtype) for dtype in ROUNDING},
    "bfloat16": _bfloat16,
    "int8": _int8,
    "int8-graph": functools.partial(_replayed, name="int8"),
    "serial": _serial,
}


@functools.cache
def forms_of(model, setting):
    """The forms of a model, made once."""
    return Forms(model, setting)
