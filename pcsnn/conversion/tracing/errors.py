"""What to say when torch.fx cannot follow a network: where, why, and one thing to do."""

import os
import traceback

from pcsnn.conversion.tracing.tracer import HOME, NOT_SOURCE

_NOT_SOURCE = (*NOT_SOURCE, *(f"{HOME / room}{os.sep}" for room in ("analysis", "nn", "tensors")))

# part of an error's text -> what to do about it; the first that fits
_ADVICE = (
    (
        "control flow",
        "an if, while or assert that depends on values: decide it in __init__, write a choice between tensors with "
        "torch.where, and take checks of the input out of forward",
    ),
    (
        "cannot be iterated",
        "a loop over a traced value: loop over a list of layers or a fixed range, take parts by index, and give "
        "forward its tensors as arguments of their own",
    ),
    (
        "not iterable",
        "a loop over, or `in` applied to, a traced value: take parts by index or by key, and decide what is there in "
        "__init__",
    ),
    ("item assignment", "an assignment to a part of a tensor: write it with torch.where, torch.cat or masked_fill"),
    ("interpreted as an integer", "a count taken from a tensor's shape: keep it in __init__"),
    ("'len' is not supported", "len of a traced value: keep the number in __init__"),
    (
        "einops",
        "a call of einops that cannot be seen from here: import its functions where forward is defined, or write it "
        "with reshape and permute",
    ),
    (
        "Proxy",
        "a function that takes tensors only, not a traced value: write it with functions of torch, or make it one step "
        "of the graph with torch.fx.wrap",
    ),
)


def explain(model, error):
    """A ValueError for what went wrong while `model` was traced: line of the network, cause, and what to do."""
    text = str(error).strip() or type(error).__name__
    if text.startswith("model: "):
        return ValueError(text)
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_NOT_SOURCE)]
    where = f"{lines[-1].filename}:{lines[-1].lineno} " if lines else ""
    if isinstance(error, ValueError) and text.startswith(("calls ", "sets ", "makes ")):
        return ValueError(f"model: {where}{text}")
    advice = next(
        (advice for part, advice in _ADVICE if part in text),
        "a step that needs real tensors: take it out of forward, or convert the parts of the network without it",
    )
    line = f"({lines[-1].line}): " if lines and lines[-1].line else ""
    return ValueError(f"model: torch.fx cannot trace {type(model).__name__}: {where}{line}{text}. This is {advice}")
