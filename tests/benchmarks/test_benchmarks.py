"""The commands of benchmarks/ on tiny settings: what they print, write and refuse. No time is asserted."""

import dataclasses
import functools
import json
import subprocess
import sys

import gpu
import peak_memory
import pytest
import safetensors.torch
import throughput
import torch
from lib import (
    checks,
    competitors,
    gpu_forms,
    gpu_goals,
    gpu_report,
    gpu_rows,
    gpu_warm,
    networks,
    throughput_report,
    timing,
    workloads,
)
from lib.gpu_setting import Setting

import pcsnn
from pcsnn import baselines, functional
from pcsnn.baselines.packed_network import PackedNeuron

TINY = [
    "--model",
    "cifar_resnet20",
    "--image-size",
    "8",
    "--batch",
    "2",
    "--repeats",
    "2",
    "--slow-repeats",
    "1",
    "--threads",
    "1",
]
MEBI = 2**20
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is measured on Linux only")


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(folder, *options):
    """The exit code of throughput.py and the JSON that it wrote."""
    code = throughput.main([*TINY, "--output", str(folder), *options])
    return code, json.loads((folder / "throughput-cifar_resnet20.json").read_text())


def test_right_results_are_timed_and_written(tmp_path, capsys):
    code, result = run(
        tmp_path,
        "--batch",
        "1",
        "2",
        "--timesteps",
        "2",
        "5",
        "--memory-timesteps",
        "--rows",
        "relu",
        "serial",
        "packed",
        "pcsnn",
    )
    assert code == 0
    assert [(row["batch"], row["timesteps"], row["form"]) for row in result["rows"]] == [
        (batch, timesteps, form)
        for batch in (1, 2)
        for timesteps in (2, 5)
        for form in ("relu", "serial", "packed", "pcsnn")
    ]
    for row in result["rows"]:
        assert row["right"] is True and row["seconds"] > 0 and row["speedup"] > 0 and row["of_network"] > 0
        assert len(row["rounds"]) == (1 if row["form"] in ("serial", "packed") else 2)
    assert {"date", "processor", "cores", "threads", "load", "commit", "torch", "pcsnn", "options"} <= result.keys()
    assert (tmp_path / "throughput-cifar_resnet20.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "quantized network evaluated through spike counts" in printed
    assert printed.count("bit-equal to the reference") == 4 and "WRONG" not in printed


def test_several_networks_end_in_one_table(tmp_path, capsys):
    models = ["cifar_resnet20", "cifar_resnet32"]
    code = throughput.main(
        [
            *TINY,
            "--model",
            *models,
            "--timesteps",
            "2",
            "--memory-timesteps",
            "--no-plot",
            "--rows",
            "relu",
            "pcsnn",
            "int8-all",
            "--output",
            str(tmp_path),
        ]
    )
    assert code == 0 and {path.name for path in tmp_path.iterdir()} == {f"throughput-{model}.json" for model in models}
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("time relative to the ReLU network"))
    assert "pcsnn, collapsed" in lines[start] and "first and last too" in lines[start]
    assert [line.split()[:3] for line in lines[start + 1 : start + 3]] == [[model, "2", "2"] for model in models]
    assert all(float(value) > 0 for line in lines[start + 1 : start + 3] for value in line.split()[3:])
    assert not any("over serial IF" in line for line in lines[start:])


def wrong_relu(load, snn):
    return torch.nn.Sequential(load.relu_network(), torch.nn.Threshold(0.0, 0.0))


def wrong_collapsed(load, snn):
    return lambda images: snn(images) * (1 + 2**-20)


def wrong_compiled(load, snn):
    return lambda images: snn(images) * 1.01


def wrong_packed(load, snn):
    network = baselines.packed(snn)
    packed = [module for module in network.modules() if isinstance(module, PackedNeuron)][-1]
    packed.neuron = pcsnn.nn.CollapsedNeuron(packed.neuron.threshold * 1.1, packed.timesteps)
    return network


def wrong_serial(load, snn):
    network = baselines.serial(snn)
    neuron = network.network.get_submodule(next(snn.neurons())[0])
    neuron.threshold = neuron.threshold * 1.1
    return network


def not_a_number(load, snn):
    return lambda images: snn(images) * float("nan")


@pytest.mark.parametrize(
    "form,build",
    [
        ("relu", wrong_relu),
        ("pcsnn", wrong_collapsed),
        ("pcsnn-compiled", wrong_compiled),
        ("packed", wrong_packed),
        ("serial", wrong_serial),
        ("pcsnn", not_a_number),
    ],
)
def test_a_wrong_result_is_refused_and_gets_no_time(form, build, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(competitors.FORMS, form, dataclasses.replace(competitors.FORMS[form], build=build))
    code, result = run(tmp_path, "--timesteps", "4", "--memory-timesteps", "--no-plot", "--rows", "relu", "pcsnn", form)
    assert code == 1
    row = next(row for row in result["rows"] if row["form"] == form)
    assert row["right"] is False and row["seconds"] is None and row["rounds"] == []
    others = [row for row in result["rows"] if row["form"] != form]
    assert others and all(row["right"] and row["seconds"] for row in others)
    out, err = capsys.readouterr()
    assert "WRONG RESULT" in next(line for line in out.splitlines() if line.startswith(f"{row['label']}  "))
    assert "wrong results" in err and not list(tmp_path.glob("*.png"))


def test_what_cannot_run_says_why(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "spikingjelly", None)
    code, result = run(
        tmp_path, "--timesteps", "2", "--memory-timesteps", "--no-plot", "--rows", "relu", "spikingjelly", "qcfs"
    )
    assert code == 0
    remarks = {row["form"]: row["remark"] for row in result["rows"] if row["right"] is None}
    assert "pip install" in remarks["spikingjelly"] and "not trained with QCFS" in remarks["qcfs"]
    assert capsys.readouterr().out.count("not run: ") == 2


def test_a_qcfs_network_brings_its_relu_form_and_itself():
    torch.set_num_threads(1)
    network = networks.build("vgg", 4).eval()
    images = torch.randn(2, 1, 28, 28)
    load = workloads.Workload("vgg", network, images, images)
    relu = load.relu_network()
    assert load.quantized and not any(isinstance(module, type(network.features[2])) for module in relu.modules())
    with torch.no_grad():
        snn = load.convert(8)
        for form in ("relu", "qcfs", "packed", "serial", "pcsnn"):
            call, verdict = throughput.prepare(form, load, snn)
            assert verdict.right and call().shape == (2, 10), verdict.words


def test_a_shipped_network_runs_on_its_own_images(tmp_path, monkeypatch):
    path = tmp_path / "vgg.safetensors"
    described = {"model": "vgg", "data": "", "levels": "4"}
    safetensors.torch.save_file(networks.build("vgg", 4).state_dict(), path, described)
    monkeypatch.setattr(networks, "checkpoint_path", lambda name: path)
    code = throughput.main(
        [
            "--model",
            "vgg-fashion-mnist",
            "--batch",
            "3",
            "--timesteps",
            "4",
            "--repeats",
            "1",
            "--memory-timesteps",
            "--no-plot",
            "--threads",
            "1",
            "--output",
            str(tmp_path),
            "--rows",
            "relu",
            "qcfs",
            "pcsnn",
        ]
    )
    result = json.loads((tmp_path / "throughput-vgg-fashion-mnist.json").read_text())
    assert code == 0 and result["real_weights"] is True
    assert [row["remark"].partition(":")[0] for row in result["rows"]][:2] == ["timed only", "the source"]
    assert "same class on 3 of 3" in result["rows"][2]["remark"]


def test_missing_checkpoint_and_bad_options(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(networks, "checkpoint_path", lambda name: tmp_path / "none.safetensors")
    with pytest.raises(SystemExit, match="train it with train.py"):
        throughput.main(["--model", "vgg-fashion-mnist", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="images of its own"):
        throughput.main(["--model", "vgg-fashion-mnist", "--image-size", "32", "--output", str(tmp_path)])
    with pytest.raises(SystemExit):
        throughput.main(["--batch", "0"])
    with pytest.raises(SystemExit):
        throughput.main(["--timesteps", "256"])
    said = capsys.readouterr().err
    assert "--batch: expected values of at least 1" in said and "expected values in 1..255" in said
    assert not list(tmp_path.iterdir())


def test_random_networks_keep_the_size_of_their_activations():
    torch.set_num_threads(1)
    load = workloads.load("resnet18", 2, 64)
    with torch.no_grad():
        output = load.network(load.images)
    assert output.isfinite().all() and 0.01 < output.std() < 100


@on_linux
def test_peak_memory_counts_what_a_call_allocates():
    def call():
        torch.zeros(64 * MEBI, dtype=torch.uint8).add_(1)

    call()
    assert 60 * MEBI < peak_memory._peak(call, "cpu") < 80 * MEBI
    assert peak_memory._peak(lambda: None, "cpu") < 4 * MEBI


def test_memory_of_tensors_counts_those_that_live_at_once():
    def call():
        kept = torch.zeros(4 * MEBI, dtype=torch.uint8)
        for _ in range(3):
            kept.clone().clone()

    assert 12 * MEBI <= peak_memory._tensors(call) < 12 * MEBI + 2**16
    assert peak_memory._tensors(lambda: None) == 0


@on_linux
def test_peak_memory_of_a_competitor_from_a_fresh_process(monkeypatch):
    result = peak_memory.measure("packed", "cifar_resnet20", 2, 32, [1, 16], 1, "cpu", 0)
    assert result["unavailable"] is None
    assert result["peaks"][16] > 4 * result["peaks"][1] > 0
    assert result["tensors"][16] > 8 * result["tensors"][1] > 0
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(RuntimeError, match="peak memory of relu: process ended with 1"):
        peak_memory.measure("relu", "cifar_resnet20", 2, 32, [1], 1, "cpu", 0)


def test_figures_of_optimised_forms():
    def row(form, batch, of_network, speedup=None):
        return {"form": form, "batch": batch, "timesteps": 32, "of_network": of_network, "speedup": speedup}

    rows = [
        row("relu", 8, 1.0),
        row("relu-compiled", 8, 0.8),
        row("int8", 8, 0.4, 120.0),
        row("bfloat16", 8, 0.5),
        row("relu", 1, 1.0),
        row("int8", 1, 0.4),
        row("float32", 8, 1.1),
        row("pcsnn", 8, 1.0),
    ]
    memory = [
        {"form": form, "batch": 8, "timesteps": 64, "bytes": 1, "tensor_bytes": size}
        for form, size in (("relu", 100), ("int8", 41))
    ]
    result = {"options": {"model": "resnet34", "image_size": None}, "rows": rows, "memory": memory}
    lines = [
        line
        for line in throughput_report.figures(result)
        if "serial IF, T" not in line and "network itself" not in line
    ]
    assert [line.split()[0] for line in lines] == ["reached", "MISSED", "reached", "reached", "MISSED", "MISSED"]
    assert "120.0 times faster" in lines[0] and "2.00 times faster" in lines[1] and "2.50 times" in lines[2]
    assert "1.60 times" in lines[3] and "1.100 of its time" in lines[4] and "0.410" in lines[5]


def test_figures_to_reach_are_printed_for_their_setting_only():
    rows = [{"form": "pcsnn", "batch": 8, "timesteps": 32, "speedup": 40.0, "of_network": 1.2}]
    memory = [
        {"form": form, "batch": 8, "timesteps": 64, "bytes": taken, "tensor_bytes": 1}
        for form, taken in (("relu", 100), ("pcsnn", 105))
    ]
    result = {"rows": rows, "memory": memory, "options": {"model": "resnet34", "image_size": None}}
    assert [line.split()[0] for line in throughput_report.figures(result)] == ["reached", "MISSED", "reached"]
    for other in ({"model": "resnet18", "image_size": None}, {"model": "resnet34", "image_size": 64}):
        assert throughput_report.figures({**result, "options": other}) == []


def test_interleaving():
    assert timing.rounds_of(3, 15) == {0, 7, 14} and timing.rounds_of(1, 5) == {0} and timing.rounds_of(9, 2) == {0, 1}
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = timing.interleaved(calls, 4, slow={"c"}, slow_rounds=2)
    assert [seconds[name].keys() for name in "abc"] == [{0, 1, 2, 3}, {0, 1, 2, 3}, {0, 3}]
    assert sorted(order[:3]) == ["a", "b", "c"] and sorted(order[3:5]) == ["a", "b"]
    assert timing.ratio({0: 2.0, 1: 6.0, 2: 9.0}, {0: 1.0, 2: 3.0}) == 2.5
    assert timing.median({0: 2.0, 1: 6.0, 2: 9.0}) == 6.0


# ---- gpu.py ---------------------------------------------------------------------------------------------------------
def measure_dry(folder, *options):
    """The exit code of a dry run in this process and the JSON that it wrote."""
    code = gpu.main(["--dry", "--json", str(folder / "gpu.json"), "--png", str(folder / "gpu.png"), *options])
    return code, json.loads((folder / "gpu.json").read_text())


def test_the_gpu_benchmark_runs_dry(tmp_path):
    written = ["--json", tmp_path / "gpu.json", "--png", tmp_path / "gpu.png"]
    done = subprocess.run(
        [sys.executable, gpu.__file__, "--dry", *written], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(gpu.MEANINGLESS) == 2 and "WRONG" not in done.stdout and "MISSED" not in done.stdout
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["dry"] is True and not result["wrong"] and not result["left_out"] and len(result["profiles"]) == 3
    rows = [row for section in result["sections"].values() for row in section]
    assert len({row["what"] for row in rows}) == len(rows) and gpu_goals.GOALS.keys() <= {row["what"] for row in rows}
    for row in rows:
        assert row["met"] is None
        if "SpikingJelly" not in row["what"] or row["right"]:
            assert row["right"] is True and row["value"] is not None and row["what"] in done.stdout, row
    assert (tmp_path / "gpu.png").read_bytes().startswith(b"\x89PNG")


def wrong_but_for_the_reference(function, spoil):
    """The same function whose result is spoilt unless the reference is forced."""

    def run(*arguments, **options):
        result = function(*arguments, **options)
        return result if pcsnn.backend_info()["forced"] else spoil(result)

    return run


def fails(result):
    raise RuntimeError("no launch")


def test_a_wrong_result_on_the_gpu_gets_no_time(tmp_path, capsys, monkeypatch):
    for name, spoil in (("fire_counts", lambda counts: counts + 1), ("expand_spikes", fails)):
        monkeypatch.setattr(functional, name, wrong_but_for_the_reference(getattr(functional, name), spoil))
    code, result = measure_dry(tmp_path, "--only", "operators")
    assert code == 1
    out, err = capsys.readouterr()
    for row in result["sections"]["operators"]:
        wrong = "fire_counts" in row["what"] or "expand_spikes" in row["what"]
        assert row["right"] is (None if "SpikingJelly" in row["what"] and row["right"] is None else not wrong), row
        if wrong:
            assert row["value"] is None and row["milliseconds"] == {} and row["what"] in result["wrong"]
            line = next(line for line in out.splitlines() if line.startswith(f"  {row['what']}  "))
            assert "WRONG: " in line and " us" not in line and "GB/s" not in line
            assert ("no launch" if "expand" in row["what"] else "the reference") in row["remark"]
    assert "wrong results: fire_counts float32" in err


def test_the_gpu_benchmark_stops_in_time_and_says_what_is_left_out(tmp_path, capsys):
    code, result = measure_dry(tmp_path, "--only", "limits", "profile", "--seconds", "1e-9")
    assert code == 0 and result["sections"] == {"limits": []} and result["profiles"] == []
    assert result["left_out"][:3] == ["copy", "bfloat16 product", "int8 product"] and len(result["left_out"]) == 6
    out = capsys.readouterr().out
    assert out.count("left out, time is up: ") == 6 and "no picture: no row with a target was measured" in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_gpu_benchmark_needs_a_gpu(capsys):
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "no CUDA or ROCm device; --dry" in capsys.readouterr().err


@pytest.mark.parametrize(
    "commit, words", [("5b5b88fe5b43", "5b5b88f"), ("5b5b88fe5b43+", "5b5b88f+"), (None, "unknown")]
)
def test_gpu_title_says_where_files_differ_from_the_commit(commit, words):
    assert gpu_report.short(commit) == words


@pytest.mark.parametrize(
    "what,less,value,met",
    [
        ("resnet50 int8, batch 256", False, 44000, True),
        ("resnet50 int8, batch 256", False, 43999, False),
        ("a call of fire_counts", True, 20, True),
        ("a call of fire_counts", True, 20.1, False),
        ("copy", False, 1, None),
    ],
)
def test_rows_meet_their_targets_or_not(what, less, value, met):
    row = gpu_rows.measure(
        gpu_rows.Row(
            what, "", lambda setting: gpu_rows.Prepared(checks.Verdict(True, "right"), {}, lambda seconds: value), less
        ),
        Setting(),
    )
    assert row["met"] is met and row["value"] == value
    assert {True: " met ", False: " MISSED ", None: " 4,276 "}[met] in gpu_report.line(row)
    lines = gpu_report.summary({"section": [row]}, ["another row"])
    assert lines[0].startswith(f"{int(met is True)} targets met, {int(met is False)} missed")
    assert lines[-1].endswith("another row")


def test_parts_are_compared_whole():
    found = torch.arange(10).reshape(5, 2)
    assert gpu_rows.same_in_parts(found, lambda part: found[part], 3).right
    assert gpu_rows.same_in_parts(found, lambda part: found[:, part], 2, dim=1).right
    spoilt = found.clone()
    spoilt[4, 1] = 0
    words = gpu_rows.same_in_parts(spoilt, lambda part: found[part], 3).words
    assert words == "1 of 10 values differ from the reference"
    assert not gpu_rows.same_in_parts(found, lambda part: found[part].int(), 3).right


@pytest.mark.parametrize("form,function", [("collapsed-float32", "fire_rates"), ("bfloat16", "conv2d_fire")])
def test_a_wrong_layer_is_found_where_it_is(form, function, monkeypatch):
    torch.set_num_threads(1)
    forms = gpu_forms.Forms("resnet34", Setting(dry=True))
    with torch.no_grad():
        _, verdict = forms.form(form, 2)
        assert verdict.right and verdict.words.startswith("0 of ")
        right = pcsnn.operators.dispatch.call
        monkeypatch.setattr(
            pcsnn.operators.dispatch,
            "call",
            lambda name, *arguments: (
                wrong_but_for_the_reference(functools.partial(right, name), torch.zeros_like)(*arguments)
                if name == function
                else right(name, *arguments)
            ),
        )
        if form == "collapsed-float32":
            wrong = wrong_but_for_the_reference(functional.fire_rates, lambda rates: rates * 2)
            monkeypatch.setattr(functional, "fire_rates", wrong)
        assert not gpu_forms.FORMS[form](forms, 2)[1].right


def test_kernels_compile_ahead_in_processes():
    assert gpu_warm.warm(["layers", "profile"], Setting(dry=True), None, 1, 200) == []
    assert gpu_warm.warm(["layers"], Setting(dry=True), None, 1, 1e-3) == [
        "stopped after 0 s: what is left compiles where it is measured"
    ]
