"""Spike trains as bits, and orders of time-steps."""

from collections.abc import Iterable, Mapping

import torch

from pcsnn.tensors import checks

Order = torch.Tensor | Mapping[str, torch.Tensor] | None  # of the time-steps (13)
BITS = 8  # of a byte


def bit_planes(spikes: torch.Tensor, spike_levels: int) -> torch.Tensor:
    """The binary spikes that stand for integers (22): planes of weights 1, 2, 4, ..., the least one first.

    Args:
        spikes: uint8 [T, N, ...], integers 0..D; bool with D = 1, which is one plane.
        spike_levels: D, 1..255.

    Returns:
        bool [T, n, N, ...], n the bits that D takes.

    Raises:
        TypeError, ValueError: another dtype or D; spikes above D.
    """
    checks.integer("spike_levels", spike_levels, 1, checks.MAX_TIMESTEPS)
    _check_sent(spikes, spike_levels)
    return _planes(spikes, spike_levels)


def _check_sent(spikes, spike_levels):
    checks.tensor("spikes", spikes, (torch.bool,) if spike_levels == 1 else (torch.uint8,), 1)
    if spike_levels > 1:
        _check_values("spikes", spikes, spike_levels)


def _check_values(name, values, spike_levels):
    if values.numel() and values.max() > spike_levels:
        raise ValueError(f"{name}: expected integers of 0..{spike_levels}, got {values.max().item()}")


def _planes(spikes, spike_levels):
    if spike_levels == 1:
        return spikes.unsqueeze(1)
    weights = [1 << plane for plane in range(spike_levels.bit_length())]
    weights = torch.tensor(weights, dtype=torch.uint8, device=spikes.device).view(-1, *[1] * (spikes.dim() - 1))
    return (spikes.unsqueeze(1) & weights) != 0


def pack_spikes(spikes: torch.Tensor, spike_levels: int = 1) -> torch.Tensor:
    """Spike trains as bits: bit b of byte j is time-step 8 j + b; bits from T on are 0.

    Integers 0..D take n bits a time-step, their planes of weights 1, 2, 4, ... (22): bit b of byte j is plane
    (8 j + b) % n of time-step (8 j + b) // n; bits from T n on are 0.

    Args:
        spikes: bool [T, ...], or with D > 1 uint8 [T, ...] of 0..D.
        spike_levels: D; T D in 1..255.

    Returns:
        uint8 [ceil(T n / 8), ...], n the bits that D takes, 1 with D = 1.

    Raises:
        TypeError, ValueError: another dtype, T or D; spikes above D.
    """
    checks.integer("spike_levels", spike_levels, 1, checks.MAX_TIMESTEPS)
    _check_sent(spikes, spike_levels)
    checks.timesteps(len(spikes), "spikes.shape[0], the time-steps")
    checks.full_count(len(spikes), spike_levels)
    bits = spike_levels.bit_length()
    packed = torch.zeros(-(-len(spikes) * bits // BITS), *spikes.shape[1:], dtype=torch.uint8, device=spikes.device)
    for step in range(len(spikes)):
        for plane, fired in enumerate(_planes(spikes[step : step + 1], spike_levels)[0]):
            place = step * bits + plane
            packed[place // BITS] |= fired.to(torch.uint8) << place % BITS
    return packed


def unpack_spikes(packed: torch.Tensor, timesteps: int, spike_levels: int = 1) -> torch.Tensor:
    """The inverse of `pack_spikes` and of `Recording.packed`.

    Args:
        packed: uint8 [ceil(T n / 8), ...], bits from T n on 0; n the bits that D takes, 1 with D = 1.
        timesteps: T, 1..255.
        spike_levels: D; T D is at most 255.

    Returns:
        bool [T, ...], or with D > 1 uint8 [T, ...] of 0..D.

    Raises:
        TypeError, ValueError: another dtype, number of bytes, T or D; a bit from T n on that is not 0; an integer
            above D.
    """
    checks.full_count(timesteps, spike_levels)
    checks.tensor("packed", packed, (torch.uint8,), 1)
    bits = spike_levels.bit_length()
    each = f" of {bits} bits" if bits > 1 else ""
    if len(packed) != -(-timesteps * bits // BITS):
        raise ValueError(
            f"packed: expected {-(-timesteps * bits // BITS)} bytes a neuron for {timesteps} time-steps{each}, "
            f"got shape {tuple(packed.shape)}"
        )
    if timesteps * bits % BITS and (packed[-1] >> timesteps * bits % BITS).any():
        raise ValueError(f"packed: expected bits of {timesteps} time-steps{each}, got spikes beyond them")
    if spike_levels == 1:
        spikes = torch.empty(timesteps, *packed.shape[1:], dtype=torch.bool, device=packed.device)
        for step in range(timesteps):
            torch.ne(packed[step // BITS] & (1 << step % BITS), 0, out=spikes[step])
        return spikes
    spikes = torch.zeros(timesteps, *packed.shape[1:], dtype=torch.uint8, device=packed.device)
    for place in range(timesteps * bits):
        spikes[place // bits] |= (packed[place // BITS] >> place % BITS & 1) << place % bits
    _check_values("packed", spikes, spike_levels)
    return spikes


def random_order(
    timesteps: int, seed: int = 0, layers: Iterable[str] | None = None
) -> torch.Tensor | dict[str, torch.Tensor]:
    """A random order of the time-steps (13), for `Recording.spikes` and whatever else takes `order`.

    Args:
        timesteps: T, 1..255.
        seed: the same one gives the same orders on every machine.
        layers: names, to draw an order for each of them; None draws one order.

    Returns:
        int64 [T], a permutation of 0..T-1; with `layers` {name: int64 [T]}. On the CPU.

    Raises:
        TypeError, ValueError: T out of range; a seed that is no integer or negative.
    """
    checks.timesteps(timesteps)
    checks.integer("seed", seed, 0, 2**63 - 1)
    generator = torch.Generator().manual_seed(seed)
    if layers is None:
        return torch.randperm(timesteps, generator=generator)
    return {name: torch.randperm(timesteps, generator=generator) for name in layers}


def order_of(layer, order, device):
    """The order of one layer, on `device`, of an `order` that is for all layers, {name: order}, or None."""
    if isinstance(order, dict):
        if layer not in order:
            raise ValueError(
                f"order: expected an order for {layer}, got orders for {', '.join(map(repr, order)) or 'no layer'}"
            )
        order = order[layer]
    return order.to(device) if isinstance(order, torch.Tensor) else order


def pick(counts, neurons):
    """Counts [N, ...] -> [N, len] of the neurons, of a sample's flattened ones, that an index names."""
    counts = counts.unsqueeze(-1) if counts.dim() == 1 else counts
    shape = counts.shape[1:]
    total = shape.numel()
    if isinstance(neurons, slice):
        neurons = range(total)[neurons]
    if isinstance(neurons, range):
        places = torch.arange(len(neurons)) * neurons.step + neurons.start
    elif isinstance(neurons, torch.Tensor):
        checks.tensor("neurons", neurons, (torch.int64, torch.int32))
        places = neurons.to(torch.int64)
    elif isinstance(neurons, (list, tuple)):
        wrong = [place for place in neurons if isinstance(place, bool) or not isinstance(place, int)]
        if wrong:
            raise TypeError(f"neurons: expected integers, got {type(wrong[0]).__name__} ({wrong[0]!r})")
        places = torch.tensor(neurons, dtype=torch.int64)
    else:
        raise TypeError(
            f"neurons: expected a tensor, a list, a range or a slice of indices, got {type(neurons).__name__}"
        )
    if places.dim() != 1:
        raise ValueError(f"neurons: expected indices [len], got shape {tuple(places.shape)}")
    if len(places) and not -total <= int(places.min()) <= int(places.max()) < total:
        raise ValueError(f"neurons: expected indices of {total} neurons, got {int(places.min())}..{int(places.max())}")
    return counts[(slice(None), *torch.unravel_index((places % max(total, 1)).to(counts.device), shape))]
