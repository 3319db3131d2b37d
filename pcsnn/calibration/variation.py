"""More data for calibration, drawn at random from what there is: the float network labels it itself."""

import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_map

from pcsnn.data.inputs import count, rows


def uniform(generator, *shape):
    """Random numbers in [0, 1), the same whatever torch's default dtype and device are."""
    return torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu")


def is_image(part):
    """Whether a tensor of a batch is taken for images [N, C, H, W]."""
    return part.dim() == 4 and part.is_floating_point()


def varied(batch, generator):
    """More data, which the float network labels itself: images [N, C, H, W], varied at random.

    Each is flipped left to right or not, and all of a batch are shifted by up to an eighth of their size, mirrored at
    the borders.
    """
    flip = uniform(generator, count(batch)) < 0.5
    shifts = uniform(generator, 2).tolist()

    def vary(part):
        if is_image(part):
            part = torch.where(flip.to(part.device).view(-1, 1, 1, 1), part.flip(3), part)
            down, right = (length // 8 for length in part.shape[2:])
            first = [int(shift * (2 * margin + 1)) for shift, margin in zip(shifts, (down, right))]
            padded = F.pad(part, (right, right, down, down), mode="reflect")
            part = padded[:, :, first[0] : first[0] + part.shape[2], first[1] : first[1] + part.shape[3]]
        return part

    return tree_map(vary, batch)


def mixed(batch, generator):
    """More data still, labelled by the float network: each input blended with another, half to all of it kept."""
    order = torch.randperm(count(batch), generator=generator, device="cpu")
    share = 0.5 + 0.5 * uniform(generator, len(order))
    return tree_map(
        lambda part: (
            part.lerp(part[order.to(part.device)], (1 - share).to(part).view(-1, *[1] * (part.dim() - 1)))
            if part.is_floating_point()
            else part
        ),
        batch,
    )


def all_varied(pool, size, generator):
    """The inputs of a pool, in order, varied in batches of at most `size`."""
    parts = [varied(rows(pool, slice(start, start + size)), generator) for start in range(0, count(pool), size)]
    return tree_map(lambda *same: torch.cat(same), *parts)
