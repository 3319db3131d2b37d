"""The table of activations that pcsnn knows."""

import re
import zlib

import pytest
import torch
from folders import ROOT

from pcsnn.calibration.signed import covering
from pcsnn.levels.activations import kinds, row_of, rows
from pcsnn.levels.probe import found_turns
from pcsnn.levels.signed import signed_levels

SLOPES = {
    "leaky_relu": [0.2, -0.3, 0.0, torch.tensor([0.25, -0.1, 0.0, 0.01, -0.5])],
    "elu": [1.3, -0.7, torch.tensor([0.5, 1.0, 1.6])],
}
RECORDED = {
    "leaky_relu": 3751467240,
    "gelu": 595347897,
    "gelu_tanh": 2854161866,
    "silu": 3258323931,
    "hardswish": 3278521045,
    "mish": 1684957224,
    "elu": 4241707022,
}


@pytest.mark.parametrize("kind", RECORDED)
def test_tables_are_bit_for_bit_those_recorded(kind):
    found = 0
    for slope in SLOPES.get(kind, [None]):
        for timesteps in (4, 8, 16, 32, 255):
            for lowest in (-7.5, -2.0, -0.4, 0.0, 0.7):
                for quantum in (0.01, 0.07, 0.3, 1.1):
                    try:
                        levels, turn, low = signed_levels(kind, quantum, timesteps, lowest, slope)
                    except ValueError:
                        found = zlib.crc32(b"x", found)
                    else:
                        found = zlib.crc32(levels.numpy().tobytes() + bytes([turn, low]), found)
                found = zlib.crc32(covering(kind, slope, lowest, 3.0).float().numpy().tobytes(), found)
    assert found == RECORDED[kind]


@pytest.mark.parametrize("kind", kinds())
def test_a_known_turn_is_where_the_formula_is_least(kind):
    row = row_of(kind)
    parameters = (0.3, 1.5) if row.parameter else (1.0,)
    given = row.turns(torch.tensor(parameters, dtype=torch.float64)[:, None]).flatten()
    assert given.tolist() == pytest.approx(found_turns(row, parameters), abs=1e-6)
    assert row.range[0] <= row(torch.linspace(-20, 20, 999, dtype=torch.float64), 1.0 if row.parameter else None).min()


def test_the_documentation_lists_every_row():
    page = (ROOT / "docs" / "signed.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) ?\|$", page, re.MULTILINE)
    assert [entry[0] for entry in listed] == list(kinds())
    for (kind, modules, functions, parameter), row in zip(listed, rows(), strict=True):
        assert re.findall(r"\w+", modules)[: len(row.modules)] == [known.__name__ for known in row.modules], kind
        assert re.findall(r"F\.(\w+)", functions) == [known.__name__ for known in row.functions]
        assert (parameter != "") == (row.parameter is not None)
