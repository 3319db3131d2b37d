"""Rows of gpu.py: a result that is compared first, and only where it is right timed beside something else."""

import contextlib
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

import pcsnn
from lib import checks, gpu_clock, gpu_goals, timing
from lib.competitors import Unavailable

OURS, OTHER = "ours", "other"


class Prepared(NamedTuple):
    """What a row needs to be timed, and whether it may be.

    calls: {name: function without arguments}; none where `figure` needs no times. figure: {name: {round: seconds}} ->
    the row's value. remark: the same -> a few words beside the verdict's. burst: whether calls are timed in bursts.
    """

    verdict: checks.Verdict
    calls: dict
    figure: Callable
    remark: Callable = lambda seconds: ""
    burst: bool = False


@dataclass(frozen=True)
class Row:
    """what: its name, unique. unit: of its value. less: whether less of it is better. build: Setting -> Prepared."""

    what: str
    unit: str
    build: Callable
    less: bool = False


def faster(seconds):
    """How many times as fast as the other."""
    return timing.ratio(seconds[OTHER], seconds[OURS])


def time_of_other(seconds):
    """Time as a share of the other's."""
    return timing.ratio(seconds[OURS], seconds[OTHER])


def copy_of(moved, setting):
    """A call that reads and writes `moved` bytes together."""
    source = torch.ones(moved // 2, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def reference(function, *arguments, **options):
    """The same function on the reference."""
    with pcsnn.use_backend("reference"):
        return function(*arguments, **options)


def same_in_parts(found, expected_of, parts, dim=0):
    """`found` must be, part by part along `dim`, what expected_of(part as a slice) gives, bit for bit.

    The reference needs many times the memory of an operation, so that it computes one part at a time.
    """
    size = found.shape[dim]
    step = max(1, -(-size // parts))
    wrong = 0
    for start in range(0, size, step):
        length = min(step, size - start)
        expected = expected_of(slice(start, start + length))
        part = found.narrow(dim, start, length)
        if part.shape != expected.shape or part.dtype != expected.dtype:
            return checks.Verdict(
                False, f"{part.dtype} {tuple(part.shape)}, must be {expected.dtype} {tuple(expected.shape)}"
            )
        wrong += (part != expected).sum().item()  # NaN, which no row makes, would count as wrong
    return checks.Verdict(
        wrong == 0,
        "bit-equal to the reference" if wrong == 0 else f"{wrong} of {found.numel()} values differ from the reference",
    )


def all_right(*verdicts):
    """One verdict of several."""
    words = dict.fromkeys(verdict.words for verdict in verdicts)
    return checks.Verdict(all(verdict.right for verdict in verdicts), "; ".join(words))


@torch.no_grad()
def measure(row, setting):
    """A row's result, a dict for JSON; no value where it is wrong (right False) or cannot run here (right None)."""
    goal = gpu_goals.GOALS.get(row.what, gpu_goals.Goal())
    found = {
        "what": row.what,
        "unit": row.unit,
        "less": row.less,
        "target": goal.target,
        "before": list(goal.before),
        "value": None,
        "met": None,
        "milliseconds": {},
    }
    with _reported(found):
        prepared = row.build(setting)
        verdict = prepared.verdict
        found["right"], found["remark"] = verdict.right, verdict.words
        if not verdict.right:
            return found
        clock = gpu_clock.bursts if prepared.burst else gpu_clock.alternate
        seconds = clock(prepared.calls, setting) if prepared.calls else {}
        found["value"] = prepared.figure(seconds)
        found["milliseconds"] = {name: 1000 * timing.median(taken) for name, taken in seconds.items()}
        more = prepared.remark(seconds)
        found["remark"] += f"; {more}" if more else ""
        if goal.target is not None and not setting.dry:
            found["met"] = found["value"] <= goal.target if row.less else found["value"] >= goal.target
    return found


@contextlib.contextmanager
def _reported(found):
    """A row that fails is a wrong one, and the next ones are still measured."""
    try:
        yield
    except Unavailable as reason:
        found.update(right=None, remark=f"not run: {reason}")
    except Exception as error:  # whatever it says is shown, and the exit status tells
        message = str(error).strip().partition("\n")[0]
        found.update(
            right=False,
            value=None,
            remark=f"failed: {type(error).__name__}: {message}",
            traceback=traceback.format_exc(),
        )
