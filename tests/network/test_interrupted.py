"""Runs that are killed or interrupted, and how the next one goes on."""

import gc
import os
import random
import signal
import sys
import threading
import time

import pytest
import torch
from cli_cases import NET, QUICK, folder, inside, lines, run, within  # noqa: F401 (fixtures)
from tiny_networks import LEVELS, build, inputs, one_thread  # noqa: F401
from torch import nn
from tqdm import tqdm

import pcsnn
from pcsnn import analysis

SWEEP = (
    "sweep",
    *NET,
    "--data",
    "photos",
    "--timesteps",
    2,
    3,
    4,
    5,
    8,
    16,
    "--skip",
    "time",
    "operations",
    "--quiet",
    "--output",
)


def killed(seconds, *arguments):
    """Run a command in a process that is killed after so many seconds; whether it was."""
    child = os.fork()
    if not child:
        try:
            sys.stdout = sys.stderr = open(os.devnull, "w")
            os._exit(run(*arguments))
        finally:
            os._exit(99)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def undisturbed(folder):
    """The lines of a sweep that nothing happened to, and how long it took."""
    path = folder / "undisturbed.jsonl"
    with within(folder):
        begun = time.monotonic()
        assert run(*SWEEP, path) == 0
    return path.read_bytes(), time.monotonic() - begun


def test_a_sweep_killed_at_random_moments(tmp_path, undisturbed):
    whole, seconds = undisturbed
    generator, kills = random.Random(0), 0
    for trial in range(4):
        path = tmp_path / f"{trial}.jsonl"
        for _ in range(3):
            kills += killed(generator.uniform(0, seconds), *SWEEP, path)
            content = path.read_bytes() if path.exists() else b""
            assert whole.startswith(content)  # no row lost, doubled or wrong
        assert run(*SWEEP, path) == 0 and path.read_bytes() == whole
    assert kills


def test_a_sweep_cut_anywhere_goes_on(tmp_path, undisturbed):
    whole, _ = undisturbed
    generator, path = random.Random(1), tmp_path / "s.jsonl"
    for _ in range(12):
        path.write_bytes(whole[: generator.randrange(len(whole))])
        assert run(*SWEEP, path) == 0 and path.read_bytes() == whole


def test_a_last_line_of_rubbish(tmp_path, undisturbed, capsys):
    whole, _ = undisturbed
    rows, path = whole.splitlines(keepends=True), tmp_path / "s.jsonl"
    for rest in (b"\0" * 4096, b'{"timesteps": 5', b"\xff\xfe", b"}"):  # as a machine that lost power leaves it
        path.write_bytes(b"".join(rows[:3]) + rest)
        assert run(*SWEEP, path) == 0 and path.read_bytes() == whole
        assert "its last line was cut short" in capsys.readouterr().err
    path.write_bytes(b"".join(rows[:3]) + bytes(100) + b"\n")
    assert run(*SWEEP, path) == 1 and "--output: " in (told := capsys.readouterr().err) and "line 4 is not JSON" in told


def test_a_killed_sweep_of_other_settings(tmp_path, undisturbed, capsys):
    whole, _ = undisturbed
    path = tmp_path / "s.jsonl"
    for cut in (len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:cut])
        assert run(*SWEEP, path, "--seed", 3) == 1
        assert "results of other settings" in capsys.readouterr().err and path.read_bytes() == whole[:cut]


def test_commands_stopped_by_the_keyboard(tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pcsnn, "convert", stop)
        patch.setattr(analysis, "sweep", stop)
        assert run("convert", "cli_nets:make", "--timesteps", 4, "--output", tmp_path / "o") == 130
        assert run("report", *NET, "--data", "photos", "--timesteps", 2, *QUICK, "--output", tmp_path / "o") == 130
        assert run(*SWEEP, tmp_path / "s.jsonl") == 130
    assert capsys.readouterr().err.count("stopped\n") == 3 and os.listdir(tmp_path) == ["s.jsonl"]
    assert run(*SWEEP, tmp_path / "s.jsonl") == 0  # nobody holds the file


# KeyboardInterrupt in conversions


class Interrupted:
    """Calibration data that is stopped by the keyboard in a batch of a given pass."""

    def __init__(self, batches, passes, batch):
        self.batches, self.left, self.batch = batches, passes, batch

    def __iter__(self):
        for number, item in enumerate(self.batches):
            if self.left == 0 and number == self.batch:
                raise KeyboardInterrupt
            yield item
        self.left -= 1

    def __len__(self):
        return len(self.batches)


def state_of(model):
    """All that a conversion could leave behind in a model."""
    modules = [
        (
            name,
            type(module),
            module.training,
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            module.__dict__.keys(),
        )
        for name, module in model.named_modules()
    ]
    tensors = model.state_dict(keep_vars=True)
    return modules, {name: (value.data_ptr(), value.requires_grad, value.clone()) for name, value in tensors.items()}


def same_state(one, two):
    return (
        one[0] == two[0]
        and one[1].keys() == two[1].keys()
        and all(
            value[:2] == two[1][name][:2] and torch.equal(value[2], two[1][name][2]) for name, value in one[1].items()
        )
    )


@pytest.fixture
def terminal(monkeypatch):
    """Progress bars show, as on a terminal."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    yield
    gc.collect()
    assert not tqdm._instances


@pytest.mark.parametrize(
    "method, passes, batch",
    [
        ("max", 0, 0),
        ("max", 0, 2),
        ("paper", 0, 1),
        ("paper", 1, 2),
        ("light", 0, 1),
        ("quick", 0, 1),
        ("advanced", 0, 2),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_a_conversion_stopped_by_the_keyboard_leaves_the_model(terminal, method, passes, batch, training):
    model = build("conv_bn", nn.ReLU).train(training)
    before = state_of(model)
    x = inputs("conv_bn")[0]
    expected = pcsnn.convert(model, 5, calibration=[x] * 4, method="max", progress=False)(x)
    grad, seed = torch.is_grad_enabled(), torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        pcsnn.convert(model, 5, calibration=Interrupted([x] * 4, passes, batch), method=method)
    assert same_state(before, state_of(model))
    assert torch.is_grad_enabled() == grad and torch.equal(torch.get_rng_state(), seed)
    assert torch.equal(pcsnn.convert(model, 5, calibration=[x] * 4, method="max", progress=False)(x), expected)


@pytest.mark.parametrize("after", [0.02, 0.1, 0.3])
def test_a_signal_in_the_middle_of_a_conversion(terminal, after):
    model = build("residual", nn.ReLU)
    before, x = state_of(model), inputs("residual", batch=32)[0]
    timer = threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT))
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            for _ in range(1000):  # until it comes
                pcsnn.convert(model, 6, calibration=[x] * 4, method="advanced")
    finally:
        timer.join()
        signal.signal(signal.SIGINT, handler)
    assert same_state(before, state_of(model))


@pytest.mark.parametrize("tool", ["sweep", "layer_errors", "count_operations", "check_shuffle", "evaluate"])
def test_analyses_stopped_by_the_keyboard(terminal, tool):
    model, x = build("residual"), inputs("residual")[0]
    snn = pcsnn.convert(model, LEVELS)
    before, data = state_of(snn), Interrupted([x] * 3, 1 if tool == "sweep" else 0, 1)
    calls = {
        "sweep": lambda: analysis.sweep(model, data, [3, 4], "none"),
        "layer_errors": lambda: analysis.layer_errors(model, snn, data),
        "count_operations": lambda: analysis.count_operations(snn, data),
        "check_shuffle": lambda: analysis.check_shuffle(snn, data),
        "evaluate": lambda: analysis.evaluate(snn, data, spikes=True),
    }
    with pytest.raises(KeyboardInterrupt):
        calls[tool]()
    assert same_state(before, state_of(snn))
    with pcsnn.record(snn) as recording:
        snn(x)
    assert len(recording.counts["last"]) == len(x)
