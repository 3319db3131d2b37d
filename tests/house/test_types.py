"""Public signatures: all are typed, and a user's program that mypy checks does what it says."""

import importlib.resources
import inspect

import pytest
import torch
import typed_user

import pcsnn
from pcsnn import analysis, baselines, distributed, exchange, functional, models, nn

PUBLIC = (pcsnn, functional, nn, analysis, baselines, distributed, exchange, models)


def functions_of(value):
    """(name, function) of a public function, or of the constructor, methods and properties of a public class."""
    if inspect.isfunction(value):
        yield value.__name__, value
    for name in dir(value) if inspect.isclass(value) else ():
        member = inspect.getattr_static(value, name)
        member = getattr(member, "fget", None) or getattr(member, "__func__", member)
        own = inspect.isfunction(member) and member.__module__.startswith("pcsnn")
        inherited = hasattr(torch.nn.Module, name) and name != "forward"  # torch says what its own methods take
        if own and (name == "__init__" or not name.startswith("_") and not inherited):
            yield f"{value.__name__}.{name}", member


def untyped(function):
    """Parameters without a type, but for that of the object itself, and "return"."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[function.__qualname__ != function.__name__ :]
    missing = [parameter.name for parameter in parameters if parameter.annotation is parameter.empty]
    returns = function.__name__ != "__init__" and signature.return_annotation is signature.empty
    return [*missing, *["return"] * returns]


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_public_signatures_are_typed(module):
    found = {
        name: untyped(function)
        for public in module.__all__
        for name, function in functions_of(getattr(module, public))
        if untyped(function)
    }
    assert not found


def test_what_has_no_types_is_found():
    class Half:
        def method(self, one, two: int, *, three=3) -> None: ...

    assert untyped(Half.method) == ["one", "three"] and untyped(functions_of) == ["value", "return"]
    assert {name for name, _ in functions_of(pcsnn.SpikingNetwork)} >= {
        "SpikingNetwork.__init__",
        "SpikingNetwork.timesteps",
        "SpikingNetwork.forward",
    }


def test_type_checkers_of_users_read_the_signatures():
    assert (importlib.resources.files("pcsnn") / "py.typed").is_file()


def test_the_typed_program_runs(tmp_path):
    assert not typed_user.operations().any()
    assert not typed_user.conversion(tmp_path).any()
    assert typed_user.measurement().images == 2
