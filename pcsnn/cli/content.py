"""What a report holds, as JSON: gathered of a conversion, and read again from the page of a report."""

import dataclasses
import json
from typing import Any

import torch

from pcsnn import analysis
from pcsnn.analysis.spikes.trains import Order
from pcsnn.cli import rows
from pcsnn.cli.convert import relative_report
from pcsnn.cli.files import PAGE, reading
from pcsnn.cli.html import CONTENT
from pcsnn.cli.timing import FORMS

FORMAT = 1
MOST_BYTES = 2**28
_NUMBER, _MAYBE = float, (float,)  # forms of pcsnn.cli.rows
_ERROR: dict[str, Any] = {"name": str} | dict.fromkeys(
    ("current", "rate", "clipping", "rounding", "propagated"), _MAYBE
)
_ERROR |= dict.fromkeys(("dead", "saturated"), _NUMBER)
_SPIKES: dict[str, Any] = {"name": str} | dict.fromkeys(("samples", "neurons", "spikes", "silent"), int)
_SPIKES |= dict.fromkeys(("rate", "sparsity", "saturated"), _NUMBER)
_TIME = {"milliseconds": dict.fromkeys(FORMS, _NUMBER), "speed_up": _NUMBER, "rounds": int, "batch": int}
_ROW = {"timesteps": int, "spike_levels": int, "method": str, "fidelity": _NUMBER, "logit_error": _MAYBE}
_ROW |= {"accuracy": _MAYBE, "spikes_per_neuron": _NUMBER}
_FORM = {
    "pcsnn_report": int,
    "title": str,
    "facts": [[str]],
    "row": _ROW,
    "float_accuracy": _MAYBE,
    "conversion": [[str]],
    "errors": [_ERROR],
    "spikes": [_SPIKES],
    "time": (_TIME,),
    "machine": [[str]],
}


def of_conversion(snn, row, float_accuracy, errors, recording):
    """What a report tells of a conversion and its spikes."""
    return {
        "pcsnn_report": FORMAT,
        "row": dataclasses.asdict(row),
        "float_accuracy": float_accuracy,
        "conversion": [[part.name, part.kind, part.detail, part.location] for part in relative_report(snn.report).rows],
        "errors": [dataclasses.asdict(part) for part in errors.rows],
        "spikes": [dataclasses.asdict(part) for part in recording.summary()],
    }


def trains(recording: analysis.Recording, layer: str, neurons: int, order: Order) -> tuple[list[list[int]], list[int]]:
    """(T values for each of some neurons of a layer under the first sample, which neurons these are): drawn with a
    fixed seed, in ascending order."""
    total = recording.counts_of(layer)[0].numel()
    chosen = torch.randperm(total, generator=torch.Generator().manual_seed(0))[:neurons].sort().values
    spikes = recording.spikes(layer, order, chosen, slice(0, 1))[:, 0].T
    return spikes.int().tolist(), chosen.tolist()


def read(path, option):
    """The content of a report's page.

    Raises:
        ValueError: no page of `pcsnn report`, one of another version, or one that was changed.
    """
    with reading(path, option):
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ValueError(f"expected a report of at most {MOST_BYTES:,} bytes, got {size:,}")
        text = path.read_text("utf-8")
        _, found, rest = text.partition(CONTENT)
        if not text.startswith(PAGE) or not found:
            raise ValueError("it is no page that pcsnn report wrote, or one of an earlier version: make it anew")
        content = json.loads(rest.partition("</script>")[0])
        if not isinstance(content, dict) or content.get("pcsnn_report") != FORMAT:
            raise ValueError("it is a page of another version: make it anew")
        operations = content.get("operations")
        form = _FORM
        if operations is not None:
            several = rows.misfit(content, {"row": _ROW}, "")
            form = form if several else form | {"operations": rows.operations(content["row"])}
        problem = rows.misfit(content, form, "")
        for name, columns in (("conversion", 4), ("facts", 2), ("machine", 2)):
            short = [] if problem else [line for line in content[name] if len(line) != columns]
            problem = f"{name} has a line of {len(short[0])} texts, not {columns}" if short else problem
        if problem:
            raise ValueError(f"its content was changed: {problem}")
    return content
