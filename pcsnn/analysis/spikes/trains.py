"""Spike trains as bits, and orders of time-steps."""

from collections.abc import Iterable, Mapping

import torch

from pcsnn.tensors import checks

Order = torch.Tensor | Mapping[str, torch.Tensor] | None  # of the time-steps (13)
BITS = 8  # of a byte


def pack_spikes(spikes: torch.Tensor) -> torch.Tensor:
    """Spike trains as bits: bit b of byte j is time-step 8 j + b; bits from T on are 0.

    Args:
        spikes: bool [T, ...], T in 1..255.

    Returns:
        uint8 [ceil(T/8), ...].

    Raises:
        TypeError, ValueError: another dtype or T.
    """
    checks.tensor("spikes", spikes, (torch.bool,), 1)
    checks.timesteps(len(spikes), "spikes.shape[0], the time-steps")
    packed = torch.zeros(-(-len(spikes) // BITS), *spikes.shape[1:], dtype=torch.uint8, device=spikes.device)
    for step, fired in enumerate(spikes):
        packed[step // BITS] |= fired.to(torch.uint8) << step % BITS
    return packed


def unpack_spikes(packed: torch.Tensor, timesteps: int) -> torch.Tensor:
    """The inverse of `pack_spikes` and of `Recording.packed`.

    Args:
        packed: uint8 [ceil(T/8), ...], bits from T on 0.
        timesteps: T, 1..255.

    Returns:
        bool [T, ...].

    Raises:
        TypeError, ValueError: another dtype, number of bytes or T; a bit from T on that is not 0.
    """
    checks.timesteps(timesteps)
    checks.tensor("packed", packed, (torch.uint8,), 1)
    if len(packed) != -(-timesteps // BITS):
        raise ValueError(
            f"packed: expected {-(-timesteps // BITS)} bytes a neuron for {timesteps} time-steps, "
            f"got shape {tuple(packed.shape)}"
        )
    if timesteps % BITS and (packed[-1] >> timesteps % BITS).any():
        raise ValueError(f"packed: expected bits of {timesteps} time-steps, got spikes beyond them")
    spikes = torch.empty(timesteps, *packed.shape[1:], dtype=torch.bool, device=packed.device)
    for step in range(timesteps):
        torch.ne(packed[step // BITS] & (1 << step % BITS), 0, out=spikes[step])
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
