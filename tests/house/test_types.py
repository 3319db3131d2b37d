"""Public signatures: all are typed, and a user's program that mypy checks does what it says."""

import importlib.resources
import inspect

import pytest
import typed_user

import pcsnn
from pcsnn import analysis, baselines, distributed, exchange, functional, models, nn

PUBLIC = (pcsnn, functional, nn, analysis, baselines, distributed, exchange, models)


def functions_of(value):
    """(name, function) of a public function, or of the constructor, methods and properties of a public class."""
    if inspect.isfunction(value):
        yield value.__name__, value
    for kind in value.__mro__ if inspect.isclass(value) else ():
        if not kind.__module__.startswith("pcsnn"):
            continue
        for name, member in vars(kind).items():
            member = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if inspect.isfunction(member) and (name == "__init__" or not name.startswith("_")):
                yield f"{value.__name__}.{name}", member


def untyped(function):
    """Parameters without a type, and "return"."""
    signature = inspect.signature(function)
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name not in ("self", "cls")]
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
    def function(one, two: int, *, three=3) -> None: ...

    assert untyped(function) == ["one", "three"]
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
