"""pcsnn.optimize(graph=): what is captured, replayed, dropped, by a tape in place of CUDA graphs; and on a GPU."""

import contextlib
import copy
import itertools
import json
import pickle
import threading

import network_files
import pytest
import torch
from tiny_networks import LEVELS, build, inputs, network, one_thread  # noqa: F401
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import pcsnn
from pcsnn.network import cuda_graphs

FORMS = ("float32", "bfloat16", "int8")


def storage(tensor):
    return tensor.untyped_storage().data_ptr()


class Tape(TorchDispatchMode):
    """Runs operations, and keeps them with what they read and wrote, as a CUDA graph keeps launches and addresses."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.steps.append((function, args, kwargs or {}, out))
        return out

    def replay(self):
        with torch.inference_mode(False), torch.no_grad():
            for function, args, kwargs, out in self.steps:
                for old, new in zip(pytree.tree_leaves(out), pytree.tree_leaves(function(*args, **kwargs))):
                    if isinstance(old, torch.Tensor) and storage(old) != storage(new):  # no view, not in place
                        old.copy_(new)


class Taped:
    """Stands for graphs.Device, on the CPU."""

    busy = False

    def __init__(self, device):
        self.device, self.inside, self.outputs = device, 0, []

    @staticmethod
    def takes(tensor):
        return tensor.device.type in ("cpu", "meta")

    @classmethod
    def capturing(cls):
        return cls.busy

    @contextlib.contextmanager
    def turn(self):
        self.inside += 1
        assert self.inside == 1, "two calls use the memory of a network's graphs at once"
        try:
            yield
        finally:
            self.inside -= 1

    def warm_up(self, run):
        log.append("warm")
        run()
        return run()

    def capture(self, run, first):
        assert log[-1] == "warm"
        log.append("first" if first else "capture")
        tape = Tape()
        with tape:
            out = run()
        self.outputs = [out] if first else [*self.outputs, out]

        def replay():
            log.append("replay")
            tape.replay()

        return replay, out

    def fill(self, static, source):
        assert static.is_contiguous() and not static.is_inference()
        static.copy_(source)

    def bytes(self):
        return sum(value.nbytes for value in pytree.tree_leaves(self.outputs))


log = []


@pytest.fixture
def tape(monkeypatch):
    """What was done, in order: "warm", "first" or "capture", "replay"."""
    log.clear()
    monkeypatch.setattr(cuda_graphs.Graphs, "device_class", Taped)
    monkeypatch.setattr(Taped, "busy", False)
    yield log


FIRST, AGAIN, NEW = ["warm", "first", "replay"], ["replay"], ["warm", "capture", "replay"]


def done():
    """What was done since it was last asked."""
    found = log[:]
    log.clear()
    return found


def graphic(name="residual", form="float32", graph=True):
    """A network with graphs, and the same without."""
    snn = pcsnn.convert(build(name), LEVELS, strict=False, progress=False)
    return pcsnn.optimize(snn, form, graph=graph), pcsnn.optimize(snn, form)


def same(found, expected):
    found, expected = pytree.tree_flatten(found), pytree.tree_flatten(expected)
    return found[1] == expected[1] and all(
        a.dtype == b.dtype and a.device == b.device and a.requires_grad == b.requires_grad and torch.equal(a, b)
        if isinstance(a, torch.Tensor)
        else a == b
        for a, b in zip(found[0], expected[0])
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "name",
    [
        "residual",
        "two_inputs",
        "dict_output",
        "tuple_output",
        "options",
        "slices",
        "sizes",
        "max_pool_first",
        "attention",
        "add_a_size",
    ],
)
def test_replays_are_what_the_network_says(tape, name, form):
    snn, plain = graphic(name, form)
    kept = []
    for call, (batch, seed) in enumerate([(3, 1), (3, 2), (2, 3), (3, 4), (2, 5)]):
        x = inputs(name, batch=batch, seed=seed)
        before = copy.deepcopy(x)
        kept.append((snn(*x), plain(*x)))
        assert done() == (FIRST, AGAIN, NEW, AGAIN, AGAIN)[call]
        assert same(x, before)
    assert all(same(found, expected) for found, expected in kept)  # later calls have left earlier outputs alone


def test_an_output_is_the_callers_own(tape):
    snn, plain = graphic("tuple_output")
    x = inputs("tuple_output")
    for value in pytree.tree_leaves(snn(*x)):
        value.fill_(torch.nan)
    assert same(snn(*x), plain(*x)) and done() == FIRST + AGAIN


def test_inputs_by_name(tape):
    snn, plain = graphic("two_inputs")
    one, two = inputs("two_inputs")
    names = [node.name for node in snn.network.graph.nodes if node.op == "placeholder"]
    for x, y in ((one, two), (two, one)):
        for found in (snn(x, **{names[1]: y}), snn(**{names[0]: x, names[1]: y}), snn(x, y)):
            assert same(found, plain(x, y))
    assert done() == FIRST + NEW + NEW + 3 * AGAIN


class Options(nn.Module):
    """Arguments of all kinds."""

    def forward(self, x, scale=1.0, extra=None, mode="sum"):
        out = x * scale if mode == "sum" else x - scale
        return out if extra is None else {"out": out, "more": [extra["y"][0] + 1, mode], "size": x.shape, "none": None}


def test_arguments_of_other_kinds(tape):
    x, module, kept = torch.randn(3, 4), Options(), cuda_graphs.Graphs(8)
    for arguments in (
        {},
        {"scale": 2.0},
        {"scale": 2},
        {"scale": True},
        {"scale": 1},
        {"scale": -0.0},
        {"scale": 0.0},
        {"mode": "other"},
        {"scale": torch.tensor(3.0)},
        {"extra": {"y": (torch.randn(2),)}},
    ):
        for expected in (NEW, AGAIN):
            x = torch.randn(3, 4)
            assert same(kept.run(module, (x,), arguments), module(x, **arguments))
            assert done() == (FIRST if arguments == {} and expected is NEW else expected), arguments
    assert kept.run(module, (x,), {"scale": 1j, "extra": None}).is_complex() and done() == NEW
    with pytest.raises(TypeError):
        kept.run(module, (x, object()), {})
    assert done() == []  # of a kind that has no graphs


def test_another_number_of_arguments_is_another_kind(tape):
    kept, module, x = cuda_graphs.Graphs(8), Options(), torch.randn(3)
    kept.run(module, (x, 2.0), {})
    assert done() == FIRST
    assert same(kept.run(module, (x,), {"scale": 2.0}), x * 2) and done() == NEW
    assert same(kept.run(module, (x, 2.0), {}), x * 2) and done() == AGAIN


@pytest.mark.parametrize("weights", FORMS)
def test_layouts_are_kept(tape, weights):
    """Channels last, and memory with gaps and repetitions, are kinds of their own, and are read as they are."""
    snn, plain = graphic("residual", weights)
    seen, kept = [], cuda_graphs.Graphs(8)

    class Strides(nn.Module):
        def forward(self, x):
            seen.append(x.stride())
            return x + 1

    def layouts():
        x = torch.randn(3, 3, 8, 8)
        wide = torch.randn(3, 3, 16, 8)
        return (
            x,
            x.contiguous(memory_format=torch.channels_last),
            wide[:, :, ::2],
            wide[:, :, 8:],
            x.transpose(2, 3),
            x[:1].expand(3, -1, -1, -1),
            torch.randn(3, 3, 15).unfold(2, 8, 1),
            x[..., :1].expand(-1, -1, -1, 8),
        )

    strides = Strides()
    for expected in (NEW, AGAIN):
        for place, x in enumerate(layouts()):
            assert same(snn(x), plain(x))
            assert done() == (FIRST if expected is NEW and place == 0 else expected)
            assert same(kept.run(strides, (x,), {}), x + 1) and (expected is AGAIN or set(seen[-3:]) == {x.stride()})
            done()


def test_the_least_recently_used_graph_goes_first(tape):
    snn, plain = graphic(graph=2)
    one, two, three = (inputs("residual", batch=batch) for batch in (1, 2, 3))
    for x, expected in (
        (one, FIRST),
        (two, NEW),
        (one, AGAIN),
        (three, NEW),
        (one, AGAIN),
        (two, NEW),
        (three, NEW),
        (two, AGAIN),
    ):
        assert same(snn(*x), plain(*x)) and done() == expected
    snn.max_graphs = 1
    for x, expected in ((one, FIRST), (two, FIRST), (two, AGAIN), (one, FIRST)):
        assert same(snn(*x), plain(*x)) and done() == expected


# Invalidation


def _load(snn):
    state = snn.state_dict()
    snn.load_state_dict({name: value * 0.75 if value.is_floating_point() else value for name, value in state.items()})


def _some_weight(snn):
    """A tensor that a layer multiplies by, and its owner."""
    return next(
        (module, module.weight)
        for module in snn.network.modules()
        if isinstance(getattr(module, "weight", None), torch.Tensor)
    )


def _write(snn):
    with torch.no_grad():
        _some_weight(snn)[1].neg_()


def _replace(snn):
    module, weight = _some_weight(snn)
    weight = -weight.detach()
    module.weight = nn.Parameter(weight, requires_grad=False) if "weight" in module._parameters else weight


def _data(snn):
    _some_weight(snn)[1].data = -_some_weight(snn)[1].data


class Zeros(nn.Module):
    """In the place of a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *inputs):
        return self.layer(*inputs) * 0


def _module(snn):
    name = next(node.target for node in snn.network.graph.nodes if node.op == "call_module")
    snn.network.set_submodule(name, Zeros(snn.network.get_submodule(name)))


def _code(snn):
    output = next(node for node in snn.network.graph.nodes if node.op == "output")
    with snn.network.graph.inserting_before(output):
        output.args = (snn.network.graph.call_function(torch.neg, (output.args[0],)),)
    snn.network.recompile()


CHANGES = {
    "set_timesteps": lambda snn: pcsnn.set_timesteps(snn, 2 * LEVELS),
    "spike_levels": lambda snn: pcsnn.set_timesteps(snn, LEVELS, 2),
    "load_state_dict": _load,
    "write": _write,
    "replace": _replace,
    "data": _data,
    "module": _module,
    "code": _code,
    "to": lambda snn: snn.to("cpu"),
    "drop_graphs": lambda snn: snn.drop_graphs(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", CHANGES)
def test_changes_drop_the_graphs(tape, change, form):
    snn, plain = graphic("residual", form)
    one, two = inputs("residual", batch=2), inputs("residual", batch=3)
    for x in (one, two):
        assert same(snn(*x), plain(*x))
    assert done() == FIRST + NEW and snn.graph_bytes
    CHANGES[change](snn)
    CHANGES[change](plain)
    for x, expected in ((one, FIRST), (two, NEW), (one, AGAIN)):
        assert same(snn(*x), plain(*x)) and done() == expected
    assert change in ("to", "drop_graphs", "set_timesteps", "spike_levels") or not same(
        snn(*one), graphic("residual", form)[1](*one)
    )


def test_without_a_watch_a_graph_is_stale(tape, monkeypatch):
    """That is, the tape is like a CUDA graph: it does not see what is put in the place of a tensor."""
    snn, plain = graphic()
    x = inputs("residual")
    snn(*x)
    monkeypatch.setattr(cuda_graphs._Watched, "unchanged", lambda self, network: True)
    for one in (snn, plain):
        _replace(one)
    assert not same(snn(*x), plain(*x))


def test_memory_is_stated_and_freed(tape):
    snn, plain = graphic("dict_output")
    assert snn.graph_bytes == 0
    x, y = inputs("dict_output"), inputs("dict_output", batch=1)
    expected = 0
    for given in (x, y, x):
        out = snn(*given)
        expected += 0 if expected and given is x else sum(value.nbytes for value in (*given, *out.values()))
        assert snn.graph_bytes == expected
    snn.drop_graphs()
    assert snn.graph_bytes == 0
    snn(*x)
    assert snn.graph_bytes
    snn.double().float()
    assert snn.graph_bytes == 0
    assert plain.graph_bytes == plain.max_graphs == 0
    plain.drop_graphs()


# Calls that others watch or change


@pytest.mark.parametrize("form", FORMS)
def test_recordings_see_real_layers_and_leave_the_graphs(tape, form):
    snn, plain = graphic("residual", form)
    x = inputs("residual")
    snn(*x)
    done()
    with pcsnn.record(snn) as found, pcsnn.record(plain) as expected:
        assert same(snn(*x), plain(*x))
        plain(*x), snn(*x)
    assert done() == [] and found.counts and same(found.counts, expected.counts)
    assert same(snn(*x), plain(*x)) and done() == AGAIN


def test_hooks_are_called(tape):
    snn, x = graphic()[0], inputs("residual")
    snn(*x)
    done()
    layer, seen = dict(snn.neurons()).popitem()[1], []
    for register in (
        layer.register_forward_hook,
        layer.register_forward_pre_hook,
        snn.network.register_forward_hook,
        nn.modules.module.register_module_forward_hook,
    ):
        hook = register(lambda *_: seen.append(1))
        snn(*x)
        hook.remove()
        assert seen and done() == []
        seen.clear()
    snn(*x)
    assert done() == AGAIN
    snn.register_forward_hook(lambda *_: seen.append(1))  # outside of what is captured
    snn(*x)
    assert seen and done() == AGAIN


class Both(nn.Module):
    def forward(self, x, y):
        return x + 1, y


class Seen(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names = [*getattr(self, "names", []), str(function)]
        return function(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names = [*getattr(self, "names", []), str(function)]
        return function(*args, **(kwargs or {}))


class Mine(torch.Tensor):
    """A subclass."""


def _busy(snn, x, expected):
    Taped.busy = True
    assert same(snn(x), expected)


def _within(context):
    def call(snn, x, expected):
        with context() as mode:
            assert torch.equal(snn(x), expected) and getattr(mode, "names", True)

    return call


def _vmapped(snn, x, expected):
    with contextlib.suppress(RuntimeError):  # operators of ours may have no batching rule
        torch.func.vmap(snn, randomness="same")(x[None])


def _gradient(snn, x, expected):
    with contextlib.suppress(RuntimeError):  # fused layers have none
        snn(x.clone().requires_grad_())


PLAIN_CALLS = {
    "dispatch_mode": _within(Seen),
    "function_mode": _within(Functions),
    "use_backend": _within(lambda: pcsnn.use_backend("reference")),
    "capturing": _busy,
    "vmap": _vmapped,
    "gradient": _gradient,
    "autocast": lambda snn, x, expected: _autocast(snn, x),
    "subclass": lambda snn, x, expected: snn(x.as_subclass(Mine)),
    "empty": lambda snn, x, expected: snn(x[:0]),
    "jit_trace": lambda snn, x, expected: torch.jit.trace(snn, (x,), check_trace=False),
    "two_devices": lambda snn, x, expected: snn._graphs.run(Both(), (x, torch.empty((), device="meta")), {}),
    "replica": lambda snn, x, expected: _replica(snn, x, expected),
    "fake": lambda snn, x, expected: _fake(snn, x),
}


def _autocast(snn, x):
    with torch.autocast("cpu", torch.bfloat16):
        assert snn._graphs.run(nn.Linear(8, 2).requires_grad_(False), (x,), {}).dtype == torch.bfloat16


def _replica(snn, x, expected):
    replica = snn._replicate_for_data_parallel()
    replica.network = snn.network._replicate_for_data_parallel()
    assert same(replica(x), expected)


def _fake(snn, x):
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert isinstance(snn(mode.from_tensor(x)), torch._subclasses.FakeTensor)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PLAIN_CALLS)
def test_calls_that_run_without_graphs(tape, name):
    snn, plain = graphic()
    (x,) = inputs("residual")
    expected = plain(x)
    PLAIN_CALLS[name](snn, x, expected)
    assert done() == []
    Taped.busy = False
    assert same(snn(x), expected) and done() == FIRST
    PLAIN_CALLS[name](snn, x, expected)
    assert done() == []
    Taped.busy = False
    assert same(snn(x), expected) and done() == AGAIN


def test_calls_whose_parameters_learn_run_without_graphs(tape):
    snn, (x,) = pcsnn.convert(build("residual"), LEVELS), inputs("residual")
    expected = snn(x)
    snn.max_graphs = 4
    assert same(snn(x), expected) and done() == FIRST
    snn.requires_grad_(True)
    out = snn(x)
    assert out.requires_grad and torch.equal(out, expected) and done() == []
    with torch.no_grad():
        assert same(snn(x), expected) and done() == FIRST
    snn.requires_grad_(False)
    assert same(snn(x), expected) and done() == FIRST


def test_calls_that_have_graphs_all_the_same(tape):
    snn, plain = graphic()
    (x,) = inputs("residual")
    expected = plain(x)
    for first, call in enumerate(
        (
            torch.no_grad,
            torch.inference_mode,
            torch.enable_grad,
            lambda: torch.device("cpu"),
            lambda: torch.autocast("cuda", enabled=False),
        )
    ):
        with call():
            assert torch.equal(snn(x), expected) and done() == (AGAIN if first else FIRST)
    with torch.no_grad():
        assert same(snn(x.clone().requires_grad_()), expected) and done() == AGAIN
    assert same(snn(nn.Parameter(x, requires_grad=False)), expected) and done() == AGAIN


def test_inference_mode(tape):
    """A graph captured inside it serves outside, and the other way round; networks made in it have graphs."""
    x, y = inputs("residual"), inputs("residual", batch=2)
    with torch.inference_mode():
        made, plain = graphic()
    for snn in (graphic()[0], made):
        log.clear()
        with torch.inference_mode():
            inside, own = snn(*x), x[0] + 0
            assert inside.is_inference() and same(snn(own), plain(own)) and own.is_inference()
        assert not snn(*x).is_inference() and same(snn(own), plain(*x)) and done() == FIRST + 3 * AGAIN
        assert same(snn(*y), plain(*y)) and done() == NEW
        with torch.inference_mode():
            assert same(snn(*y), plain(*y)) and done() == AGAIN
    _replace(made)  # by one that has a version, among those that have none
    made(*x)
    assert done() == FIRST
    _write(made)
    assert torch.equal(made(*x), plain(*x)) and done() == FIRST  # turned twice


def test_a_subclass_among_the_weights_has_no_graphs(tape):
    snn, plain = graphic()
    x = inputs("residual")
    module, weight = _some_weight(snn)
    name = "_parameters" if "weight" in module._parameters else "_buffers"
    getattr(module, name)["weight"] = weight.as_subclass(Mine)
    assert torch.equal(snn(*x).as_subclass(torch.Tensor), plain(*x)) and done() == []


# Errors


def test_arguments_are_checked():
    snn = pcsnn.convert(build("mlp"), LEVELS)
    for graph, error in ((2.0, TypeError), ("yes", TypeError), (None, TypeError), (-1, ValueError), (1025, ValueError)):
        with pytest.raises(error, match="^graph: expected "):
            pcsnn.optimize(snn, graph=graph)
        with pytest.raises(error, match="^max_graphs: expected "):
            snn.max_graphs = graph
    assert [pcsnn.optimize(snn, graph=graph).max_graphs for graph in (False, True, 0, 1, 3)] == [0, 8, 0, 1, 3]
    snn.max_graphs = 2
    assert pcsnn.optimize(snn).max_graphs == 0


def test_errors_of_the_network_are_its_own_and_cost_no_graph(tape):
    snn, plain = graphic(graph=1)
    x = inputs("residual")
    snn(*x)
    done()
    with pytest.raises(Exception) as expected:
        plain(x[0][:, :2])
    with pytest.raises(type(expected.value)) as found:
        snn(x[0][:, :2])
    assert str(found.value) == str(expected.value) and done() == ["warm"]
    assert same(snn(*x), plain(*x)) and done() == AGAIN


@pytest.mark.parametrize(
    "error, raised, words",
    [
        (RuntimeError("not permitted"), RuntimeError, "^max_graphs: expected .*max_graphs = 0.*, got not permitted"),
        (torch.OutOfMemoryError("no memory"), torch.OutOfMemoryError, "^no memory"),
    ],
    ids=["not_permitted", "memory"],
)
def test_a_capture_that_fails(tape, monkeypatch, error, raised, words):
    snn, plain = graphic()
    x, y = inputs("residual"), inputs("residual", batch=1)
    snn(*x)
    done()

    def fails(self, run, first):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Taped, "capture", fails)
        with pytest.raises(raised, match=words):
            snn(*y)
    assert same(snn(*x), plain(*x)) and same(snn(*y), plain(*y)) and done() == ["warm"] + AGAIN + NEW


def test_outputs_that_cannot_be_copied_are_an_error(tape):
    class Box:
        pass

    class Boxed(nn.Module):
        def forward(self, x):
            return {"box": Box()}

    with pytest.raises(TypeError, match="^max_graphs: expected .* got Box;"):
        cuda_graphs.Graphs(2).run(Boxed(), (torch.randn(2),), {})
    assert done() == ["warm"]


# Copies, files, threads, nesting


def test_copies_have_graphs_of_their_own(tape, tmp_path):
    snn, plain = graphic("two_inputs", "int8", graph=3)
    x = inputs("two_inputs")
    snn(*x)
    pcsnn.save(snn, tmp_path / "net.safetensors")
    torch.save(copy.deepcopy(snn), tmp_path / "net.pt")  # pickling a GraphModule compiles its code anew
    copies = (
        copy.deepcopy(snn),
        pcsnn.load(tmp_path / "net.safetensors"),
        torch.load(tmp_path / "net.pt", weights_only=False),
        pickle.loads(pickle.dumps(copy.deepcopy(snn))),
    )
    done()
    for other in copies:
        assert other.max_graphs == 3 and other.graph_bytes == 0
        assert same(other(*x), plain(*x)) and done() == FIRST
        _write(other)
    assert same(snn(*x), plain(*x)) and done() == AGAIN
    pcsnn.save(plain, tmp_path / "plain.safetensors")
    assert pcsnn.load(tmp_path / "plain.safetensors").max_graphs == 0
    assert b"max_graphs" not in (tmp_path / "plain.safetensors").read_bytes()  # as files were before


@pytest.mark.parametrize("number", ['"2"', "-1", "1e9", "null", "true"])
def test_broken_files_are_value_errors(tmp_path, number):
    snn = graphic("mlp", graph=7)[0]
    pcsnn.save(snn, tmp_path / "net.safetensors")
    description, tensors = network_files.parts(tmp_path / "net.safetensors")
    assert description["max_graphs"] == 7
    network_files.write(tmp_path / "net.safetensors", description | {"max_graphs": json.loads(number)}, tensors)
    with pytest.raises(ValueError, match="max_graphs"):
        pcsnn.load(tmp_path / "net.safetensors")


def test_threads_share_the_graphs(tape):
    snn, plain = graphic("residual", graph=2)
    cases = [(x, plain(*x)) for x in [inputs("residual", batch=batch) for batch in (1, 2, 3)]]
    wrong, start = [], threading.Barrier(4)

    def work(first):
        start.wait()
        for x, expected in itertools.islice(itertools.cycle(cases[first % 3 :] + cases[: first % 3]), 30):
            try:
                out = snn(*x)
                if not torch.equal(out, expected):
                    raise AssertionError("wrong result")
            except Exception as error:
                wrong.append(error)

    workers = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == [] and done().count("replay") == 120


def test_a_network_inside_another_is_part_of_its_graph(tape):
    inner, plain = graphic()
    outer = cuda_graphs.Graphs(2)
    holder = nn.Sequential(inner, nn.Flatten())
    for seed, expected in ((1, FIRST), (2, AGAIN)):
        x = inputs("residual", seed=seed)
        assert same(outer.run(holder, x, {}), plain(*x).flatten(1)) and done() == expected


def test_another_network_in_the_place_of_the_first(tape):
    snn, other = graphic()[0], graphic("residual", "int8")[1]
    x = inputs("residual")
    snn(*x)
    snn.network = other.network
    assert same(snn(*x), other(*x)) and done() == FIRST + FIRST


@pytest.mark.parametrize("form", FORMS)
def test_on_a_cpu_calls_run_as_without(form):
    snn, plain = graphic("residual", form)
    for batch in (2, 3):
        x = inputs("residual", batch=batch)
        assert same(snn(*x), plain(*x)) and snn.graph_bytes == 0
    assert snn.max_graphs == 8 and snn._graphs._captured == []


# torch.compile and export


@pytest.mark.parametrize("form", ("converted", *FORMS))
def test_compiled_and_exported_networks_have_no_graph_breaks(tape, form):
    snn = graphic("residual", form)[0] if form in FORMS else pcsnn.convert(build("residual"), LEVELS)
    snn.max_graphs = 4
    x = inputs("residual")
    expected = copy.deepcopy(snn)(*x)
    done()
    torch._dynamo.reset()
    explained = torch._dynamo.explain(snn)(*x)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0), explained.break_reasons
    assert same(torch.compile(snn, fullgraph=True, backend="eager")(*x), expected)
    for strict in (False, True):
        assert same(torch.export.export(snn, x, strict=strict).module()(*x), expected)
    assert done() == []


class Together(nn.Module):
    """Several networks of one input, so that one compilation is for all."""

    def __init__(self, networks):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x):
        return [network(x) for network in self.networks]


def test_reduce_overhead_compiles_the_whole():
    """The mode that uses CUDA graphs where there is a GPU; what it launches there is for the tests below."""
    made = [pcsnn.convert(build("mlp"), LEVELS), *(graphic("mlp", form)[0] for form in FORMS)]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(Together(made), fullgraph=True, mode="reduce-overhead")
    for seed in (1, 2):
        x = inputs("mlp", seed=seed)
        for found, snn in zip(compiled(*x), made):
            torch.testing.assert_close(found, snn(*x), rtol=1e-5, atol=1e-5)
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"] and counters["stats"]["unique_graphs"] == 1


# On a GPU


def cuda(values):
    return tuple(value.cuda() for value in values)


class Waits(nn.Module):
    """Cannot be captured."""

    def forward(self, x):
        return x * x.sum().item()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device")
class TestOnAGpu:
    @pytest.fixture(autouse=True)
    def captures(self, monkeypatch):
        """How many graphs have been captured, as `self.captured()` says since it was last asked."""
        count, capture = [], cuda_graphs.Device.capture

        def counted(device, run, first):
            count.append(first)
            return capture(device, run, first)

        def captured():
            found = len(count)
            count.clear()
            return found

        monkeypatch.setattr(cuda_graphs.Device, "capture", counted)
        self.captured = captured

    @pytest.fixture
    def launches(self, monkeypatch):
        """(programs, constants) of each launch of a Triton kernel of ours."""
        from pcsnn.kernels.launch import Launch

        seen, launch = [], Launch.__call__

        def counted(self):
            seen.append((self.programs, dict(self.constants)))
            return launch(self)

        monkeypatch.setattr(Launch, "__call__", counted)
        return seen

    @staticmethod
    def pair(name="residual", form="float32", **options):
        """A network with graphs and the same without, moved to the GPU after they were optimised."""
        return [snn.cuda() for snn in graphic(name, form, **options)]

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize(
        "name", ["residual", "two_inputs", "dict_output", "tuple_output", "max_pool_first", "attention", "slices"]
    )
    def test_replays_are_bit_equal(self, name, form):
        snn, plain = self.pair(name, form)
        kept = []
        for call, (batch, seed) in enumerate([(3, 1), (3, 2), (5, 3), (3, 4), (5, 5)]):
            x = cuda(inputs(name, batch=batch, seed=seed))
            kept.append((snn(*x), plain(*x)))
            assert self.captured() == (1, 0, 1, 0, 0)[call]
        assert all(same(found, expected) for found, expected in kept)

    def test_layouts_and_grad_modes(self):
        snn, plain = self.pair()
        (x,) = cuda(inputs("residual", batch=4))
        layouts = (x, x.contiguous(memory_format=torch.channels_last), x[::2], x[:1].expand(4, -1, -1, -1))
        for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
            with mode():
                for value in layouts:
                    assert torch.equal(snn(value), plain(value))
        assert self.captured() == len(layouts)

    @pytest.mark.parametrize("form", FORMS)
    def test_a_replay_is_one_launch(self, form, launches):
        snn, plain = self.pair("residual", form)
        x = cuda(inputs("residual"))
        plain(*x)  # times the tiles of whole numbers
        launches.clear()
        plain(*x)
        eager = launches[:]
        launches.clear()
        snn(*x)
        # twice to warm up and once to capture, with the tiles that eager calls run with
        assert launches == 3 * eager and eager
        launches.clear()
        snn(*x)
        torch.cuda.synchronize()
        kinds = torch.profiler.ProfilerActivity
        with torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA]) as found:
            snn(*x)
            torch.cuda.synchronize()
        assert launches == []
        names = [event.name for event in found.events()]
        assert sum("GraphLaunch" in name for name in names) == 1
        assert sum("LaunchKernel" in name for name in names) <= 2  # copies of input and output, where they are kernels

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("change", [change for change in CHANGES if change != "to"])
    def test_changes_drop_the_graphs(self, change, form):
        snn, plain = self.pair("residual", form)
        one, two = cuda(inputs("residual", batch=2)), cuda(inputs("residual", batch=3))
        for x in (one, two):
            assert same(snn(*x), plain(*x))
        assert self.captured() == 2
        CHANGES[change](snn)
        CHANGES[change](plain)
        for x, expected in ((one, 1), (two, 1), (one, 0)):
            assert same(snn(*x), plain(*x)) and self.captured() == expected

    def test_it_moves(self):
        snn, plain = graphic("residual", "int8")
        (x,) = inputs("residual")
        for device, captured in (("cpu", 0), ("cuda", 1), ("cpu", 0), ("cuda", 1)):
            snn.to(device), plain.to(device)
            assert snn.graph_bytes == 0
            for _ in range(2):
                assert same(snn(x.to(device)), plain(x.to(device)))
            assert self.captured() == captured

    def test_memory_is_stated_and_freed(self):
        snn, _ = self.pair(graph=2)
        batches = [cuda(inputs("residual", batch=batch)) for batch in (64, 128, 256)]
        for x in batches:  # the third takes the place of the first
            assert snn(*x).nbytes + x[0].nbytes < snn.graph_bytes
        pool = snn._graphs._device.bytes()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        snn.drop_graphs()
        torch.cuda.empty_cache()
        assert snn.graph_bytes == 0 and before - torch.cuda.memory_reserved() >= pool > 0
        snn(*batches[0])
        assert self.captured() == 4 and snn.graph_bytes

    def test_one_graph_after_another(self):
        """With one graph at most, each new one has a pool of its own."""
        snn, plain = self.pair(graph=1)
        for batch in (1, 2, 1, 3, 2):
            x = cuda(inputs("residual", batch=batch))
            for _ in range(2):
                assert same(snn(*x), plain(*x))
        assert self.captured() == 5

    @pytest.mark.parametrize("form", FORMS)
    def test_recordings_see_real_layers(self, form):
        snn, plain = self.pair("residual", form)
        x = cuda(inputs("residual"))
        snn(*x)
        with pcsnn.record(snn) as found, pcsnn.record(plain) as expected:
            assert same(snn(*x), plain(*x))
        assert found.counts and same(found.counts, expected.counts)
        assert same(snn(*x), plain(*x)) and self.captured() == 1

    def test_streams_and_threads(self):
        """Graphs share their memory; calls on streams of their own must not meet in it."""
        snn, plain = self.pair(graph=2)
        cases = [(x, plain(*x)) for x in [cuda(inputs("residual", batch=batch)) for batch in (64, 128, 192)]]
        torch.cuda.synchronize()
        streams = [torch.cuda.Stream() for _ in range(3)]
        found = []
        for call in range(30):
            x, expected = cases[call % 2]
            with torch.cuda.stream(streams[call % 3]):
                found.append((snn(*x), expected))
        torch.cuda.synchronize()
        assert all(torch.equal(*pair) for pair in found) and self.captured() == 2
        wrong = []

        def work(first):
            try:
                with torch.cuda.stream(streams[first]):
                    for call in range(15):
                        x, expected = cases[(first + call) % 3]
                        if not torch.equal(snn(*x), expected):
                            raise AssertionError("wrong result")
            except Exception as error:
                wrong.append(error)

        workers = [threading.Thread(target=work, args=(first,)) for first in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert wrong == []

    def test_a_capture_of_the_callers_own(self):
        snn, plain = self.pair()
        x, y = cuda(inputs("residual")), cuda(inputs("residual", seed=2))
        snn(*x)
        static, graph = x[0].clone(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = snn(static)
        static.copy_(y[0])
        graph.replay()
        assert torch.equal(out, plain(*y)) and self.captured() == 1

    def test_a_network_that_waits_is_an_error_and_leaves_no_trace(self):
        stream, kept = torch.cuda.current_stream(), cuda_graphs.Graphs(2)
        with pytest.raises(RuntimeError, match="^max_graphs: expected a network that only launches work"):
            kept.run(Waits(), (torch.ones(3, device="cuda"),), {})
        assert torch.cuda.current_stream() == stream and not torch.cuda.is_current_stream_capturing()
        assert kept.bytes() == 0
        snn, plain = self.pair()
        x = cuda(inputs("residual"))
        assert same(snn(*x), plain(*x)) and same(snn(*x), plain(*x))

    def test_reduce_overhead_uses_graphs(self):
        x = cuda(inputs("mlp"))
        made = [pcsnn.convert(build("mlp"), LEVELS).cuda(), *(self.pair("mlp", form)[0] for form in FORMS)]
        expected = [snn(*x) for snn in made]
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        compiled = torch.compile(Together(made), fullgraph=True, mode="reduce-overhead")
        with torch.no_grad():
            for _ in range(3):
                torch.testing.assert_close(compiled(*x), expected, rtol=1e-5, atol=1e-5)
        counters = torch._dynamo.utils.counters
        assert not counters["graph_break"] and not counters["inductor"]["cudagraph_skips"]
