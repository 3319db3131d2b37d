"""What a line of results must hold, so that tables and pictures can be made of it."""

import dataclasses

from pcsnn.analysis.costs.results import EXECUTIONS, Count, Energy
from pcsnn.cli.timing import FORMS
from pcsnn.tensors import checks

# A form is the type of a value, {name: form} of a dict, [form] of a list, or (form,) of what may be None.
_NUMBER = float
_TIME = {"milliseconds": dict.fromkeys(FORMS, _NUMBER), "speed_up": _NUMBER, "rounds": int, "batch": int}
_FIGURES = [field.name for field in dataclasses.fields(Count) if field.name != "spike_macs"]  # which is younger
_COUNTS = dict.fromkeys(EXECUTIONS, dict.fromkeys(_FIGURES, _NUMBER))
_JOULES = [*(field.name for field in dataclasses.fields(Energy)), "total"]
_ENERGY = dict.fromkeys(EXECUTIONS, dict.fromkeys(_JOULES, _NUMBER))
_OPERATIONS = {
    "timesteps": int,
    "images": int,
    "uncounted": [str],
    "energy": _ENERGY,
    "layers": [{"name": str, "kind": str, "detail": str, "once": bool, "counts": _COUNTS}],
}
_ROW = {
    "timesteps": int,
    "accuracy": (_NUMBER,),
    "fidelity": _NUMBER,
    "logit_error": _NUMBER,
    "spikes_per_neuron": _NUMBER,
    "method": str,
    "float_accuracy": (_NUMBER,),
    "time": (_TIME,),
    "operations": (_OPERATIONS,),
}
_LARGEST = 2**63  # of whole numbers, which JSON does not bound


def check_rows(path, rows, option):
    """ValueError that names option, file and T for a row that lacks something, or holds it in another form."""
    for row in rows:
        problem = _misfit(row, _ROW, "")
        if not problem and not 1 <= row["timesteps"] <= checks.MAX_TIMESTEPS:
            problem = f"timesteps is not in 1..{checks.MAX_TIMESTEPS}"
        if problem:
            raise ValueError(f"{option}: {path} has no complete results of T = {str(row['timesteps'])[:20]}: {problem}")


def _misfit(value, form, name):
    """What is wrong with a value, in words; None where it has its form."""
    if isinstance(form, tuple):
        return None if value is None else _misfit(value, form[0], name)
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return f"{name.rstrip('.')} is a {type(value).__name__}"
        problems = (
            f"{name}{key} is missing" if key not in value else _misfit(value[key], part, f"{name}{key}.")
            for key, part in form.items()
        )
    elif isinstance(form, list):
        if not isinstance(value, list):
            return f"{name.rstrip('.')} is a {type(value).__name__}"
        problems = (_misfit(part, form[0], f"{name}{place}.") for place, part in enumerate(value))
    else:
        return None if _is(value, form) else f"{name.rstrip('.')} is {str(value)[:40]!r}"
    return next(filter(None, problems), None)


def _is(value, kind):
    if kind in (str, bool):
        return isinstance(value, kind)
    if kind is float and isinstance(value, float):
        return True
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST
