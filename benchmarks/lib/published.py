"""Published accuracies of training-free conversion on ImageNet, as their sources print them."""

from dataclasses import dataclass

SOURCES = {
    "paper": "arXiv 2412.13610 (ICML 2025), the training-free form",
    "H-MT": "Zhang et al., AAAI 2026, tables 1 and 3; a step sends spikes of weights 1, 2, 4, ...",
    "DCGS": "Huang et al., ICML 2025, as in table 1 of Zhang et al., AAAI 2026",
    "LTB": "Bu, Li and Yu, CVPR 2025 (arXiv 2409.03368), table 2",
    "SNNC": "Li et al., ICML 2021 and later, as in table 2 of Bu, Li and Yu, CVPR 2025",
}


@dataclass(frozen=True)
class Published:
    """A published row: accuracies in % of the spiking and of the float network, T, and D of (22).

    spike_levels: None where a spike's worth changes over time, so that T D says nothing. accuracy_before: None where
    it is not known here. source: a key of SOURCES.
    """

    network: str
    method: str
    timesteps: int
    spike_levels: int | None
    accuracy: float
    accuracy_before: float | None
    source: str

    @property
    def levels(self):
        return None if self.spike_levels is None else self.timesteps * self.spike_levels


def _rows(network, method, spike_levels, before, source, accuracies):
    return [Published(network, method, steps, spike_levels, value, before, source) for steps, value in accuracies]


def _hmt(network, before, planes, *accuracies):
    """`planes` spikes a step of weights 1, 2, 4, ..."""
    return _rows(network, f"H-MT, {planes} spikes a step", 2**planes - 1, before, "H-MT", accuracies)


ROWS = [
    *_rows("resnet34", "the paper", 1, None, "paper", [(16, 68.04), (32, 72.46)]),
    *_hmt("resnet18", 71.50, 3, (2, 61.33), (4, 65.38), (8, 67.95), (16, 69.43)),
    *_hmt("resnet18", 71.50, 4, (2, 67.78), (4, 69.02), (8, 70.35), (16, 70.95)),
    *_hmt("resnet18", 71.50, 8, (2, 71.39), (4, 71.07)),
    *_hmt("resnet34", 76.42, 3, (2, 64.33), (4, 68.33), (8, 71.6), (16, 73.91)),
    *_hmt("resnet34", 76.42, 4, (2, 71.73), (4, 73.25), (8, 75.02), (16, 75.80)),
    *_hmt("resnet34", 76.42, 8, (2, 76.28), (4, 76.17)),
    *_hmt("vgg16_bn", 73.25, 3, (2, 67.97), (4, 70.37), (8, 71.65), (16, 72.62)),
    *_hmt("vgg16_bn", 73.25, 4, (2, 70.78), (4, 71.94), (8, 73.03), (16, 72.92)),
    *_hmt("vgg16_bn", 73.25, 8, (2, 73.24), (4, 72.45)),
    *_rows("resnet18", "DCGS", None, 71.49, "DCGS", [(4, 70.07), (8, 71.31)]),
    *_rows("resnet34", "DCGS", None, 76.42, "DCGS", [(4, 73.35), (8, 76.04)]),
    *_rows("vgg16_bn", "DCGS", None, 73.25, "DCGS", [(4, 72.72), (8, 73.17)]),
    *_rows("resnet18", "LTB", 1, 69.76, "LTB", [(32, 65.55), (64, 68.53), (128, 69.03)]),
    *_rows("resnet34", "LTB", 1, 73.31, "LTB", [(32, 64.88), (64, 71.17), (128, 72.30)]),
    *_rows("mobilenet_v2", "LTB", 1, 71.88, "LTB", [(32, 19.39), (64, 49.93), (128, 64.31)]),
    *_rows("resnet34", "SNNC, light pipeline", 1, 75.66, "SNNC", [(32, 55.16), (64, 67.56), (128, 72.48)]),
    *_rows("resnet34", "SNNC, advanced pipeline", 1, 75.66, "SNNC", [(32, 64.65), (64, 71.30), (128, 73.94)]),
]


def of(network):
    """The published rows of a network, by levels; last those without."""
    return sorted((row for row in ROWS if row.network == network), key=lambda row: (row.levels or 2**30, row.method))
