"""Shipped FashionMNIST networks as C: counts compared with pcsnn, then size and cycles an image.

python benchmarks/c_code.py --images 20
"""

import argparse
import ctypes
import pathlib
import shutil
import subprocess
import tempfile

import torch
from lib import data, networks

import pcsnn

NETWORKS = (("vgg", "qcfs"), ("vgg", "relu"), ("resnet20", "qcfs"))
FLAGS = "-std=c99 -Wall -Wextra -Wpedantic -Werror -ffp-contract=off -shared -fPIC".split()
DRIVER = """
static unsigned long long sum;
void NAME_counts(int layer, const unsigned char *counts, int size)
{
    for (int place = 0; place < size; place++) /* a hash of all counts in their order */
        sum = (sum ^ (unsigned long long)(counts[place] + 256 * layer)) * 1099511628211ULL;
}
unsigned long long hash(const float *input, float *output)
{
    sum = 14695981039346656037ULL;
    NAME_run(input, output);
    return sum;
}
"""
CLOCK = """
#include <time.h>
#if defined(__x86_64__) || defined(__i386__)
static unsigned long long now(void) { return __builtin_ia32_rdtsc(); }
const char *unit = "cycles";
#else
static unsigned long long now(void) { return (unsigned long long)(1e9 * (double)clock() / CLOCKS_PER_SEC); }
const char *unit = "ns";
#endif
unsigned long long timed(const float *input, float *output)
{
    const unsigned long long start = now();
    NAME_run(input, output);
    return now() - start;
}
"""


def hash_of(counts):
    """The driver's hash of counts [N, C, H, W] or [N, C] by layer."""
    total = 14695981039346656037
    for layer, values in enumerate(counts):
        flat = values[0].permute(1, 2, 0).flatten() if values.dim() == 4 else values[0]
        for count in flat.tolist():
            total = ((total ^ (count + 256 * layer)) * 1099511628211) % 2**64
    return total


def distinct(snn, layer, counts):
    neurons = snn.network.get_submodule(layer)
    return counts // (neurons.neuron.full_count // neurons.steps)


def library(folder, name, options, extra):
    source = folder / f"{name}.c"
    whole = folder / f"{name}_whole.c"
    whole.write_text(source.read_text() + extra.replace("NAME", name))
    target = folder / f"{name}{len(extra)}.so"
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    subprocess.run([compiler, *FLAGS, *options, "-o", target, whole], check=True)
    return ctypes.CDLL(target)


def measure(name, activation, images, timesteps, compared, repeats, folder):
    network, _ = networks.load(networks.checkpoint_path(name, activation))
    snn = pcsnn.convert(network, timesteps, calibration=images)
    snn = pcsnn.optimize(snn, "int8", example_inputs=images, first_last=True)
    title = f"{name}_{activation}"
    size = pcsnn.exchange.to_c(snn, folder / f"{title}.c", images)
    code = library(folder, title, ["-O1", "-DPCSNN_COUNTS"], DRIVER)
    code.hash.restype = ctypes.c_ulonglong
    out = torch.empty(10)
    for image in images[:compared]:
        with pcsnn.record(snn) as rec:
            expected = snn(image[None])[0]
        found = code.hash(ctypes.c_void_p(image.contiguous().data_ptr()), ctypes.c_void_p(out.data_ptr()))
        if found != hash_of([distinct(snn, layer, counts) for layer, counts in rec.counts.items()]):
            raise SystemExit(f"{title}: counts differ")
        if (out - expected).abs().max() > 1e-4:
            raise SystemExit(f"{title}: outputs differ by {(out - expected).abs().max():.3g}")
    fast = library(folder, title, ["-O3", "-march=native"], CLOCK)
    fast.timed.restype = ctypes.c_ulonglong
    times = [
        fast.timed(ctypes.c_void_p(image.contiguous().data_ptr()), ctypes.c_void_p(out.data_ptr()))
        for image in images[:repeats]
    ]
    unit = ctypes.c_char_p.in_dll(fast, "unit").value.decode()
    print(
        f"{title}: T = {timesteps}, {compared} images with equal counts in {len(rec.counts)} layers; "
        f"{size.constants:,} bytes of constants, {size.buffers:,} of buffers; {min(times) / 1e6:.1f} million {unit} "
        "an image",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timesteps", type=int, default=8)
    parser.add_argument("--images", type=int, default=20, help="compared, and timed (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = data.normalise(data.fashion_mnist("t10k")[0][:64], data.FASHION_MNIST)
    with tempfile.TemporaryDirectory() as folder:
        for name, activation in NETWORKS:
            measure(name, activation, images, args.timesteps, args.images, args.images, pathlib.Path(folder))


if __name__ == "__main__":
    main()
