"""Which of a few pinned tiles a product runs with: each is timed once for each kind of product, on the GPU it is for."""

import torch
import triton.testing

_fastest = {}


def allowed(tensor):
    """Whether launches that write `tensor` can be timed: on a GPU, and not while a CUDA graph is recorded."""
    return tensor.is_cuda and not torch.cuda.is_current_stream_capturing()


def milliseconds(launch):
    """Median time of a launch, which writes the same result each time."""
    with torch.cuda.device(launch.arguments["out_ptr"].device):
        return triton.testing.do_bench(launch, warmup=5, rep=20, return_mode="median")


def fastest(key, candidates, launch_of, timed=True):
    """The one of `candidates` with the fastest launch; timed at the first call with `key`, which names the kind of product.

    timed: whether it may be, which a capture does not allow; None then where no call before has timed it.
    """
    if key not in _fastest:
        if not timed:
            return None
        _fastest[key] = min(candidates, key=lambda candidate: milliseconds(launch_of(candidate)))
    return _fastest[key]
