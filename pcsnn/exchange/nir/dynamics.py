"""Nodes of NIR that have a state, step by step: neurons that leak, are set to a potential, give potentials; delays."""

import numpy as np
import torch
from torch import nn

from pcsnn.exchange.nir.fields import Metadata, spread
from pcsnn.exchange.nir.neurons import FIRES, RESETS, reset_values, said, share_at_first, thresholds

LEAKY = ("LIF", "CubaLIF", "LI", "CubaLI")
NEURONS = ("IF", "I", *LEAKY)
MOST_STEPS = 4096  # of a delay


class Membrane(nn.Module):
    """Neurons with a potential, a step a call, whose state is passed: (input, state) -> (what they send, state).

    i += synapse (w_in x - i), or i = x without a synapse of their own; v += gain i + leak (rest - v); where a threshold
    is, a spike is sent where v >= threshold (`inclusive`) or v > threshold, and v loses the threshold (`reset` None) or
    is set to `reset`. Without a threshold v is sent. Values are tensors [*shape].
    """

    def __init__(
        self, *, gain, start, leak=None, rest=None, threshold=None, reset=None, inclusive=False, synapse=None, w_in=None
    ):
        super().__init__()
        given = dict(
            gain=gain, start=start, leak=leak, rest=rest, threshold=threshold, reset=reset, synapse=synapse, w_in=w_in
        )
        for name, values in given.items():
            self.register_buffer(name, None if values is None else torch.from_numpy(np.array(values, np.float64)))
        self.inclusive = inclusive

    def first(self, x):
        """The state before the first step, for inputs like x [N, *shape]."""
        return self.start.expand(x.shape), torch.zeros_like(x)

    def forward(self, x, state):
        potential, current = state
        current = x if self.synapse is None else current + self.synapse * (self.w_in * x - current)
        step = self.gain * current
        if self.leak is not None:
            step = step + self.leak * (self.rest - potential)
        potential = potential + step
        if self.threshold is None:
            return potential, (potential, current)
        fired = potential >= self.threshold if self.inclusive else potential > self.threshold
        spikes = fired.to(x.dtype)
        if self.reset is None:
            potential = torch.where(fired, potential - self.threshold, potential)
        else:
            potential = torch.where(fired, self.reset, potential)
        return spikes, (potential, current)


class Delayed(nn.Module):
    """What came `steps` time-steps before, an integer for each element [*shape]; zero before there was anything."""

    def __init__(self, steps):
        super().__init__()
        self.register_buffer("steps", torch.from_numpy(steps))

    def first(self, x):
        """What came before, [most steps + 1, N, *shape]: nothing."""
        return x.new_zeros(int(self.steps.max()) + 1, *x.shape)

    def forward(self, x, state):
        state = torch.cat([x.unsqueeze(0), state[:-1]])
        return state.gather(0, self.steps.expand(1, *x.shape)).squeeze(0), state


def dynamic(node, shape, dt, shift, reset):
    """The module of a node that has a state, which gets and gives [N, *shape]; None where it has none.

    reset: "subtract" or "zero", for neurons whose node does not say; None: IF neurons with v_reset = 0 lose their
        threshold, all others are set to v_reset.
    """
    if node.kind == "Delay":
        return _delay(node, shape, dt)
    if node.kind not in NEURONS:
        return None
    if node.kind == "IF":
        return _fire(node, shape, dt, shift, reset)
    values = {"gain": spread(node, "r", shape) * dt}
    if node.kind in LEAKY:
        name = "tau_mem" if node.kind.startswith("Cuba") else "tau"
        leak = _share(node, name, shape, dt)
        values = {"leak": leak, "gain": spread(node, "r", shape) * leak, "rest": spread(node, "v_leak", shape)}
    if node.kind.startswith("Cuba"):
        values |= {"synapse": _share(node, "tau_syn", shape, dt), "w_in": spread(node, "w_in", shape)}
    if node.kind.endswith("LIF"):
        values |= {"threshold": spread(node, "v_threshold", shape), "inclusive": said(node, "fires", FIRES) == FIRES[0]}
        if (said(node, "reset", RESETS) or reset) != "subtract":
            values["reset"] = reset_values(node, shape)
    return Membrane(start=_potential(node, shape), **values)


def own_shape(node):
    """The shape of a layer of neurons, as its fields have it."""
    shapes = [np.shape(node.fields[key]) for key in ("r", "v_threshold", "tau", "tau_mem") if key in node.fields]
    found = max(shapes, key=len, default=())
    if not found:
        node.refuse("stands in a loop, and no field of it says the shape of its neurons")
    return tuple(found)


def _fire(node, shape, dt, shift, reset):
    """IF neurons: those with soft reset in units of their current, as under time collapse, v_threshold / (r dt)."""
    threshold, of_current, silent = thresholds(node, shape, dt)
    elsewhere, word = reset_values(node, shape), said(node, "reset", RESETS) or reset
    if word == "subtract" and elsewhere.any():
        node.refuse("v_reset: expected zero where the threshold is subtracted, got other values")
    fires = said(node, "fires", FIRES)
    if word == "zero" or elsewhere.any():
        gain = spread(node, "r", shape) * dt
        start = _potential(node, shape) if shift is None else shift * np.where(silent, 1.0, threshold)
        inclusive = fires == FIRES[0]
        return Membrane(gain=gain, start=start, threshold=threshold, reset=elsewhere, inclusive=inclusive)
    first = share_at_first(node, shape, threshold, silent) if shift is None else shift
    start = first * np.where(silent, 1.0, of_current)
    return Membrane(gain=np.ones(shape), start=start, threshold=of_current, inclusive=fires != FIRES[1])


def _potential(node, shape):
    """v_initial of the metadata, else 0 as NIR's own simulations start, float64 [*shape]."""
    metadata = Metadata(node, node.metadata)
    return spread(metadata, "v_initial", shape) if "v_initial" in metadata.fields else np.zeros(shape)


def _share(node, key, shape, dt):
    """dt / tau, the share of the way to its end that a value goes in a step of forward Euler."""
    tau = spread(node, key, shape)
    if not (tau * (1 + 1e-6) >= dt).all():
        node.refuse(
            f"{key}: expected time constants of at least dt = {dt:g}, a step, got {tau.min():g}; give a smaller dt"
        )
    return np.minimum(dt / tau, 1)


def _delay(node, shape, dt):
    steps = spread(node, "delay", shape) / dt
    whole = np.rint(steps)
    if (
        not (np.abs(steps - whole) <= 1e-6 * np.maximum(1, whole)).all()
        or not ((whole >= 0) & (whole < MOST_STEPS)).all()
    ):
        node.refuse(
            f"delay: expected whole numbers of time-steps dt = {dt:g} below {MOST_STEPS}, got {steps.min():g} to "
            f"{steps.max():g} of them"
        )
    return Delayed(whole.astype(np.int64))
