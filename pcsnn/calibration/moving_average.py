"""The paper's calibration (15), (17): shifts and amplitudes by moving averages of differences to the float network."""

import copy
from dataclasses import dataclass, replace

import torch

from pcsnn.calibration.lockstep import student_of
from pcsnn.calibration.maxima import recorded_maxima
from pcsnn.calibration.method import Method, check_between, register
from pcsnn.calibration.precision import single, widened
from pcsnn.data.batches import show
from pcsnn.distributed import collectives
from pcsnn.tensors.arithmetic import per_channel


@dataclass(frozen=True)
class MovingAverageOptions:
    """momentum: the share of the old average that each batch leaves."""

    momentum: float = 0.99

    def __post_init__(self):
        check_between(self, 0, 1, "momentum")


def _clip(module, theta):
    """Make an activation module saturate at theta, as the teacher's ReLU does."""

    def hook(module, arguments, output):
        return torch.minimum(output, per_channel(theta, output.dim()))

    return module.register_forward_hook(hook)


class _Watch:
    """Means of the input z and output a of one module, by channel, at its last call, over `count` elements each."""

    def __init__(self, module, place):
        self._place = place
        self.z = self.a = self.count = None
        self._hook = module.register_forward_hook(self._see)

    def _see(self, module, arguments, output):
        self.z = self._place.reduce(arguments[0], torch.mean).double()
        self.a = self._place.reduce(output, torch.mean).double()
        self.count = self._place.rows(output).shape[1]

    def remove(self):
        self._hook.remove()


@torch.no_grad()
def paper(task, options):
    """Method "paper": recorded maxima, then one pass over the data with teacher and student side by side.

    Teacher: the source, its ReLU clipped at theta. Student: the spiking network at T. After every batch, in every
    layer, psi <- 0.99 psi + 0.01 mean(z_teacher - z_student), then phi <- 0.99 phi + 0.01 mean(a_teacher - a_student).
    Several processes: batch i is batch i of all of them together, of those that have as many.
    """
    settings = recorded_maxima(task)
    with widened(task.network):
        _move(task, settings, options.momentum)
    return settings


def _move(task, settings, momentum):
    """Adjust `settings` batch by batch."""
    own, device = task.kept | settings, task.batches.device
    teacher = copy.deepcopy(task.network)
    neurons = {place.name: own[place.name].neuron(place, task.timesteps).to(device) for place in task.places}
    student = student_of(task.network, neurons)
    watches = []
    for place in task.open:
        original, neuron = teacher.get_submodule(place.name), neurons[place.name]
        if place.quantization_levels is None:
            _clip(original, torch.as_tensor(own[place.name].threshold, device=device))
        watches.append((place.name, neuron, _Watch(original, place), _Watch(neuron, place)))
    psi = dict.fromkeys(settings, 0.0)
    phi = dict(psi)
    with show(task.batches, "calibrating", task.progress) as bar:
        for batch in collectives.in_step(bar):
            if batch is not None:
                teacher(*single(batch))
                student(*single(batch))
            seen = [0 if batch is None else taught.count for *_, taught, _ in watches]
            currents = collectives.means([taught.z - learnt.z for *_, taught, learnt in watches], seen)
            rates = collectives.means([taught.a - learnt.a for *_, taught, learnt in watches], seen)
            for (name, neuron, *_), current, rate in zip(watches, currents, rates):
                psi[name] = momentum * psi[name] + (1 - momentum) * current
                phi[name] = momentum * phi[name] + (1 - momentum) * rate
                settings[name] = _shifted(own[name], psi[name], phi[name])
                neuron.adjust(settings[name].offset, settings[name].amplitude)


def _shifted(settings, psi, phi):
    """The settings that a place begins with, shifted by psi, its amplitude by phi."""
    theta = torch.as_tensor(settings.threshold, dtype=torch.float64, device=phi.device)
    worth = theta if settings.amplitude is None else settings.amplitude
    amplitude = torch.where(theta == torch.inf, 0.0, worth + phi)
    return replace(settings, offset=settings.offset + psi, amplitude=amplitude)


register(Method("paper", paper, effort=2, options=MovingAverageOptions(), takes_signed=False, keeps_lossless=False))
