"""Sections of gpu.py by name, in the order in which they run; each gives its rows for a setting and models."""

from lib import gpu_agreement, gpu_layers, gpu_limits, gpu_networks, gpu_operators

ROWS = {
    "limits": gpu_limits.rows,
    "agreement": gpu_agreement.rows,
    "operators": gpu_operators.rows,
    "layers": gpu_layers.rows,
    "networks": gpu_networks.rows,
}
PROFILE = "profile"
NAMES = [*ROWS, PROFILE]


def rows_of(names, setting, models):
    """{section: its rows}; the profile has none."""
    return {name: rows(setting, models) for name, rows in ROWS.items() if name in names}
