"""Files that somebody hostile wrote: whatever they name, no code runs, nothing changes, and load says ValueError."""

import json

import pytest
import torch
from network_files import node, parts, saved, write
from tiny_networks import build, conv, inputs, one_thread, randomise  # noqa: F401
from torch import fx, nn

import pcsnn
from pcsnn.storage import graph

# Names that are on no list


def node_of(description, target):
    return next(node for node in description["nodes"] if node["target"] == target)


def refused(path, description, tensors, words="."):
    write(path, description, tensors)
    with pytest.raises(ValueError, match=words):
        pcsnn.load(path)


@pytest.mark.parametrize(
    "name",
    [
        "torch.load",
        "torch.hub.load",
        "torch.from_file",
        "torch.save",
        "torch.compile",
        "torch.ops",
        "torch._C._import",
        "torch.classes",
        "torch.serialization.load",
        "torch.jit.load",
        "operator.attrgetter",
        "operator.methodcaller",
        "operator.itemgetter",
        "operator.call",
        "operator.setitem",
        "operator.iconcat",
        "builtins.eval",
        "eval",
        "exec",
        "os.system",
        "__import__",
        "F.__import__",
        "F.importlib",
        "F._wrap",
        "F.warnings.warn",
        "F.torch",
        "F",
        "",
        "getattr.x",
        "nn.Linear",
        "torch.nn.functional.relu",
        "pcsnn.load",
        "torch.__class__",
        "torch.set_default_dtype",
        "torch.manual_seed",
        "torch.sparse_coo_tensor",
        "torch.segment_reduce",
        "torch.ctc_loss",
        "torch.as_strided",
        "torch.empty",
        "torch.empty_like",
        "torch.from_dlpack",
        "torch.frombuffer",
        "torch.tensor",
        "torch.rand",
        "torch.bincount",
        "F.embedding_bag",
        "F.grid_sample.__call__",
        "operator.iadd",
        "operator.lshift",
        "operator.concat",
        "torch.vmap",
        "torch.cond",
        "torch.while_loop",
        None,
        5,
    ],
)
def test_functions_outside_the_list_are_refused(name, tmp_path):
    _, path = saved(tmp_path)
    description, tensors = parts(path)
    node_of(description, "F.interpolate")["target"] = name
    refused(path, description, tensors, "names the function")


@pytest.mark.parametrize(
    "name",
    [
        "__class__",
        "__reduce__",
        "_make_subclass",
        "__getattribute__",
        "apply_",
        "map_",
        "register_hook",
        "backward",
        "share_memory_",
        "no_such_method",
        "shape",
        "x; import os",
        "detach().numpy",
        "to_dense",
        "to_sparse",
        "set_",
        "resize_",
        "as_strided",
        "numpy",
        "tolist",
        "item",
        "storage",
        "untyped_storage",
        "data_ptr",
        "register_forward_hook",
        "requires_grad_",
        "retain_grad",
        "new_tensor",
        "new_empty",
        "apply",
        "add_",
        "put_",
        "index_put_",
        None,
        5,
        ["view"],
    ],
)
def test_methods_outside_the_list_are_refused(name, tmp_path):
    _, path = saved(tmp_path, "views")
    description, tensors = parts(path)
    node_of(description, "view")["target"] = name
    refused(path, description, tensors, "names the method")


@pytest.mark.parametrize("name", ["__class__", "__dict__", "data", "grad_fn", "__init__", "_backward_hooks", None, 5])
def test_attributes_outside_the_list_are_refused(name, tmp_path):
    _, path = saved(tmp_path, "sizes")
    description, tensors = parts(path)
    node_of(description, "getattr")["args"]["tuple"][1] = name
    refused(path, description, tensors, "reads the attribute")


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "nn.functional",
        "nn.Parameter",
        "nn.modules",
        "nn.init",
        "torch.nn.Linear",
        "Linear",
        "nn.x.Linear",
        "pcsnn.nn.neuron",
        "pcsnn.nn.torch",
        "builtins.eval",
        "nn.__class__",
        "",
        "subprocess.Popen",
    ],
)
def test_classes_outside_the_list_are_refused(name, tmp_path):
    _, path = saved(tmp_path)
    description, tensors = parts(path)
    description["modules"]["conv"]["class"] = name
    refused(path, description, tensors, "names the module class")


CODE = "__import__('pathlib').Path(CANARY).touch()"


@pytest.mark.parametrize(
    "place", ["input", "keyword", "module", "attribute", "node", "default", "argument", "second keyword"]
)
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
        tensors = {
            name.replace(old, target, 1) if name.split(".")[0] == old else name: value
            for name, value in tensors.items()
        }
    elif place == "node":
        entry["placeholder"]["name"] = f"x={code}"
    elif place == "default":
        entry["placeholder"]["args"] = {"tuple": [code]}
    elif place == "argument":
        entry["call_function"]["args"]["tuple"][1] = code
    write(path, description, tensors)
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
    node_of(description, "F.interpolate")["args"] = {"tuple": [{"torch": "load"}]}


def _unknown_kind(description, tensors):
    node_of(description, "F.interpolate")["args"] = {"tuple": [{"pickle": "x"}]}


def _no_arguments(description, tensors):
    node_of(description, "getattr")["args"] = {"tuple": []}


def _keyword(description, tensors):
    node_of(description, "F.interpolate")["kwargs"] = {"dict": [["def", 1]]}


def _constructor(description, tensors):
    description["modules"]["conv"]["arguments"]["extra"] = 1


def _huge(description, tensors):
    description["modules"]["conv"]["arguments"]["in_channels"] = 2**40


def _format(description, tensors):
    description["format"] = 3


def _missing_module(description, tensors):
    del description["modules"]["second"]


@pytest.mark.parametrize(
    "change",
    [
        *map(_without, ["nodes", "modules", "attributes", "report", "format"]),
        _rename_node,
        _drop_tensor,
        _drop_threshold,
        _bad_threshold,
        _other_shape,
        _bad_operation,
        _bad_constant,
        _unknown_kind,
        _no_arguments,
        _keyword,
        _constructor,
        _huge,
        _format,
        _missing_module,
    ],
    ids=lambda change: change.__name__,
)
def test_broken_descriptions_are_value_errors(change, tmp_path):
    _, path = saved(tmp_path)
    description, tensors = parts(path)
    change(description, tensors)
    refused(path, description, tensors)


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "5", '"nodes"', "[" * 100_000, '{"format": 2}'])
def test_broken_json_is_a_value_error(text, tmp_path):
    _, path = saved(tmp_path)
    refused(path, text, parts(path)[1])


# Paths that Python would find elsewhere


def calls(description, *chain):
    """Put calls of modules of these paths, each an Identity, before everything else."""
    for number, (target, arguments) in enumerate(chain, 1):
        description["modules"][target] = {"class": "nn.Identity", "arguments": {}}
        description["nodes"].insert(number, node(f"n{number}", "call_module", target, arguments))


PATHS = [
    "__getattribute__",
    "__class__",
    "__class__.__base__.__base__.state_dict",
    "__setattr__",
    "__delattr__",
    "__init__.__func__",
    "_modules.x",
    "_parameters",
    "to_folder",
    "graph",
    "graph.nodes",
    "code",
    "recompile",
    "add_submodule",
    "delete_all_unused_submodules",
    "print_readable",
    "forward",
    "register_forward_hook",
    "load_state_dict",
    "apply",
    "half",
    "training",
    "conv.forward",
    "conv.__class__",
    "conv.register_buffer",
    "conv._parameters",
    "conv._conv_forward",
    "x y",
    "a-b",
    "",
    ".",
    "conv.",
    ".conv",
    "a..b",
    "é",
    "class",
    "x\n",
    "x'",
    "a" * 200,
    ".".join("a" * 40),
]


@pytest.mark.parametrize("first_format", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_paths_of_anything_but_modules_and_tensors_are_refused(path, first_format, tmp_path):
    before = dict(vars(nn.Module)), dict(vars(fx.GraphModule))
    _, file = saved(tmp_path)
    for op in ("call_module", "get_attr"):
        description, tensors = parts(file)
        if op == "call_module":
            calls(description, (path, [{"node": description["nodes"][0]["name"]}]))
        else:
            description["attributes"] = [path]
            description["nodes"].insert(1, node("n1", "get_attr", path))
            tensors[path] = torch.zeros(1)
        if first_format:
            description["format"] = 1
            torch_file(tmp_path / "crafted", description, tensors)
        else:
            write(tmp_path / "crafted", description, tensors)
        try:
            loaded = pcsnn.load(tmp_path / "crafted")
        except ValueError:
            continue
        assert first_format and "__" not in path  # names that the first format allowed come back as others
        assert all(
            not hasattr(nn.Module, name)
            for name in loaded.network._modules
            if name not in ("conv", "act", "second", "last")
        )
    assert (dict(vars(nn.Module)), dict(vars(fx.GraphModule))) == before


def torch_file(path, description, tensors):
    """A file without checksum, as the first format has it."""
    from safetensors.torch import save_file

    save_file(tensors, path, metadata={"pcsnn": json.dumps(description)})


def test_a_file_of_this_format_needs_its_checksum(tmp_path):
    _, path = saved(tmp_path)
    torch_file(path, *parts(path))
    with pytest.raises(ValueError, match="no checksum"):
        pcsnn.load(path)


@pytest.mark.parametrize("first_format", [False, True])
def test_a_chain_of_calls_to_eval_is_refused(first_format, tmp_path):
    canary = tmp_path / "canary"
    _, path = saved(tmp_path)
    description, tensors = parts(path)
    calls(
        description,
        ("__getattribute__", ["__init__"]),
        ("__delattr__", ["y"]),
        ("__setattr__", ["y", {"node": "n1"}]),
        ("y.__func__.__builtins__.get", ["eval"]),
        ("z", [f"__import__('pathlib').Path({str(canary)!r}).touch()"]),
    )
    description["format"] = 1 if first_format else 2
    (torch_file if first_format else write)(path, description, tensors)
    with pytest.raises(ValueError):
        pcsnn.load(path)
    assert not canary.exists()


# Calls of what is allowed, with what is not


X, SIZE = {"node": "act_1"}, {"node": "size_1"}


@pytest.mark.parametrize(
    "calls",
    [
        [("operator.pow", [9, 400_000_000])],
        [("operator.pow", [SIZE, SIZE])],
        [("operator.mul", [{"tuple": [1]}, 2**30])],
        [("operator.mul", ["aaaa", 2**30])],
        [("operator.mod", ["%999999999d", 5])],
        [("operator.mul", [{"list": []}, X])],
        [("operator.pow", [{"node": f"c{number}" if number else "size_1"}, 64]) for number in range(3)],
        [("operator.mul", [{"node": f"c{number}" if number else "size_1"}] * 2) for number in range(12)],
        [("getattr", [X, "shape"])] + [("operator.add", [{"node": f"c{number}"}] * 2) for number in range(1, 20)],
        [("torch.zeros", [2**16, 2**16])],
        [("torch.full", [{"tuple": [2**30]}, 1.0])],
        [("torch.arange", [0.0, 1.0, 1e-30])],
        [("torch.arange", [2**31])],
        [("F.interpolate", [X, {"tuple": [2**15, 2**15]}])],
        [("F.interpolate", [X, None, 1e9])],
        [("F.pad", [X, {"tuple": [2**20, 2**20, 2**20, 2**20]}])],
        [("F.one_hot", [X, -1])],
        [("torch.repeat_interleave", [X, X])],
        [("torch.repeat_interleave", [X])],
        [("torch.tile", [X, {"tuple": [2**14, 2**14]}])],
        [("torch.zeros", [X])],
        [("torch.add", [X, X, {"x": 1}])],
        [("F.relu", [X, True])],
        [("F.leaky_relu", [X, 0.1, True])],
        [("F.hardtanh", [X, 0.0, 1.0, X])],
        [("F.relu6", [X, 1])],
        [("F.embedding", [X, X, None, 1.0])],
        [("torch.einsum", ["ij,jk->ik; import os", X, X])],
        [("getattr", ["text", "shape"])],
        [("getattr", [X, "data"])],
        [("getattr", [X, "shape", X])],
        [("F.softmax", [X, {"device": "meta"}])],
        [("F.softmax", [X, {"device": "cuda:999"}])],
        [("F.softmax", [X, {"torch": "load"}])],
        [("F.softmax", [X, {"torch": "sparse_coo"}])],
        [("torch.sum", [2**63])],
        [("torch.sum", [X, 2**40])],
        [("torch.relu", [{"tuple": [{"tuple": []}]} | {"list": []}])],
        [("torch.relu", [])],
    ],
    ids=lambda calls: f"{calls[0][0]} {str(calls[0][1])[:40]}",
)
def test_arguments_that_grow_without_end_or_write_elsewhere_are_refused(calls, tmp_path):
    _, path = saved(tmp_path)
    description, tensors = parts(path)
    place = next(number for number, entry in enumerate(description["nodes"]) if entry["name"] == "act_1") + 1
    added = [node("size_1", "call_method", "size", [X, 0])]
    added += [
        node(f"c{number}", "call_function", target, arguments) for number, (target, arguments) in enumerate(calls, 1)
    ]
    description["nodes"][place:place] = added
    refused(path, description, tensors)


@pytest.mark.parametrize("target", ["add_", "split", "size"])
def test_methods_are_called_of_tensors_alone(target, tmp_path):
    _, path = saved(tmp_path)
    for value in ("text", {"list": [1]}, {"dict": []}, 5):
        description, tensors = parts(path)
        description["nodes"].insert(1, node("n1", "call_method", target, [value]))
        refused(path, description, tensors)


@pytest.mark.parametrize(
    "keyword", ["out", "max_norm", "generator", "requires_grad", "pin_memory", "names", "self", "callback"]
)
def test_keywords_outside_the_list_are_refused(keyword, tmp_path):
    _, path = saved(tmp_path)
    description, tensors = parts(path)
    description["nodes"].insert(
        1, node("n1", "call_function", "torch.relu", [{"node": description["nodes"][0]["name"]}], **{keyword: 1})
    )
    refused(path, description, tensors)


def test_nothing_is_written_over_an_input(tmp_path):
    """A neuron that writes over its current is given the input of the network."""
    _, path = saved(tmp_path)
    description, tensors = parts(path)
    x = {"node": description["nodes"][0]["name"]}
    act = node_of(description, "act")
    act["args"] = {"tuple": [x]}
    assert description["modules"]["act"]["arguments"]["inplace"]
    description["nodes"] = [description["nodes"][0], act, node("output", "output", "output", [{"node": act["name"]}])]
    description["modules"] = {"act": description["modules"]["act"]}
    write(path, description, {name: value for name, value in tensors.items() if name.startswith("act.")})
    given = torch.randn(2, 4, 3, 3)
    before = given.clone()
    pcsnn.load(path)(given)
    assert torch.equal(given, before)


@pytest.mark.parametrize("function", ["F.batch_norm", "torch.batch_norm", "F.instance_norm", "torch.instance_norm"])
def test_statistics_of_norms_are_those_of_the_file(function, tmp_path):
    """Where they train they are written over."""
    _, path = saved(tmp_path)
    description, tensors = parts(path)
    x = {"node": description["nodes"][0]["name"]}
    for arguments, keywords in (
        ([x, x, x], {"training": True}),
        ([x], {"running_mean": x, "running_var": None}),
        ([], {"input": x, "running_mean": x}),
    ):
        changed = {**description, "nodes": list(description["nodes"])}
        changed["nodes"].insert(1, node("n1", "call_function", function, arguments, **keywords))
        refused(path, changed, tensors, "no tensor of the network")


# Sizes that no tensor has


def layers(kind="int8"):
    net = randomise(
        nn.Sequential(conv(3, 16), pcsnn.nn.QCFS(4), conv(16, 16), pcsnn.nn.QCFS(4), nn.Flatten(), nn.Linear(1024, 3))
    )
    return pcsnn.optimize(pcsnn.convert(net, 4, progress=False), kind, example_inputs=torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    "arguments",
    [
        {"stride": 2**40},
        {"stride": {"tuple": [0, 1]}},
        {"stride": {"tuple": [1, 1, 1]}, "padding": -1},
        {"padding": {"tuple": [1, 2**63 - 1]}},
        {"padding": {"tuple": [2**20, 2**20]}},
        {"dilation": 2**62},
        {"groups": 0},
        {"groups": -1},
        {"groups": 5},
        {"timesteps": 0},
        {"timesteps": 256},
        {"timesteps": 2.0},
        {"timesteps": True},
        {"input_area": 2**40},
        {"emits": "x"},
        {"shift": "x"},
        {"inplace": True},
        {"fixed_steps": 0},
        {"quantization_levels": 2**70},
        {"weight": 1},
    ],
    ids=str,
)
def test_geometry_of_fused_layers_is_bounded(arguments, tmp_path):
    path = tmp_path / "net"
    for kind in ("float32", "int8"):
        pcsnn.save(layers(kind), path)
        description, tensors = parts(path)
        name = next(
            name for name, entry in description["modules"].items() if entry["class"] == "pcsnn.nn.SpikingConv2d"
        )
        description["modules"][name]["arguments"].update(arguments)
        refused(path, description, tensors)


@pytest.mark.parametrize("key", ["weight", "bias", "threshold", "amplitude", "weight_scale"])
def test_tensors_of_fused_layers_fit_each_other(key, tmp_path):
    path = tmp_path / "net"
    pcsnn.save(layers(), path)
    for change in (
        lambda value: value.repeat(2, *[1] * (value.dim() - 1)),
        lambda value: value[:0],
        lambda value: value.to(torch.int64),
        lambda value: value[None],
        lambda value: value[:1] if key == "weight" else value[:3],
    ):
        description, tensors = parts(path)
        name = next(name for name in tensors if name.endswith(f".{key}"))
        tensors[name] = change(tensors[name] if tensors[name].dim() else torch.ones(16)).contiguous()
        refused(tmp_path / "changed", description, tensors)


@pytest.mark.parametrize(
    "kind, arguments",
    [
        ("nn.Linear", {"in_features": 40_000, "out_features": 40_000, "bias": True}),
        ("nn.Linear", {"in_features": 2**40, "out_features": 2**40}),
        ("nn.LSTM", {"input_size": 4, "hidden_size": 4, "num_layers": 1000}),
        ("nn.TransformerEncoder", {}),
        ("nn.Upsample", {"scale_factor": 1e9}),
        ("nn.AdaptiveAvgPool2d", {"output_size": {"tuple": [2**20, 2**20]}}),
        ("nn.ZeroPad2d", {"padding": {"tuple": [2**30] * 4}}),
        ("nn.Embedding", {"num_embeddings": 2**31, "embedding_dim": 2**31}),
        ("nn.Identity", {"x": 1}),
        ("nn.Flatten", {"start_dim": 2**40}),
        ("nn.ReLU", {"forward": 1}),
        ("nn.Linear", {"in_features": 4, "out_features": 4, "device": "cuda"}),
        ("nn.Sequential", {}),
        ("nn.ModuleList", {}),
        ("nn.Module", {}),
        ("nn.DataParallel", {}),
        ("pcsnn.nn.Rates", {"timesteps": 4}),
    ],
)
def test_arguments_that_no_tensor_has_are_refused(kind, arguments, tmp_path):
    _, path = saved(tmp_path)
    description, tensors = parts(path)
    description["modules"]["more"] = {"class": kind, "arguments": arguments}
    description["nodes"].insert(1, node("n1", "call_module", "more", [{"node": description["nodes"][0]["name"]}]))
    refused(path, description, tensors)


def test_sums_of_small_things_are_bounded(tmp_path, monkeypatch):
    _, path = saved(tmp_path)
    description, tensors = parts(path)
    nodes = description["nodes"]
    more = [
        node(f"m{number}", "call_function", "torch.relu", [{"node": nodes[0]["name"]}])
        for number in range(graph.MOST_NODES)
    ]
    refused(path, {**description, "nodes": [nodes[0], *more, *nodes[1:]]}, tensors, "at most")
    monkeypatch.setattr(graph, "MOST_LEVELS", 3)
    description["modules"]["act"]["arguments"]["timesteps"] = 255
    refused(path, description, tensors | {"act.threshold": torch.ones(10_000)}, "levels")


@pytest.mark.parametrize(
    "change", ["no output", "two outputs", "output first", "two names", "dead module", "stray tensor", "module twice"]
)
def test_graphs_are_whole(change, tmp_path):
    _, path = saved(tmp_path)
    description, tensors = parts(path)
    nodes = description["nodes"]
    if change == "no output":
        nodes.pop()
    elif change == "two outputs":
        nodes.append({**nodes[-1], "name": "other"})
    elif change == "output first":
        nodes.insert(2, nodes.pop())
    elif change == "two names":
        nodes[2]["name"] = nodes[1]["name"]
    elif change == "dead module":
        description["modules"]["more"] = {"class": "nn.ReLU", "arguments": {}}
    elif change == "stray tensor":
        tensors["stray"] = torch.zeros(1)
    else:
        description["attributes"].append("conv")
        tensors["conv"] = torch.zeros(1)
    refused(path, description, tensors)


def test_texts_of_a_report_are_printable(tmp_path):
    _, path = saved(tmp_path)
    description, tensors = parts(path)
    description["report"]["rows"][0]["source"] = "\x1b[2J\x07 erased"
    write(path, description, tensors)
    assert str(pcsnn.load(path).report).replace("\n", "").isprintable()
