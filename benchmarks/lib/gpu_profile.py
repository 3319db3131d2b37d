"""Profile of gpu.py: which kernels a network's time goes to."""

import collections

import torch
from torch.profiler import ProfilerActivity, profile

from lib import timing
from lib.gpu_forms import LARGEST, forms_of

FORMS = ("collapsed-tf32", "bfloat16", "int8")
LONGEST = 9


def _kernels(call, setting):
    """{name: [launches, milliseconds]} of one warm call; in a dry run of torch's operators."""
    for _ in range(3):
        call()
    with profile(activities=[ProfilerActivity.CPU, *([] if setting.dry else [ProfilerActivity.CUDA])]) as recorded:
        call()
        timing.synchronise(setting.device)
    found = collections.defaultdict(lambda: [0, 0.0])
    for event in recorded.events():
        if setting.dry or event.device_type == torch.autograd.DeviceType.CUDA:
            found[event.name][0] += 1
            found[event.name][1] += (event.self_cpu_time_total if setting.dry else event.device_time) / 1000
    return found


@torch.no_grad()
def measure(model, name, setting):
    """The profile of a form whose result is right, a dict for JSON; None where it is not right."""
    batch = setting.small(LARGEST, 2)
    call, verdict = forms_of(model, setting).form(name, batch)
    if not verdict.right:
        return None
    kernels = sorted(_kernels(call, setting).items(), key=lambda item: -item[1][1])
    return {
        "model": model,
        "form": name,
        "batch": batch,
        "milliseconds": sum(each[1] for _, each in kernels),
        "launches": sum(each[0] for _, each in kernels),
        "kernels": [{"name": kernel, "launches": each[0], "milliseconds": each[1]} for kernel, each in kernels],
    }


def lines(found):
    """A profile in words: the total, and the kernels that take longest."""
    return [
        f"  {found['model']} {found['form']}, batch {found['batch']}: {found['milliseconds']:.2f} ms in "
        f"{found['launches']} launches",
        *(
            f"    {kernel['milliseconds']:8.3f} ms {kernel['launches']:4} x {kernel['name'][:90]}"
            for kernel in found["kernels"][:LONGEST]
        ),
    ]
