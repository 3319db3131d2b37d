"""Compilation ahead: rows built in several processes at once, so that measuring finds all kernels in the caches."""

import multiprocessing
import time

import torch

from lib import gpu_sections
from lib.competitors import Unavailable

FIRST = ("networks", "layers", "operators")  # the longest first


def _threads():
    torch.set_num_threads(1)  # together the processes fill the machine
    torch.backends.cudnn.allow_tf32 = False


@torch.no_grad()
def _build(task):
    """What went wrong with a row, or None."""
    section, what, setting, models = task
    row = next(row for row in gpu_sections.ROWS[section](setting, models) if row.what == what)
    try:
        row.build(setting)
    except Unavailable:
        return None
    except Exception as error:  # said here, and met again where the row is measured
        return f"{what}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    finally:
        if not setting.dry:
            torch.cuda.empty_cache()  # the others need it
    return None


def warm(names, setting, models, processes, seconds):
    """Build the rows of sections `names`; what went wrong, in lines. After `seconds` it stops, wherever it is."""
    tasks = [
        (section, row.what, setting, models)
        for section in FIRST
        if section in names
        for row in gpu_sections.ROWS[section](setting, models)
    ]
    problems, ends = [], time.monotonic() + seconds
    with multiprocessing.get_context("spawn").Pool(min(processes, max(len(tasks), 1)), _threads) as pool:
        results = pool.imap_unordered(_build, tasks)
        for _ in tasks:
            try:
                problems += filter(None, [results.next(timeout=max(ends - time.monotonic(), 0.01))])
            except multiprocessing.TimeoutError:
                problems.append(f"stopped after {seconds:.0f} s: what is left compiles where it is measured")
                break
    return problems
