"""The rows of a report are data, in the network and in its file; the report remembers the T of the calibration."""

import json
import warnings

import pytest
import safetensors
import torch
from tiny_networks import build, inputs, one_thread  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.network.report import Row
from pcsnn.nn import QCFS
from pcsnn.storage import network_file


def converted(method="max", timesteps=4):
    return pcsnn.convert(build("conv_bn", nn.ReLU), timesteps, calibration=[inputs("conv_bn", batch=12)], method=method)


def spiking(snn):
    return [row for row in snn.report.rows if row.kind == "spiking"]


def test_a_row_says_what_a_layer_is_and_what_became_of_it():
    snn = converted()
    assert {row.source for row in spiking(snn)} == {"ReLU"}
    assert all(row.became.startswith("threshold ") and row.detail == f"ReLU: {row.became}" for row in spiking(snn))
    assert all(not row.became and row.detail == row.source for row in snn.report.rows if row.kind != "spiking")


def test_an_optimised_layer_keeps_both_apart_at_every_t():
    snn = pcsnn.convert(build("conv_bn", lambda: QCFS(4)), 4)
    fused = pcsnn.optimize(snn, "int8")
    pcsnn.set_timesteps(fused, 6)
    for row in spiking(fused):
        assert row.source.startswith("QCFS, ") and "weights" in row.source
        assert row.became.startswith("threshold ") and "QCFS L = 4" in row.became
    assert {row.source for row in spiking(snn)} == {"QCFS"}


def test_files_hold_rows_and_the_calibrated_t(tmp_path):
    for method in ("max", "quick"):
        snn = converted(method)
        pcsnn.save(snn, tmp_path / "snn.safetensors")
        assert pcsnn.load(tmp_path / "snn.safetensors").report == snn.report
    assert snn.report.calibrated_for == 4


def description(path):
    with safetensors.safe_open(path, "pt") as file:
        return json.loads(file.metadata()["pcsnn"])


@pytest.mark.parametrize("method, calibrated_for", [("max", None), ("none", None), ("quick", 4), ("unheard of", 4)])
def test_reports_of_earlier_files_are_split(method, calibrated_for, tmp_path):
    snn = converted()
    pcsnn.save(snn, tmp_path / "snn.safetensors")
    entry = description(tmp_path / "snn.safetensors")["report"]
    entry["method"] = method
    del entry["calibrated_for"]
    entry["rows"] = [
        {"name": row.name, "kind": row.kind, "detail": row.detail, "location": row.location} for row in snn.report.rows
    ]
    found = network_file._report(entry)
    assert found.rows == snn.report.rows and found.calibrated_for == calibrated_for


def test_a_colon_splits_rows_of_neurons_alone():
    text = "linear attention: q spiking, k and v averaged over time"
    (row,) = network_file._report(
        {"method": "none", "timesteps": 4, "rows": [{"name": "a", "kind": "exact", "detail": text}]}
    ).rows
    assert row == Row("a", "exact", text)


@pytest.mark.parametrize("change", [{"became": 5}, {"source": None}, {"detail": "ReLU"}, {"kind": "other"}])
def test_rows_of_unknown_form_are_refused(change):
    row = {"name": "a", "kind": "spiking", "source": "ReLU", "location": "", "became": "threshold 1"}
    with pytest.raises(ValueError, match="path: has a report with the row"):
        network_file._report({"method": "none", "timesteps": 4, "rows": [row | change]})


@pytest.mark.parametrize("calibrated_for", [0, 256, "4", 2.5, True])
def test_a_calibrated_t_out_of_range_is_refused(calibrated_for):
    with pytest.raises((TypeError, ValueError), match="timesteps"):
        network_file._report({"method": "quick", "timesteps": 4, "rows": [], "calibrated_for": calibrated_for})


def test_the_warning_is_about_the_t_of_the_calibration():
    snn = converted("quick")
    for timesteps in (6, 8):
        with pytest.warns(UserWarning, match=f"calibrated at T = 4; calibrate anew for T = {timesteps}"):
            pcsnn.set_timesteps(snn, timesteps)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pcsnn.set_timesteps(snn, 4)
        pcsnn.set_timesteps(converted("max"), 9)
    assert snn.timesteps == snn.report.calibrated_for == 4
    assert torch.equal(snn(*inputs("conv_bn")), converted("quick")(*inputs("conv_bn")))
