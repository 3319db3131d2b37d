"""What the fields and the metadata of NIR's spiking nodes say: thresholds, potentials at first, resets."""

import numpy as np

from pcsnn.exchange.nir.fields import Metadata, numbers, spread

RESETS = ("subtract", "zero")
FIRES = (">=", ">")
_NO_COUNT = "the count of any other neuron does not follow from the mean current"


def said(node, key, expected):
    """A word in a node's metadata, or None; ValueError unless it is one of those expected."""
    word = node.metadata.get(key)
    word = word.decode() if isinstance(word, bytes) else word
    if word is not None and word not in expected:
        why = f": {_NO_COUNT}" if len(expected) == 1 else ""
        node.refuse(f"{key}: expected {' or '.join(map(repr, expected))}, got {word!r}{why}")
    return word


def reset_values(node, shape):
    """v_reset, float64 [*shape]; zeros where there is none."""
    return np.zeros(shape) if node.fields.get("v_reset") is None else spread(node, "v_reset", shape)


def check_soft_reset(node, shape):
    """ValueError, naming the node, unless its IF neurons lose their threshold with each spike and fire at it."""
    said(node, "reset", RESETS[:1])
    said(node, "fires", FIRES[:1])
    elsewhere = reset_values(node, shape)
    if elsewhere.any():
        node.refuse(
            "v_reset: expected zero, which for a neuron without steps is to lose its threshold with each spike, got "
            f"{elsewhere[elsewhere != 0][0]:g}: a hard reset forgets what is above the threshold (serial=True runs it "
            "step by step)"
        )


def thresholds(node, shape, dt):
    """(v_threshold, those of the current v_threshold / (r dt), which of them never fire), float64 and bool [*shape]."""
    threshold, resistance = (spread(node, key, shape) for key in ("v_threshold", "r"))
    for key, values in (("v_threshold", threshold), ("r", resistance)):
        if not (values > 0).all():
            node.refuse(f"{key}: expected values above zero, got {values.min():g}")
    silent = threshold >= np.finfo(np.float32).max
    of_current = np.where(silent, np.inf, threshold / (resistance * dt))
    if not (of_current.astype(np.float32) > 0).all() or (of_current[~silent] >= np.finfo(np.float32).max).any():
        node.refuse(
            f"v_threshold / (r dt): expected numbers that float32 holds, got {of_current.min():g}..{of_current.max():g}"
        )
    return threshold, of_current, silent


def share_at_first(node, shape, threshold, silent):
    """The potential at first in units of the threshold, as the metadata has it; at rest where they do not say."""
    metadata = Metadata(node, node.metadata)
    if "shift" in metadata.fields:
        value = numbers(metadata, "shift")
        if value.size != 1 or not np.isfinite(value).all():
            metadata.refuse("shift: expected one finite number")
        return float(value.item())
    if "v_initial" not in metadata.fields:
        return 0.0
    ratio = (spread(metadata, "v_initial", shape) / threshold)[~silent]
    if ratio.size == 0:
        return 0.0
    if np.ptp(ratio) > 1e-6 * max(1.0, abs(ratio.flat[0])):
        metadata.refuse(
            "v_initial: expected the same share of the threshold for all neurons of a layer, got "
            f"{ratio.min():g} to {ratio.max():g}"
        )
    return float(ratio.flat[0])


def step_thresholds(node, shape):
    """The thresholds of a Threshold node, float64 [*shape]."""
    threshold = spread(node, "threshold", shape)
    if not (threshold > 0).all() or not np.isfinite(threshold).all():
        node.refuse(f"threshold: expected finite values above zero, got {threshold.min():g}")
    return np.array(threshold)
