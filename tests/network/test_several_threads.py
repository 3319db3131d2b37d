"""Several threads, and calls inside calls, with one network: what belongs to one call stays with it."""

import asyncio
import contextvars
import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny_networks import LEVELS, build, inputs, one_thread  # noqa: F401
from torch.utils._pytree import tree_leaves

import pcsnn
from pcsnn import analysis, baselines, functional
from pcsnn.analysis.quality import errors
from pcsnn.baselines.serial_network import SerialIF
from pcsnn.operators import dispatch

THREADS = 4


def converted(name="residual"):
    return pcsnn.convert(build(name), LEVELS)


def in_step(*works):
    """What each work gives, run in a thread of its own; meet() inside waits for all of them."""
    barrier = threading.Barrier(len(works), timeout=30)
    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(work, barrier.wait) for work in works]]


def test_serial_calls_of_two_threads(monkeypatch):
    serial = baselines.serial(converted())
    batches = [inputs("residual", seed=seed) for seed in range(2)]
    expected = [serial(*batch) for batch in batches]
    fire = SerialIF.fire
    barrier = threading.Barrier(2, timeout=30)

    def in_turns(self, *currents):
        barrier.wait()
        spikes = fire(self, *currents)
        barrier.wait()
        return spikes

    monkeypatch.setattr(SerialIF, "fire", in_turns)
    with ThreadPoolExecutor(2) as pool:
        assert all(torch.equal(one, two) for one, two in zip(pool.map(lambda batch: serial(*batch), batches), expected))


def test_a_serial_call_inside_another_of_the_same_network():
    serial, x, inner = baselines.serial(converted()), inputs("residual"), []
    expected = serial(*x)
    neuron = next(module for module in serial.modules() if isinstance(module, SerialIF))

    def nested(module, arguments):
        if len(inner) < 3:
            place = len(inner)
            inner.append(None)
            inner[place] = serial(*x)

    handle = neuron.register_forward_pre_hook(nested)
    assert torch.equal(serial(*x), expected) and len(inner) == 3
    assert all(torch.equal(out, expected) for out in inner)
    handle.remove()
    assert neuron.potential is None


def test_a_serial_call_that_fails_leaves_nothing_behind():
    serial, (x,) = baselines.serial(converted()), inputs("residual")
    expected = serial(x)
    with pytest.raises(RuntimeError):
        serial(torch.zeros(1, 2, 8, 8))
    assert torch.equal(serial(x), expected)
    assert all(module.potential is None for module in serial.modules() if isinstance(module, SerialIF))


def test_serial_neurons_stepped_by_hand():
    neuron, z = SerialIF(1.25), torch.randn(THREADS, 50, dtype=torch.float64) * 2

    def train(values):
        neuron.reset()
        return torch.stack([neuron(values) for _ in range(9)])

    expected = [train(values) for values in z]
    neuron.reset()
    first = neuron(z[0])

    def stepped(number, meet):
        steps = []
        for _ in range(9):
            meet()
            steps.append(neuron(z[number]))
        return torch.stack(steps)

    for found, wanted in zip(
        in_step(*(lambda meet, number=number: stepped(number, meet) for number in range(THREADS))), expected
    ):
        assert torch.equal(found, wanted)
    assert torch.equal(torch.stack([first, neuron(z[0])]), expected[0][:2])  # this thread's train went on
    assert copy.deepcopy(neuron).potential is None


def test_operations_are_counted_beside_another_count():
    snn, x = converted(), inputs("residual")[0]
    expected = analysis.count_operations(snn, x, progress=False).as_dict()

    def count(meet):
        meet()
        return analysis.count_operations(snn, x, progress=False).as_dict()

    assert in_step(count, count) == [expected] * 2


# recordings


def test_a_recording_holds_what_its_thread_ran():
    snn = converted()

    def recorded(number, meet):
        x = torch.randn(number + 1, 3, 8, 8, generator=torch.Generator().manual_seed(number))
        with pcsnn.record(snn) as recording:
            for _ in range(3):
                meet()
                snn(x)
            meet()
        return x, recording

    for x, recording in in_step(*(lambda meet, number=number: recorded(number, meet) for number in range(THREADS))):
        with pcsnn.record(snn) as alone:
            snn(x)
        for layer, counts in alone.counts.items():
            assert torch.equal(recording.counts[layer], counts.repeat(3, 1, 1, 1))
    assert not any(module._forward_pre_hooks for module in snn.modules())


def test_a_thread_started_inside_is_recorded_where_it_takes_the_context_along():
    snn, x = converted(), inputs("residual")
    with pcsnn.record(snn) as recording, ThreadPoolExecutor(1) as pool:
        pool.submit(snn, *x).result()
        assert recording.counts == {}
        pool.submit(contextvars.copy_context().run, snn, *x).result()
    assert len(recording.counts["last"]) == len(x[0])


def test_tasks_record_apart():
    snn, (x,) = converted(), inputs("residual")

    async def recorded(count):
        with pcsnn.record(snn) as recording:
            for _ in range(count):
                snn(x)
                await asyncio.sleep(0)
        return len(recording.counts["last"])

    async def all_of_them():
        return await asyncio.gather(*map(recorded, (1, 3, 2)))

    assert asyncio.run(all_of_them()) == [len(x), 3 * len(x), 2 * len(x)]


def test_recordings_may_end_in_another_order_than_they_began():
    snn, (x,) = converted(), inputs("residual")
    first, second = pcsnn.record(snn), pcsnn.record(snn)
    one, two = first.__enter__(), second.__enter__()
    snn(x)
    first.__exit__(None, None, None)
    snn(x)
    second.__exit__(None, None, None)
    snn(x)
    assert [len(recording.counts["last"]) for recording in (one, two)] == [len(x), 2 * len(x)]


def test_a_copy_of_a_recorded_network_is_not_recorded():
    snn, (x,) = converted(), inputs("residual")
    with pcsnn.record(snn) as recording:
        other = copy.deepcopy(snn)
        other(x)
    assert recording.counts == {} and torch.equal(other(x), snn(x))


def test_spikes_are_counted_beside_other_forwards(monkeypatch):
    snn, x = converted(), inputs("residual")[0]
    net, stop = build("residual"), threading.Event()
    module = errors
    network, count = module.float_network(net)  # traced once: forwards during a trace are a matter of conversions
    monkeypatch.setattr(module, "float_network", lambda *_: (copy.deepcopy(network), count))
    due = analysis.evaluate(snn, x, spikes=True, progress=False), analysis.layer_errors(net, snn, x, progress=False)

    def others():
        while not stop.is_set():
            snn(x[:1])

    thread = threading.Thread(target=others)
    thread.start()
    try:
        for _ in range(5):
            assert analysis.evaluate(snn, x, spikes=True, progress=False) == due[0]
            assert analysis.layer_errors(net, snn, x, progress=False) == due[1]
    finally:
        stop.set()
        thread.join()


def test_shuffle_checks_side_by_side():
    snn, x = converted(), inputs("residual")[0]
    expected = str(analysis.check_shuffle(snn, x, progress=False))
    checks = in_step(*[lambda meet: analysis.check_shuffle(snn, x, progress=False)] * 2)
    assert {str(check) for check in checks} == {expected}


@pytest.mark.parametrize("form", ["collapsed", "packed", "int8"])
def test_forms_without_state(form):
    snn = converted("convolutions")
    make = {
        "collapsed": lambda: snn,
        "packed": lambda: baselines.packed(snn),
        "int8": lambda: pcsnn.optimize(snn, "int8"),
    }
    network = make[form]()
    batches = [inputs("convolutions", seed=seed) for seed in range(THREADS)]
    expected = [tree_leaves(network(*batch)) for batch in batches]

    def many(number, meet):
        meet()
        return [tree_leaves(network(*batches[number])) for _ in range(5)]

    for found, wanted in zip(
        in_step(*(lambda meet, number=number: many(number, meet) for number in range(THREADS))), expected
    ):
        assert all(torch.equal(one, two) for leaves in found for one, two in zip(leaves, wanted, strict=True))


# backends


def forced():
    return pcsnn.backend_info()["forced"]


def test_a_backend_is_forced_in_one_thread():
    def reference(meet):
        with pcsnn.use_backend("reference"):
            meet()
            inside = forced()
            meet()
        return inside, forced()

    def cpp(meet):
        meet()
        with pcsnn.use_backend("c++"):
            meet()
            return forced()

    def neither(meet):
        meet()
        found = forced(), dispatch.is_forced()
        meet()
        return found

    assert in_step(reference, cpp, neither) == [("reference", None), "c++", (None, False)]
    assert forced() is None


def test_threads_started_inside_keep_the_default(monkeypatch):
    called, rates, operator = [], functional.fire_counts, dispatch._operators["fire_counts"]
    monkeypatch.setitem(
        dispatch._operators,
        "fire_counts",
        operator._replace(
            reference=lambda *arguments: called.append(threading.get_ident()) or operator.reference(*arguments)
        ),
    )
    arguments = torch.randn(3, 4), functional.levels(1.0, 4)
    with pcsnn.use_backend("reference"), ThreadPoolExecutor(1) as pool:
        pool.submit(rates, *arguments).result()
        assert not called
        pool.submit(contextvars.copy_context().run, rates, *arguments).result()
        rates(*arguments)
    assert len(called) == 2 and called[1] == threading.get_ident() != called[0]


def test_backends_may_end_in_another_order_than_they_began():
    one, two = pcsnn.use_backend("reference"), pcsnn.use_backend("c++")
    one.__enter__(), two.__enter__()
    assert forced() == "c++"
    one.__exit__(None, None, None)
    assert forced() == "c++"
    two.__exit__(None, None, None)
    assert forced() is None and not dispatch.is_forced()


def test_a_backend_left_in_another_context_is_left():
    entered = pcsnn.use_backend("reference")
    entered.__enter__()
    contextvars.copy_context().run(entered.__exit__, None, None, None)
    with pcsnn.use_backend("c++"):
        assert forced() == "c++"
    assert forced() is None


def test_tasks_force_apart():
    async def of(name):
        with pcsnn.use_backend(name):
            await asyncio.sleep(0)
            return forced()

    async def all_of_them():
        return await asyncio.gather(of("reference"), of("c++"), of("reference"))

    assert asyncio.run(all_of_them()) == ["reference", "c++", "reference"]


def test_compiled_code_follows_what_is_forced(monkeypatch):
    torch._dynamo.reset()
    operator = dispatch._operators["fire_counts"]
    zeros = operator._replace(reference=lambda current, *others: torch.zeros_like(current))
    monkeypatch.setitem(dispatch._operators, "fire_counts", zeros)
    arguments = torch.randn(3, 4), functional.levels(1.0, 4)
    compiled = torch.compile(functional.fire_counts, backend="eager", fullgraph=True)
    expected = compiled(*arguments)
    for _ in range(10):  # a recompilation for each block would run into the limit
        with pcsnn.use_backend("reference"):
            assert not compiled(*arguments).any()
    assert torch.equal(compiled(*arguments), expected)
    torch._dynamo.reset()
