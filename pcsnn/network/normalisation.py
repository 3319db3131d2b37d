"""How images are normalised before a network sees them."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

MOST_CHANNELS = 4096


class Normalisation(NamedTuple):
    """Pixel values 0..1 less `mean`, divided by `std`: a number for each channel, or one for all of them."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, mean: Any, std: Any) -> "Normalisation":
        """The same of numbers, lists or tensors.

        Raises:
            ValueError: values that are no finite numbers, none or too many of them, lengths that do not fit each
                other, a std that is not above 0.
        """
        found = cls(_numbers("mean", mean), _numbers("std", std))
        if not all(value > 0 for value in found.std):
            raise ValueError(f"std: expected values above 0, got {_shown(std)}")
        if 1 != len(found.mean) != len(found.std) != 1:
            raise ValueError(
                f"std: expected one value, or as many as mean has, {len(found.mean)}, got {len(found.std)}"
            )
        return found

    def __str__(self) -> str:
        mean, std = (" ".join(f"{value:.6g}" for value in values) for values in self)
        return f"mean {mean}, std {std}"


def _numbers(name, values):
    listed = values
    if isinstance(values, torch.Tensor):  # 0.4 of float32 is meant as 0.4
        listed = [float(str(value)) for value in values.detach().cpu().float().numpy().ravel()[: MOST_CHANNELS + 1]]
    listed = list(listed) if isinstance(listed, Iterable) and not isinstance(listed, (str, bytes, dict)) else [listed]
    numbers = [
        float(value)
        for value in listed[: MOST_CHANNELS + 1]
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**63
    ]
    if len(numbers) != len(listed) or not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name}: expected a finite number for each channel, got {_shown(values)}")
    return tuple(numbers)


def _shown(values):
    text = str(values)
    return text if len(text) <= 80 else f"{text[:80]} ..."
