"""Several gloo processes on this machine find what one process finds. One launch for each number of processes."""

import os
import signal
import socket
import subprocess
import sys

import pytest
import torch
from analysis_cases import two_layers
from distributed_cases import COUNT, METHODS, calibrated, evaluated, images, labels, rows, signed, swept
from folders import ROOT, SUPPORT
from tiny_networks import one_thread  # noqa: F401
from torch.utils.data import IterableDataset

import pcsnn

LIMIT = 240  # seconds after which a launch hangs


def torchrun(processes, *arguments):
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join([str(ROOT), str(SUPPORT)]))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
        str(SUPPORT / "distributed_program.py"),
        *map(str, arguments),
    ]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)


@pytest.fixture(scope="module", params=[2, 3])
def found(request, tmp_path_factory):
    """What each of the processes wrote."""
    folder = tmp_path_factory.mktemp("processes")
    done = torchrun(request.param, folder)
    assert done.returncode == 0, done.stderr
    results = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(request.param)]
    assert [(result["rank"], result["size"]) for result in results] == [
        (i, request.param) for i in range(request.param)
    ]
    return results


@pytest.mark.quick(1)
def test_every_item_is_in_one_share(found):
    for count in (0, 1, 64, 65):
        for rank, result in enumerate(found):
            assert result["indices"][count] == list(range(rank, count, len(found)))
    for rank, result in enumerate(found):
        assert result["dataset"] == list(range(rank, 65, len(found)))


@pytest.mark.parametrize("method", [*METHODS, "sizes", "alone", "signed max", "signed quick"])
def test_all_processes_have_the_same_network(found, method):
    for result in found[1:]:
        assert result[method].keys() == found[0][method].keys()
        for key, value in result[method].items():
            assert torch.equal(value, found[0][method][key]), key


def test_recorded_maxima_are_those_of_one_process(found):
    for key, value in calibrated("max", images()).state_dict().items():
        assert torch.equal(value, found[0]["max"][key]), key


@pytest.mark.parametrize("method", ["max", "quick"])
def test_signed_neurons_are_those_of_one_process(found, method):
    for key, value in signed(images(), method).state_dict().items():
        torch.testing.assert_close(found[0][f"signed {method}"][key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["paper", "quick", "light", "advanced"])
def test_calibration_is_that_of_one_process(found, method):
    """One process takes batches as large as those of all processes together."""
    expected = calibrated(method, images().split(8 * len(found))).state_dict()
    for key, value in expected.items():
        torch.testing.assert_close(
            found[0][method][key], value, rtol=1e-4, atol=1e-5, msg=lambda text: f"{key}: {text}"
        )
    other = calibrated("max", images()).state_dict()
    assert any(not torch.allclose(value, other[key], rtol=1e-3) for key, value in expected.items() if key in other)


def test_process_0_decides(found):
    for result in found:
        assert result["first"][1] == 0 and torch.equal(result["first"][0], torch.full((2, 2), 5.0))


def test_inputs_of_several_sizes(found):
    expected = calibrated("light", [row[None] for row in rows()]).state_dict()
    for key, value in expected.items():
        torch.testing.assert_close(found[0]["sizes"][key], value, rtol=1e-4, atol=1e-5)


def test_a_process_alone_does_what_one_process_does(found):
    for key, value in calibrated("quick", images()).state_dict().items():
        assert torch.equal(value, found[0]["alone"][key]), key
    assert all(result["alone size"] == (1, 0) for result in found)


def test_sweep_counts_every_image_once(found):
    expected = swept([(images(), labels())])
    for result in found:
        sweep = result["sweep"]
        assert sweep.float_accuracy == expected.float_accuracy
        for row, other in zip(sweep.rows, expected.rows, strict=True):
            assert (row.timesteps, row.accuracy, row.fidelity, row.spikes_per_neuron) == (
                other.timesteps,
                other.accuracy,
                other.fidelity,
                other.spikes_per_neuron,
            )
            assert row.logit_error == pytest.approx(other.logit_error, rel=1e-5)


def test_evaluation_counts_every_image_and_spike_once(found):
    expected = evaluated([(images(), labels())])
    assert expected.images == COUNT and 0 < expected.right < COUNT and all(expected.spikes.values())
    assert all(result["evaluation"] == expected for result in found)


def test_fewer_images_than_processes(found):
    expected = evaluated([(images()[:1], labels()[:1])])
    assert expected.images == 1 and all(result["one image"] == expected for result in found)


def test_what_differs_between_processes_is_refused_by_all(found):
    for result in found:
        assert "ValueError: model: expected the same in all processes" in result["other T"]
        assert "ValueError: snn: expected the same in all processes" in result["other model"]
        for name, words in zip(("model", "model", "snn"), result["other D"], strict=True):
            assert f"ValueError: {name}: expected the same in all processes, and the same options" in words
        assert "in process 1" in result["other model"]
        assert result["no images"] == "ValueError: data: expected at least one batch with data, got none"
        assert "RuntimeError: group: expected no process group" in result["second group"]


def test_a_failing_process_ends_all_with_its_reason(tmp_path):
    done = torchrun(2, tmp_path, "fail")
    assert done.returncode != 0 and not list(tmp_path.iterdir())
    reason = done.stderr[done.stderr.index("Root Cause") :]
    assert "rank      : 1 " in reason
    assert "ValueError: calibration: expected finite values, got NaN or infinity in batch 0" in reason


def test_a_killed_process_ends_all_under_torchrun(tmp_path):
    done = torchrun(2, tmp_path, "kill")
    assert done.returncode != 0 and not list(tmp_path.iterdir())
    failures = done.stderr[
        done.stderr.index("FAILED") :
    ]  # torchrun takes the killed one or the one that misses it for the cause
    assert "Signal 9 (SIGKILL)" in failures and "Root Cause" in failures


def test_a_killed_process_is_noticed_by_the_others_without_torchrun(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = dict(
        os.environ,
        OMP_NUM_THREADS="1",
        PYTHONPATH=os.pathsep.join([str(ROOT), str(SUPPORT)]),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        WORLD_SIZE="2",
    )
    command = [sys.executable, str(SUPPORT / "distributed_program.py"), str(tmp_path), "kill"]
    started = [
        subprocess.Popen(command, env=environment | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        words = started[0].communicate(timeout=LIMIT)[1]
        assert started[0].returncode == 1 and started[1].wait(LIMIT) == -signal.SIGKILL
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert "RuntimeError: process 0 of 2 waited for the others, and one of them ended or failed" in words
    assert not list(tmp_path.iterdir())


# One process


def test_evaluation_by_hand():
    snn = pcsnn.convert(two_layers(), 8, calibration=images(), method="max")
    with pcsnn.record(snn) as recorded:
        choice = snn(images()).argmax(1)
    result = pcsnn.analysis.evaluate(snn, list(zip(images().split(7), labels().split(7))), spikes=True)
    right = sum(int(choice[i]) == i % 3 for i in range(COUNT))
    assert (result.images, result.right, result.decisions, result.accuracy) == (COUNT, right, COUNT, right / COUNT)
    assert result.spikes == {name: int(counts.sum()) for name, counts in recorded.counts.items()}
    assert f"{COUNT} images, T = 8: accuracy {100 * right / COUNT:.2f} % ({right} of {COUNT})" in str(result)
    ignored = pcsnn.analysis.evaluate(snn, [(images(), labels())], ignore=0)
    expected = int(((choice == labels()) & (labels() != 0)).sum()), int((labels() != 0).sum())
    assert (ignored.right, ignored.decisions) == expected and ignored.spikes == {}
    unlabelled = pcsnn.analysis.evaluate(snn, images())
    assert unlabelled.accuracy is None and unlabelled.images == COUNT and "no labels" in str(unlabelled)


@pytest.mark.parametrize(
    "change, error, words",
    [
        (dict(snn=two_layers()), TypeError, "snn: expected a SpikingNetwork.*got Sequential"),
        (dict(ignore="void"), TypeError, "ignore: expected an integer, got str"),
        (
            dict(ignore=1, data=[(images(), torch.ones(COUNT, dtype=torch.int64))]),
            ValueError,
            "ignore: every label of data is 1",
        ),
        (dict(data=7), TypeError, "data: expected a tensor, or an iterable .*got int"),
        (dict(data=[]), ValueError, "data: expected at least one batch with data, got none"),
        (
            dict(data=[(images(), labels()[:5])]),
            ValueError,
            r"data: expected labels \(65,\) for outputs \(65, 3\), got \(5,\)",
        ),
    ],
)
def test_evaluate_refuses(change, error, words):
    snn = pcsnn.convert(two_layers(), 8, calibration=images(), method="max")
    with pytest.raises(error, match=words):
        pcsnn.analysis.evaluate(**(dict(snn=snn, data=images()) | change))


def test_a_program_that_was_not_launched_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pcsnn.distributed.group("gloo") as device:
        assert (device.type, pcsnn.distributed.size(), pcsnn.distributed.rank()) == ("cpu", 1, 0)
        batches = list(pcsnn.distributed.shard((images(), labels()), 32))
    assert torch.equal(torch.cat([x for x, _ in batches]), images())
    assert torch.equal(torch.cat([y for _, y in batches]), labels()) and len(batches) == 3


class Endless(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    "change, error, words",
    [
        (dict(data=Endless()), TypeError, "data: expected tensors or a dataset with a length, got Endless"),
        (dict(data=(images(), labels()[:3])), ValueError, "data: expected tensors of one length, got 65, 3"),
        (dict(data=(images(), "cat")), TypeError, "data: expected a tensor, got str"),
        (dict(data=torch.tensor(1)), ValueError, "data: expected at least 1 dimensions"),
        (dict(batch_size=0), ValueError, "batch_size: expected a value in 1..2147483648, got 0"),
        (dict(shuffle=True), TypeError, "options: expected those that leave open which items are read, got shuffle"),
    ],
)
def test_shard_refuses(change, error, words):
    with pytest.raises(error, match=words):
        pcsnn.distributed.shard(**(dict(data=images()) | change))


@pytest.mark.parametrize("timeout, error", [(0, ValueError), (float("inf"), ValueError), ("long", TypeError)])
def test_group_refuses(timeout, error):
    with pytest.raises(error, match="timeout: expected"):
        with pcsnn.distributed.group("gloo", timeout):
            pytest.fail("entered")
