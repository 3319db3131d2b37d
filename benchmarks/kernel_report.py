"""What the compilers made of every Triton kernel: registers, spills, instructions and bytes a neuron, for each target.

    python benchmarks/kernel_report.py                       # every operation and dtype, wide configuration
    python benchmarks/kernel_report.py --all --json out.json # every configuration and form

Needs no GPU and times nothing: these are counts from the machine code, beside the least bytes that must move.
`step` counts what the loops over T do for each neuron and step; `once` all the rest, for each neuron,
what a compiler wrote beside an unrolled loop for its remaining steps included. How often it unrolled is told from the
loop's accesses. Bytes are what instructions ask for: those of level tables, beyond `least`, come from a cache.
"""

import argparse
import json
import re

import torch
import triton
from tqdm import tqdm

from pcsnn.kernels.offline import compile, launches

_SASS_BITS = {"": 32, "64": 64, "128": 128, "U8": 8, "S8": 8, "U16": 16, "S16": 16}
_AMD_BITS = {
    "ubyte": 8,
    "sbyte": 8,
    "byte": 8,
    "ushort": 16,
    "short": 16,
    "short_d16": 16,
    "dword": 32,
    "dwordx2": 64,
    "dwordx3": 96,
    "dwordx4": 128,
    "ubyte_d16": 8,
    "byte_d16_hi": 8,
    "short_d16_hi": 16,
    "ubyte_d16_hi": 8,
}


def accesses(instructions, kind):
    """Bits of each access to global memory among `instructions`; kind "load" or "store"."""
    found = []
    for text in instructions:
        sass = re.search(r"\b(?:LDG|STG)\S*", text)
        amd = re.match(r"(?:global|buffer|flat)_(load|store)_(\w+)", text)
        if sass and sass[0].startswith("LDG" if kind == "load" else "STG"):
            size = re.search(r"\.(U8|S8|U16|S16|64|128)\b", sass[0])
            found.append(_SASS_BITS[size[1] if size else ""])
        elif amd and amd[1] == kind:
            found.append(_AMD_BITS[amd[2]])
    return found


def count(variant, compiled):
    """A row of the report: counts for each neuron, once and for each step."""
    launch = variant.launch
    neurons = launch.constants["ROWS"] * launch.constants["COLUMNS"] // launch.threads
    code, loops = compile.program(compiled)
    loading = [loop for loop in loops if accesses(loop, "load") and not accesses(loop, "store")]
    storing = [loop for loop in loops if accesses(loop, "store")]
    step = dict(instructions=0.0, loaded=0.0, stored=0.0)
    for kind, alternatives, unroll, dtype in (
        ("load", loading, variant.launch.constants.get("UNROLL", 1), variant.inputs),
        ("store", storing, 1, variant.output),
    ):
        if not alternatives:
            continue
        loop = max(alternatives, key=len)  # the unrolled one, where the compiler made two
        turns = sum(accesses(loop, kind)) / (unroll * neurons * dtype.itemsize * 8)
        steps = unroll * max(round(turns), 1)
        step["instructions"] += len(loop) / steps / neurons
        step["loaded"] += sum(accesses(loop, "load")) / 8 / steps / neurons
        step["stored"] += sum(accesses(loop, "store")) / 8 / steps / neurons
    inner = {id(loop): loop for loop in (*loading, *storing)}.values()
    once = dict(
        instructions=(len(code) - sum(map(len, inner))) / neurons,
        loaded=(sum(accesses(code, "load")) - sum(sum(accesses(loop, "load")) for loop in inner)) / 8 / neurons,
        stored=0.0 if storing else sum(accesses(code, "store")) / 8 / neurons,
    )
    return once, step


def least(variant):
    """Bytes that must move for each neuron: (once, for each step)."""
    arguments = variant.launch.arguments
    residual = arguments.get("residual_ptr")
    if variant.operation == "fire_spikes":
        return 0, variant.inputs.itemsize + variant.output.itemsize
    if variant.operation == "expand_spikes":
        return 1, variant.output.itemsize
    return variant.inputs.itemsize + variant.output.itemsize + (
        residual.element_size() if residual is not None else 0
    ), 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", nargs="+", choices=compile.TARGETS, default=list(compile.TARGETS))
    parser.add_argument("--operation", nargs="+", help="only these operations")
    parser.add_argument(
        "--all", action="store_true", help="every configuration and form, not the wide ones with levels of a line alone"
    )
    parser.add_argument("--json", help="also write the rows to this file")
    arguments = parser.parse_args()
    chosen = [
        v
        for v in launches.of("rates", "spikes")
        if (arguments.all or v.size == "wide" and v.form in ("flat line", "last line", "flat"))
        and (not arguments.operation or v.operation in arguments.operation)
    ]
    rows = []
    for variant in tqdm(chosen, desc="compiling", leave=False):
        for target in arguments.target:
            compiled = compile.compile_launch(variant.launch, compile.TARGETS[target])
            used = compile.resources(compiled)
            once, step = count(variant, compiled)
            rows.append(dict(kernel=str(variant), target=target, **used, once=once, step=step, least=least(variant)))
    print(
        f"triton {triton.__version__}, torch {torch.__version__}; each value for one neuron, except registers, spills "
        "(bytes or registers of one thread)"
    )
    print(
        f"{'':52} {'':7} {'regs':>4} {'spill':>5} {'ld128':>6} {'st128':>6} | {'once':>6} {'bytes':>6} {'least':>5} | "
        f"{'step':>5} {'bytes':>5} {'least':>5}"
    )
    for row in rows:
        once, step = row["once"], row["step"]
        print(
            f"{row['kernel']:52} {row['target']:7} {row['registers']:4} {row['stack'] + row['spill']:5} "
            f"{row['load128']:3}/{row['loads']:<3}{row['store128']:3}/{row['stores']:<3}| "
            f"{once['instructions']:6.1f} {once['loaded'] + once['stored']:6.2f} {row['least'][0]:5} | "
            f"{step['instructions']:5.1f} {step['loaded'] + step['stored']:5.2f} {row['least'][1]:5}"
        )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(dict(triton=triton.__version__, rows=rows), file, indent=1)


if __name__ == "__main__":
    main()
