"""Mutates saved networks, loads and runs them: storage_fuzz_program.py SEED COUNT FOLDER. Prints a line of outcomes, or
what was broken.

Allowed are a ValueError from load, and from forward a result or an ordinary exception. Watched are the attributes of
torch and nn.Module, torch's settings, and by an audit hook every file that is written, process that is started and
connection that is made.
"""

import collections
import contextlib
import copy
import io
import json
import pathlib
import random
import resource
import signal
import sys
import warnings

import torch
import torch.nn.functional as F
from network_files import node, parts, write
from tiny_networks import build, conv, inputs, randomise
from torch import fx, nn

import pcsnn
from pcsnn.nn import QCFS
from pcsnn.storage import classes, functions

SEED, COUNT, FOLDER = int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3])
NAMES = ("upsampling_functions", "views", "sizes", "learned_constants", "residual", "pre_activation")
WORDS = [
    "",
    "x",
    "conv",
    "act",
    "weight",
    "0",
    "self",
    "forward",
    "__class__",
    "__init__",
    "__getattribute__",
    "_modules",
    "graph",
    "code",
    "to_folder",
    "__class__.__base__.__base__.state_dict",
    "act.threshold",
    "conv.weight",
    "eval",
    "exec",
    "import os",
    "a b",
    "é",
    "x\n",
    "torch.load",
    "operator.attrgetter",
    "F.relu",
    "torch.empty",
    "torch.from_file",
    "as_strided",
    "apply_",
    "register_forward_hook",
    "set_",
    "data",
    "nn.Module",
    "cuda:0",
    "meta",
    "%999999999d",
    "{0.__class__}",
    "...ij->ji",
    "out",
    "inplace",
]
NUMBERS = [
    0,
    1,
    2,
    3,
    -1,
    -2,
    7,
    255,
    256,
    2**15,
    2**31 - 1,
    2**31,
    2**62,
    2**63 - 1,
    -(2**63),
    10**30,
    0.5,
    -1.5,
    1e300,
    float("inf"),
    float("nan"),
    True,
    False,
    None,
]
allowed, touched = set(), []


def audit(event, args):
    if not touched or touched[0] is None:
        return
    writes = event == "open" and (
        isinstance(args[1], str) and set(args[1]) & set("wax+") or isinstance(args[2], int) and args[2] & 3
    )
    if writes or event.startswith(
        (
            "subprocess",
            "os.system",
            "os.exec",
            "os.fork",
            "os.posix_spawn",
            "os.remove",
            "os.rename",
            "os.mkdir",
            "os.rmdir",
            "os.chmod",
            "os.link",
            "os.symlink",
            "socket.",
            "shutil.",
            "ctypes.dlopen",
            "pty.spawn",
        )
    ):
        touched.append((event, str(args)[:200]))


def state():
    """What may not change."""
    holders = (
        torch,
        F,
        torch.Tensor,
        nn,
        nn.Module,
        fx.GraphModule,
        fx.Graph,
        fx.Node,
        nn.Linear,
        nn.Conv2d,
        pcsnn,
        pcsnn.nn,
    )
    found = {(index, key): id(value) for index, holder in enumerate(holders) for key, value in vars(holder).items()}
    settings = (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        tuple(sys.path),
        len(vars(sys.modules["builtins"])),
    )
    return found, settings


def seeds():
    """(description, tensors, inputs) of what is mutated."""
    found = []
    for name in NAMES:
        found.append(
            (pcsnn.convert(build(name), 4, progress=False, method="max", calibration=[inputs(name)]), inputs(name))
        )
    x = torch.randn(2, 3, 8, 8)
    hybrid = randomise(
        nn.Sequential(
            conv(), QCFS(4), nn.LeakyReLU(0.3), nn.GroupNorm(2, 4), nn.MaxPool2d(2), nn.Flatten(2), nn.LSTM(16, 4)
        )
    )
    found.append((pcsnn.convert(hybrid, 4, strict=False, progress=False), (x,)))
    plain = randomise(
        nn.Sequential(conv(3, 16), QCFS(4), conv(16, 16), QCFS(4), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(256, 3))
    )
    for weights, several in (("float32", 1), ("int8", 1), ("int8", 3)):
        snn = pcsnn.convert(plain, 4, spike_levels=several, progress=False)
        found.append((pcsnn.optimize(snn, weights, example_inputs=x), (x,)))
    for number, (snn, _) in enumerate(found):
        pcsnn.save(snn, FOLDER / f"seed{number}")
    return [(*parts(FOLDER / f"seed{number}"), x) for number, (_, x) in enumerate(found)]


def places(value, path=()):
    """Every (holder, key) of a JSON value."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from places(item, (*path, key))


def random_value(rng, description):
    names = [entry["name"] for entry in description["nodes"] if isinstance(entry, dict) and "name" in entry] or ["x"]
    return rng.choice(
        [
            lambda: rng.choice(NUMBERS),
            lambda: rng.choice(WORDS),
            lambda: {"node": rng.choice(names)},
            lambda: {"tuple": [rng.choice(NUMBERS) for _ in range(rng.randrange(5))]},
            lambda: {"torch": rng.choice(["float64", "int8", "bool", "strided", "load", "channels_last"])},
            lambda: {"device": rng.choice(WORDS)},
            lambda: {"slice": [rng.choice(NUMBERS) for _ in range(3)]},
            lambda: [],
            lambda: {},
        ]
    )()


def new_node(rng, description):
    """A call of something that a file may name, of values that the graph has."""
    nodes = description["nodes"]
    place = rng.randrange(1, len(nodes))
    values = [{"node": entry["name"]} for entry in nodes[:place]]
    likely = [
        rng.choice(values),
        rng.randrange(-2, 4),
        rng.choice(values),
        {"tuple": [1, 2]},
        random_value(rng, description),
    ]
    arguments = [rng.choice(values)] + [rng.choice(likely) for _ in range(rng.randrange(4))]
    kwargs = {key: rng.choice(likely) for key in rng.sample(sorted(functions.KEYWORDS), rng.choice((0, 0, 1)))}
    if rng.random() < 0.5:
        new = node("added", "call_function", rng.choice(sorted(functions.FUNCTIONS)), arguments, **kwargs)
    else:
        new = node("added", "call_method", rng.choice(sorted(functions.METHODS)), arguments, **kwargs)
    nodes.insert(place, new)
    for entry in nodes[place + 1 :]:
        for holder, key in list(places(entry["args"])):
            if holder[key] in values and rng.random() < 0.3:
                holder[key] = {"node": "added"}


def mutate(rng, description, tensors):
    """One change of the description or of the tensors."""
    kind = rng.randrange(12)
    if kind < 6:
        new_node(rng, description)
    elif kind < 8:
        holder, key = rng.choice(list(places(description)))
        if isinstance(holder, dict) and rng.random() < 0.2:
            holder[rng.choice(WORDS)] = holder.pop(key)
        elif rng.random() < 0.1:
            del holder[key]
        else:
            holder[key] = random_value(rng, description)
    elif kind < 10 and description["modules"]:
        entry = rng.choice(list(description["modules"].values()))
        if rng.random() < 0.5:
            entry["class"] = rng.choice(sorted(classes.CLASSES))
        else:
            names = [*entry["arguments"], *WORDS[-2:]]
            entry["arguments"][rng.choice(names)] = random_value(rng, description)
    elif kind == 10:
        name = rng.choice(list(tensors))
        value = tensors[name]
        tensors[name] = rng.choice(
            [
                lambda: value[..., :1],
                lambda: value.flatten(),
                lambda: value.double(),
                lambda: value.to(torch.int8),
                lambda: value.bool(),
                lambda: value * float("nan") if value.is_floating_point() else value,
                lambda: -value,
                lambda: value[:0] if value.dim() else value,
                lambda: value.repeat(2, *[1] * value.dim()),
                lambda: torch.full_like(value, 100),
            ]
        )().contiguous()
    else:
        name, other = rng.choice(list(tensors)), rng.choice(WORDS + list(tensors))
        tensors[other or "x"] = tensors.pop(name)


def damage(rng, path):
    """Change bytes of the file itself, at any place, the header first of all."""
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(min(len(data), rng.choice((16, 300, len(data)))))
        rng.choice(
            [
                lambda: data.__setitem__(place, data[place] ^ 1 << rng.randrange(8)),
                lambda: data.__delitem__(slice(place, None)),
                lambda: data.__setitem__(slice(place, place), bytes([rng.randrange(256)])),
            ]
        )()
        if not data:
            break
    path.write_bytes(data)


def main():
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rng, path, outcomes, found = random.Random(SEED), FOLDER / "fuzzed", collections.Counter(), seeds()
    # torch makes its folders when a graph fails
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(Exception):
        fx.symbolic_trace(lambda x: x.chunk(x))(torch.zeros(1))
    sys.addaudithook(audit)
    resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
    before = state()
    for number in range(COUNT):
        description, tensors, x = rng.choice(found)
        description, tensors = copy.deepcopy(description), dict(tensors)
        damaged = rng.random() < 0.15
        with contextlib.suppress(
            IndexError, KeyError, TypeError, AttributeError, ValueError
        ):  # a mutation of what is mutated already
            for _ in range(0 if damaged else rng.choice((1, 1, 1, 2, 4))):
                mutate(rng, description, tensors)
        write(path, json.dumps(description), tensors)
        whole = path.read_bytes()
        if damaged:
            damage(rng, path)
        signal.alarm(20)
        touched[:] = [True]
        with contextlib.redirect_stderr(io.StringIO()):  # GraphModules print where they fail
            outcome = run(path, x)
        signal.alarm(0)
        outcomes[outcome] += 1
        seen, touched[:] = touched[1:], [None]
        if seen or state() != before:
            sys.exit(
                f"BROKEN: case {number} of seed {SEED} changed {seen or 'torch or Python'}: "
                f"{json.dumps(description)[:3000]}"
            )
        if damaged and outcome != "refused" and path.read_bytes() != whole:
            sys.exit(f"BROKEN: case {number} of seed {SEED}: a damaged file was loaded")
    print(json.dumps(outcomes))


def run(path, x):
    try:
        snn = pcsnn.load(path)
    except ValueError:
        return "refused"
    try:
        snn(*[value.clone() for value in x])
    except Exception:
        return "failed in forward"
    return "ran"


main()
