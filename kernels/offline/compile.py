"""What the compilers make of the kernels, on a machine without a GPU: offline compilation of any launch for any target.

Everything it needs ships in Triton's wheel. The launches are plans of the launchers themselves.
"""

import pathlib
import re
import subprocess
import tempfile

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pcsnn.kernels.common import INTERPRETED

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHARED_LIMITS = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024, "gfx942": 64 * 1024}  # bytes a program
_POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float64: "*fp64",
    torch.uint8: "*u8",
    torch.int8: "*i8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
_TOOLS = pathlib.Path(triton.__file__).parent / "backends/nvidia/bin"


def signature(launch):
    """(types, constants, names divisible by 16) of a launch's arguments, specialised as Triton's own launcher does."""
    types, constants, aligned = {}, dict(launch.constants), []
    for parameter in launch.kernel.params:
        if parameter.is_constexpr:
            continue
        name, value = parameter.name, launch.arguments[parameter.name]
        if value is None or (isinstance(value, int) and value == 1 and not parameter.do_not_specialize):
            constants[name] = value
            continue
        if isinstance(value, torch.Tensor):
            types[name], divisible = _POINTERS[value.dtype], value.data_ptr()
        else:
            types[name], divisible = "i32" if -(2**31) <= value < 2**31 else "i64", value
        if divisible % 16 == 0 and not parameter.do_not_specialize:
            aligned.append(name)
    return types, constants, aligned


def compile_launch(launch, target):
    """Compile what `launch` would run, with its options, for a GPUTarget; returns Triton's CompiledKernel."""
    if INTERPRETED:
        raise RuntimeError("kernels are interpreted: compile them in a process without TRITON_INTERPRET=1")
    launch = launch.on(target.backend, target.arch)
    types, constants, aligned = signature(launch)
    names = launch.kernel.arg_names
    source = ASTSource(
        launch.kernel,
        {name: types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    return triton.compile(source, target=target, options=launch.options(target.warp_size))


def resources(compiled):
    """What a compiled kernel takes, and how it reaches global memory.

    Returns a dict: registers (a thread), stack (bytes a thread; spilled registers live there), spill (registers
    spilled, AMD only), shared (bytes), load128, store128, loads, stores (instructions), fused (multiply-adds of float32
    and float64; AMD divides with five of them), tensor_core (instructions of matrix units).
    """
    if compiled.metadata.target.backend == "hip":
        text = compiled.asm["amdgcn"]

        def read(key):
            return int(re.search(rf"\.{key}:\s*(\d+)", text)[1])

        return dict(
            registers=read("vgpr_count"),
            stack=read("private_segment_fixed_size"),
            spill=read("vgpr_spill_count") + read("sgpr_spill_count"),
            shared=compiled.metadata.shared,
            load128=_count(r"\b(?:global|buffer)_load_dwordx4", text),
            store128=_count(r"\b(?:global|buffer)_store_dwordx4", text),
            loads=_count(r"\b(?:global|buffer|flat)_load_\w+ ", text),
            stores=_count(r"\b(?:global|buffer|flat)_store_\w+ ", text),
            fused=_count(r"\bv_(?:pk_)?(?:fmac?|mac|mad)_(?:legacy_)?f(?:32|64)", text)
            + _count(r"\bv_pk_fma_f32", text),
            tensor_core=_count(r"\bv_s?mfmac?_", text),
        )
    text = compiled.asm["ptx"]
    found = dict(re.findall(r"(REG|STACK):(\d+)", _on_cubin(compiled, "-res-usage")))
    return dict(
        registers=int(found["REG"]),
        stack=int(found["STACK"]),
        spill=0,
        shared=compiled.metadata.shared,
        load128=_count(r"\bld\.global\S*\.v(?:4\.b32|2\.b64)\b", text),
        store128=_count(r"\bst\.global\S*\.v(?:4\.b32|2\.b64)\b", text),
        loads=_count(r"\bld\.global", text),
        stores=_count(r"\bst\.global", text),
        fused=_count(r"\bfma\.rn\.f(?:32|64)\b", text) + 2 * _count(r"\bfma\.rn\.f32x2\b", text),
        tensor_core=_count(r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)\b", text),
    )


def program(compiled):
    """Machine instructions of a compiled kernel: (all of them, [those of each loop]), as text, in order."""
    if compiled.metadata.target.backend == "hip":
        body = re.search(r"^\w+:.*?(?=\ts_endpgm)", compiled.asm["amdgcn"], re.M | re.S)[0]
        place, code = {}, []
        for label, instruction in re.findall(r"^(?:(\.LBB\w+):|\t([a-z]\w+ ?.*))", body, re.M):
            if label:
                place[label] = len(code)
            elif not re.match(r"s_(?:nop|waitcnt|code_end)", instruction):
                code.append(instruction)
        jumps = [
            (i, place.get(instruction.split()[-1])) for i, instruction in enumerate(code) if "branch" in instruction
        ]
    else:
        listing = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", _on_cubin(compiled, "-sass"), re.M)
        listing = [(int(address, 16), instruction.strip()) for address, instruction in listing]
        while listing and re.match(r"NOP|BRA ", listing[-1][1]):  # padding and the trap behind the end
            listing.pop()
        code = [instruction for _, instruction in listing]
        place = {address: i for i, (address, _) in enumerate(listing)}
        jumps = [
            (i, place.get(int(target[1], 16)))
            for i, instruction in enumerate(code)
            if (target := re.search(r"\bBRA\S* .*?(0x[0-9a-f]+)", instruction))
        ]
    return code, [code[start : end + 1] for end, start in jumps if start is not None and start <= end]


def _on_cubin(compiled, *options):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        return subprocess.run(
            [_TOOLS / "cuobjdump", *options, cubin.name], capture_output=True, text=True, check=True
        ).stdout


def _count(pattern, text):
    return len(re.findall(pattern, text))
