"""What kind of value a node of a canonical network has, as node.meta["signal"]."""

import enum


class Signal(enum.IntEnum):
    """How a value relates to the spikes it is an average of."""

    CONSTANT = 0  # an input, a parameter, a shape: the same at every time-step
    STEADY = 1  # a synapse's output that is the same at every time-step, because its input is
    TRAINS = 2  # each element is the rate of one neuron, whose amplitude is positive
    CURRENT = 3  # a linear combination of rates
    ANALOG = 4  # a function of averages that is not linear
