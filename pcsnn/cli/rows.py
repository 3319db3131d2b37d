"""What a line of results must hold, so that tables and pictures can be made of it."""

import dataclasses

from pcsnn.analysis.costs.results import Count, Energy, executions_of
from pcsnn.cli.timing import FORMS
from pcsnn.tensors import checks

# A form is the type of a value, {name: form} of a dict, [form] of a list, or (form,) of what may be None.
_NUMBER = float
_TIME = {"milliseconds": dict.fromkeys(FORMS, _NUMBER), "speed_up": _NUMBER, "rounds": int, "batch": int}
_FIGURES = dict.fromkeys([field.name for field in dataclasses.fields(Count)], _NUMBER)
_JOULES = dict.fromkeys([*(field.name for field in dataclasses.fields(Energy)), "total"], _NUMBER)
_STEPS = {"timesteps": int, "spike_levels": int}
_YOUNGER = {"spike_levels", "spike_macs"}  # what lines of earlier versions lack
_ROW = {
    "accuracy": (_NUMBER,),
    "fidelity": _NUMBER,
    "logit_error": _NUMBER,
    "spikes_per_neuron": _NUMBER,
    "method": str,
    "float_accuracy": (_NUMBER,),
    "time": (_TIME,),
}
_LARGEST = 2**63  # of whole numbers, which JSON does not bound


def check_rows(path, rows, option):
    """ValueError that names option, file and T for a row that lacks something, or holds it in another form.

    Rows of earlier versions get the D that they do not say, 1.
    """
    for row in rows:
        row.setdefault("spike_levels", 1)
        problem = misfit(row, _STEPS, "") or _out_of_range(row)
        problem = problem or misfit(row, _ROW | {"operations": (operations(row),)}, "") or _of_another(row)
        if problem:
            raise ValueError(f"{option}: {path} has no complete results of T = {str(row['timesteps'])[:20]}: {problem}")


def operations(row):
    """The form of the operations of a row: at D > 1 there are more executions."""
    executions = executions_of(row["spike_levels"])
    counts, energy = (dict.fromkeys(executions, figures) for figures in (_FIGURES, _JOULES))
    layer = {"name": str, "kind": str, "detail": str, "once": bool, "counts": counts}
    return _STEPS | {"images": int, "uncounted": [str], "energy": energy, "layers": [layer]}


def _out_of_range(row):
    """What is wrong with T and D, in words; None where they are in range."""
    for name in ("timesteps", "spike_levels"):
        if not 1 <= row[name] <= checks.MAX_TIMESTEPS:
            return f"{name} is not in 1..{checks.MAX_TIMESTEPS}"
    full = row["timesteps"] * row["spike_levels"]
    return f"T D is {full}, above {checks.MAX_TIMESTEPS}" if full > checks.MAX_TIMESTEPS else None


def _of_another(row):
    """What is wrong with operations that are of another T or D than their row; None where they are of the same."""
    for name in _STEPS if row["operations"] else ():
        found = row["operations"].get(name, 1)
        if found != row[name]:
            return f"operations.{name} is {found}, of a row of {row[name]}"
    return None


def misfit(value, form, name):
    """What is wrong with a value, in words; None where it has its form."""
    if isinstance(form, tuple):
        return None if value is None else misfit(value, form[0], name)
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return f"{name.rstrip('.')} is a {type(value).__name__}"
        problems = (
            f"{name}{key} is missing" if key not in value else misfit(value[key], part, f"{name}{key}.")
            for key, part in form.items()
            if key in value or key not in _YOUNGER
        )
    elif isinstance(form, list):
        if not isinstance(value, list):
            return f"{name.rstrip('.')} is a {type(value).__name__}"
        problems = (misfit(part, form[0], f"{name}{place}.") for place, part in enumerate(value))
    else:
        return None if _is(value, form) else f"{name.rstrip('.')} is {str(value)[:40]!r}"
    return next(filter(None, problems), None)


def _is(value, kind):
    if kind in (str, bool):
        return isinstance(value, kind)
    if kind is float and isinstance(value, float):
        return True
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST
