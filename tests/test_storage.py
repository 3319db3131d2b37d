"""Networks in files: what comes back is bit-equal, and a file can neither run code nor half replace another."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_networks import LEVELS, NETWORKS, build, conv, inputs, network, one_thread, randomise  # noqa: F401
from torch import nn
from torch.utils._pytree import tree_leaves, tree_structure

import pcsnn
from pcsnn.convert import operations, storage
from pcsnn.nn import QCFS


def same(one, two):
    return tree_structure(one) == tree_structure(two) and all(map(torch.equal, tree_leaves(one), tree_leaves(two)))


@pytest.mark.parametrize("name", NETWORKS)
def test_what_comes_back_is_bit_equal(name, tmp_path):
    for activation, dtype, timesteps in ((lambda: QCFS(LEVELS), torch.float32, 12), (nn.ReLU, torch.float64, 5)):
        x = inputs(name, dtype)
        snn = pcsnn.convert(build(name, activation, dtype), timesteps, calibration=[x])
        pcsnn.save(snn, tmp_path / "net.safetensors")
        loaded = pcsnn.load(tmp_path / "net.safetensors")
        assert same(loaded(*x), snn(*x))
        assert loaded.timesteps == timesteps and str(loaded.report) == str(snn.report)
        assert loaded.state_dict().keys() == snn.state_dict().keys()
        assert not any(parameter.requires_grad for parameter in loaded.parameters()) and not loaded.training
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]


def saved(tmp_path, name="upsampling_functions", **options):
    snn = pcsnn.convert(build(name), LEVELS, **options)
    pcsnn.save(snn, tmp_path / "net.safetensors")
    return snn, tmp_path / "net.safetensors"


def test_a_loaded_network_is_an_ordinary_one(tmp_path):
    snn, path = saved(tmp_path, "residual")
    loaded, x = pcsnn.load(str(path)), inputs("residual")
    assert pcsnn.set_timesteps(loaded, 7) is loaded
    assert torch.equal(loaded(*x), pcsnn.set_timesteps(snn, 7)(*x))
    with pcsnn.record(loaded) as record:
        loaded(*x)
    assert list(record.counts) == ["act", "last"]
    pcsnn.save(loaded, path)
    assert torch.equal(pcsnn.load(path)(*x), loaded(*x))
    assert torch.equal(torch.export.export(loaded, x).module()(*x), loaded(*x))


def test_analog_parts_come_back(tmp_path):
    net = randomise(nn.Sequential(conv(), QCFS(4), nn.LeakyReLU(0.3), nn.GroupNorm(2, 4), nn.Softmax(1), nn.Flatten(),
                                  nn.Linear(256, 8),
                                  nn.LayerNorm(8), nn.PReLU(), nn.Linear(8, 8), QCFS(4)))
    snn, x = pcsnn.convert(net, 4, strict=False), torch.randn(2, 3, 8, 8)
    pcsnn.save(snn, tmp_path / "net")
    assert torch.equal(pcsnn.load(tmp_path / "net")(x), net(x))


# What cannot be saved


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.act, self.lstm = nn.Linear(4, 4), QCFS(4), nn.LSTM(4, 4)

    def forward(self, x):
        return self.lstm(self.act(self.linear(x)))[0]


class Attention(Recurrent):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)

    def forward(self, x):
        x = self.act(self.linear(x))
        return self.attention(x, x, x)[0]


@torch.fx.wrap
def own_function(x):
    return x * 2


@pytest.mark.parametrize("net, words", [
    (Recurrent(), "cannot save LSTM"), (Attention(), "cannot save MultiheadAttention"),
    (network(lambda s, x: own_function(s.act(s.conv(x))), conv=conv(), act=QCFS(4)), "cannot save a call of"),
    (network(lambda s, x: s.act(s.conv(x)).imag, conv=conv(), act=QCFS(4)), "reads the attribute 'imag'"),
], ids=["lstm", "attention", "function", "attribute"])
def test_what_a_file_cannot_carry_is_refused(net, words, tmp_path):
    snn = pcsnn.convert(net, 4, strict=False)
    with pytest.raises(ValueError, match=words):
        pcsnn.save(snn, tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [nn.Linear(1, 1), None, {}])
def test_only_spiking_networks_are_saved(wrong, tmp_path):
    with pytest.raises(TypeError, match="snn: expected a SpikingNetwork"):
        pcsnn.save(wrong, tmp_path / "net")


def test_paths_of_another_type_are_refused(tmp_path):
    snn, path = saved(tmp_path)
    for wrong in (None, 5.0, object()):
        with pytest.raises(TypeError):
            pcsnn.save(snn, wrong)
        with pytest.raises(TypeError):
            pcsnn.load(wrong)


# Atomic


def test_an_existing_file_survives_a_failed_save(tmp_path, monkeypatch):
    snn, path = saved(tmp_path)
    before = path.read_bytes()

    def fails(tensors, file, metadata):
        open(file, "wb").write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(storage, "save_file", fails)
    with pytest.raises(OSError, match="no space left"):
        pcsnn.save(snn, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_error(tmp_path):
    snn, _ = saved(tmp_path)
    with pytest.raises(Exception, match="No such file"):
        pcsnn.save(snn, tmp_path / "none" / "net.safetensors")


# Malicious and broken files


def parts(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["pcsnn"]), {name: file.get_tensor(name) for name in file.keys()}


def node(description, target):
    return next(node for node in description["nodes"] if node["target"] == target)


def refused(path, description, tensors, words="."):
    save_file(tensors, path, metadata={"pcsnn": description if isinstance(description,
                                                                          str) else json.dumps(description)})
    with pytest.raises(ValueError, match=words):
        pcsnn.load(path)


@pytest.mark.parametrize("name", [
    "torch.load", "torch.hub.load", "torch.from_file", "torch.save", "torch.compile", "torch.ops", "torch._C._import",
    "torch.classes",
    "torch.serialization.load", "torch.jit.load", "operator.attrgetter", "operator.methodcaller", "operator.itemgetter",
    "operator.call",
    "operator.setitem", "operator.iconcat", "builtins.eval", "eval", "exec", "os.system", "__import__", "F.__import__",
    "F.importlib",
    "F._wrap", "F.warnings.warn", "F.torch", "F", "", "getattr.x", "nn.Linear", "torch.nn.functional.relu",
    "pcsnn.load", "torch.__class__",
    "torch.set_default_dtype", "torch.manual_seed"])
def test_functions_outside_the_list_are_refused(name, tmp_path):
    _, path = saved(tmp_path)
    description, tensors = parts(path)
    node(description, "F.interpolate")["target"] = name
    refused(path, description, tensors, "names the function")


@pytest.mark.parametrize("name",
                         ["__class__", "__reduce__", "_make_subclass", "__getattribute__", "apply_", "map_",
                          "register_hook", "backward",
                                  "share_memory_", "no_such_method", "shape", "x; import os", "detach().numpy"])
def test_methods_outside_the_list_are_refused(name, tmp_path):
    _, path = saved(tmp_path, "views")
    description, tensors = parts(path)
    node(description, "view")["target"] = name
    refused(path, description, tensors, "names the method")


@pytest.mark.parametrize("name", ["__class__", "__dict__", "data", "grad_fn", "__init__", "_backward_hooks", None, 5])
def test_attributes_outside_the_list_are_refused(name, tmp_path):
    _, path = saved(tmp_path, "sizes")
    description, tensors = parts(path)
    node(description, "getattr")["args"]["tuple"][1] = name
    refused(path, description, tensors, "reads the attribute")


@pytest.mark.parametrize("name",
                         ["os.system", "nn.functional", "nn.Parameter", "nn.modules", "nn.init", "torch.nn.Linear",
                          "Linear", "nn.x.Linear",
                                  "pcsnn.nn.neuron", "pcsnn.nn.torch", "builtins.eval", "nn.__class__", "",
                                  "subprocess.Popen"])
def test_classes_outside_the_list_are_refused(name, tmp_path):
    _, path = saved(tmp_path)
    description, tensors = parts(path)
    description["modules"]["conv"]["class"] = name
    refused(path, description, tensors, "names the module class")


CODE = "__import__('pathlib').Path(CANARY).touch()"


@pytest.mark.parametrize("place",
                         ["input", "keyword", "module", "attribute", "node", "default", "argument", "second keyword"])
def test_no_name_in_a_file_becomes_code(place, tmp_path):
    """A GraphModule is compiled from text made of these names."""
    canary = tmp_path / "ran"
    code = CODE.replace("CANARY", repr(str(canary)))
    _, path = saved(tmp_path, "learned_constants")
    description, tensors = parts(path)
    entry = {entry["op"]: entry for entry in description["nodes"]}
    if place == "input":
        entry["placeholder"]["target"] = f"x={code}"
    elif place == "keyword":
        entry["call_function"]["kwargs"] = {"dict": [[f"a=1); {code}; dict(b", 1]]}
    elif place == "second keyword":
        entry["call_function"]["kwargs"] = {"dict": [["alpha", 1], [f"a={code}, b", 1]]}
    elif place in ("module", "attribute"):
        target = f'x"); {code}; getattr(self, "y'
        old = "conv" if place == "module" else "gate"
        for each in description["nodes"]:
            if each["target"] == old:
                each["target"] = target
        if place == "module":
            description["modules"][target] = description["modules"].pop(old)
        description["attributes"] = [target if name == old else name for name in description["attributes"]]
        tensors = {name.replace(old, target, 1) if name.split(".")[0] == old else name: value for name,
                   value in tensors.items()}
    elif place == "node":
        entry["placeholder"]["name"] = f"x={code}"
    elif place == "default":
        entry["placeholder"]["args"] = {"tuple": [code]}
    elif place == "argument":
        entry["call_function"]["args"]["tuple"][1] = code
    save_file(tensors, path, metadata={"pcsnn": json.dumps(description)})
    try:
        pcsnn.load(path)(*inputs("learned_constants"))
    except (ValueError, TypeError):
        pass
    else:
        assert place == "default"  # a text is an allowed default, and stays one
    assert not canary.exists()


def _without(key):
    def change(description, tensors):
        del description[key]
    return change


def _rename_node(description, tensors):
    description["nodes"][1]["args"] = {"tuple": [{"node": "nowhere"}]}


def _drop_tensor(description, tensors):
    del tensors["conv.weight"]


def _drop_threshold(description, tensors):
    del tensors["act.threshold"]


def _bad_threshold(description, tensors):
    tensors["act.threshold"] = torch.tensor(-1.0)


def _other_shape(description, tensors):
    tensors["conv.weight"] = torch.zeros(1, 2)


def _bad_operation(description, tensors):
    description["nodes"][1]["op"] = "exec"


def _bad_constant(description, tensors):
    node(description, "F.interpolate")["args"] = {"tuple": [{"torch": "load"}]}


def _unknown_kind(description, tensors):
    node(description, "F.interpolate")["args"] = {"tuple": [{"pickle": "x"}]}


def _no_arguments(description, tensors):
    node(description, "getattr")["args"] = {"tuple": []}


def _keyword(description, tensors):
    node(description, "F.interpolate")["kwargs"] = {"dict": [["def", 1]]}


def _constructor(description, tensors):
    description["modules"]["conv"]["arguments"]["extra"] = 1


def _huge(description, tensors):
    description["modules"]["conv"]["arguments"]["in_channels"] = 2**40


def _format(description, tensors):
    description["format"] = 2


def _missing_module(description, tensors):
    del description["modules"]["second"]


@pytest.mark.parametrize("change", [
    *map(_without, ["nodes", "modules", "attributes", "report", "format"]), _rename_node, _drop_tensor, _drop_threshold,
    _bad_threshold,
    _other_shape, _bad_operation, _bad_constant, _unknown_kind, _no_arguments, _keyword, _constructor, _huge, _format,
    _missing_module],
    ids=lambda change: change.__name__)
def test_broken_descriptions_are_value_errors(change, tmp_path):
    _, path = saved(tmp_path)
    description, tensors = parts(path)
    change(description, tensors)
    refused(path, description, tensors)


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "5", '"nodes"'])
def test_broken_json_is_a_value_error(text, tmp_path):
    _, path = saved(tmp_path)
    refused(path, text, parts(path)[1])


def test_files_of_other_kinds(tmp_path):
    snn, path = saved(tmp_path)
    whole = path.read_bytes()
    with pytest.raises(FileNotFoundError, match="path: no file"):
        pcsnn.load(tmp_path / "nothing")
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is not a safetensors file"):
            pcsnn.load(path)
    torch.save(snn.state_dict(), path)
    with pytest.raises(ValueError, match="is not a safetensors file"):
        pcsnn.load(path)
    save_file(snn.state_dict(), path)
    with pytest.raises(ValueError, match="has no pcsnn network in it, only tensors"):
        pcsnn.load(path)
    with pytest.raises(ValueError, match="is not a safetensors file"):
        pcsnn.load(tmp_path)


def test_every_function_of_the_tables_can_be_saved():
    tables = (operations.SYNAPSE_FUNCTIONS, operations.LINEAR_FUNCTIONS, operations.ADDITIONS, operations.PRODUCTS,
              operations.QUOTIENTS,
              operations.SHAPE_FUNCTIONS, operations.MOVING_FUNCTIONS,
              {F.relu, F.gelu, torch.softmax, F.interpolate, F.batch_norm})
    for function in set().union(*tables):
        assert storage._function(storage._function_name(function)) is function
