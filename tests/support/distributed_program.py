"""What tests/network/test_distributed.py runs under torchrun: every process writes what it found to FOLDER/<rank>.pt.

distributed_program.py FOLDER          all that must agree with one process
distributed_program.py FOLDER fail     process 1 has NaN in its data
distributed_program.py FOLDER kill     process 1 is killed while it reads its data
"""

import os
import pathlib
import signal
import sys

import torch
from analysis_cases import two_layers
from distributed_cases import LEVELLED, METHODS, calibrated, evaluated, images, labels, rows, signed, swept

import pcsnn
from pcsnn.distributed import collectives
from pcsnn.distributed.processes import alone, rank, shard, size


def error_of(call):
    try:
        call()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def agreeing():
    x, y = images(), labels()
    few, none_here = images()[:1], labels()[:1]
    found = {"rank": rank(), "size": size(), "indices": {}}
    for count in (0, 1, 64, 65):
        parts = [part for (part,) in shard(torch.arange(count), 7)]
        found["indices"][count] = torch.cat(parts).tolist() if parts else []
    found["dataset"] = [int(part) for batch in shard(list(range(65)), 4) for part in batch]
    for method in METHODS:
        found[method] = calibrated(method, shard(x, 8)).state_dict()
    found["sizes"] = calibrated("light", list(shard(rows(), 1))).state_dict()
    for method in ("max", "quick"):
        found[f"signed {method}"] = signed(shard(x, 8), method).state_dict()
    found["sweep"] = swept(shard((x, y), 8))
    found["evaluation"] = evaluated(shard((x, y), 8))
    found["one image"] = evaluated(shard((few, none_here), 8))
    with alone():
        found["alone"] = calibrated("quick", x).state_dict()
        found["alone size"] = size(), rank()
    module = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.constant_(module.weight, 5 + rank())
    collectives.like_first(module)
    found["first"] = module.weight.detach(), collectives.from_first(rank())
    found["other T"] = error_of(lambda: pcsnn.convert(two_layers(), 4 + rank(), calibration=shard(x, 8), method="max"))
    found["other D"] = [error_of(lambda of=of: of(1 + rank(), shard((x, y), 8))) for of in LEVELLED]
    found["other model"] = error_of(lambda: evaluated(shard((x, y), 8), seed=rank()))
    found["no images"] = error_of(lambda: evaluated(shard((x[:0], y[:0]), 8)))
    found["second group"] = error_of(lambda: pcsnn.distributed.group().__enter__())
    return found


def failing():
    x = images()
    if rank() == 1:
        x[1] = torch.nan
    calibrated("max", shard(x, 8))


class Killed:
    """Data in whose middle process 1 dies without a word."""

    def __iter__(self):
        yield images()[:4]
        if rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield images()[4:8]


def dying():
    calibrated("max", Killed())


if __name__ == "__main__":
    folder, *how = sys.argv[1:]
    torch.set_num_threads(1)
    with pcsnn.distributed.group("gloo", timeout=120):
        found = {"fail": failing, "kill": dying}[how[0]]() if how else agreeing()
        torch.save(found, pathlib.Path(folder) / f"{rank()}.pt")
