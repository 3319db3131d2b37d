"""SpikingJelly's training-free conversion, for comparison: its RateCodingRecipe and IF nodes."""

import contextlib
import copy
import io

import torch
from torch import nn

from lib.competitors import Unavailable
from pcsnn.models.cifar_resnet import SubsampledShortcut

INSTALL = "pip install --no-deps spikingjelly==2.0.0; pip install loguru requests"
BATCH = 64
OPTIONS = {"spikingjelly": {}, "spikingjelly-half": {"channel_wise": True, "half_threshold": True}}


@contextlib.contextmanager
def _silence():
    """It prints when it is imported and when it converts."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _as_convolution(shortcut, channels):
    """The same shortcut as a fixed 1x1 convolution, which its converter accepts."""
    convolution = nn.Conv2d(channels, channels + 2 * shortcut.new, 1, shortcut.stride, bias=False)
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.weight[range(shortcut.new, shortcut.new + channels), range(channels)] = 1
    return convolution


def without_padding(network):
    """A copy that computes the same without F.pad, which its converter refuses."""
    copied = copy.deepcopy(network)
    for name, module in network.named_modules():
        if isinstance(module, SubsampledShortcut):
            channels = network.get_submodule(name.rpartition(".")[0]).conv1.in_channels
            copied.set_submodule(name, _as_convolution(module, channels))
    return copied


class RateCoded:
    """A network converted by RateCodingRecipe with the options of `row`, a key of OPTIONS.

    Raises:
        Unavailable: SpikingJelly is not installed or refuses the network.
    """

    def __init__(self, row, network, calibration):
        try:
            with _silence():
                from spikingjelly.activation_based import ann2snn, functional
        except ImportError as error:
            raise Unavailable(f"{error} ({INSTALL})") from None
        self._functional = functional
        try:
            with _silence():
                recipe = ann2snn.RateCodingRecipe(dataloader=calibration.split(BATCH), **OPTIONS[row])
                self.network = ann2snn.Converter(recipe=recipe).convert(without_padding(network)).eval()
        except Exception as error:  # whatever its converter says is shown
            raise Unavailable(f"its converter refuses: {error}") from None
        functional.set_step_mode(self.network, "s")

    @torch.no_grad()
    def outputs(self, images, timesteps):
        """{T: the mean output of the first T steps, [N, classes]} for every T in `timesteps`, in one run."""
        self._functional.reset_net(self.network)
        total, found = 0.0, {}
        for step in range(1, max(timesteps) + 1):
            total = total + self.network(images)
            if step in timesteps:
                found[step] = total / step
        return found
