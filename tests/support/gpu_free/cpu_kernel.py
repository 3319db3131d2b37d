"""A compiled Triton kernel as a function of this processor.

Triton's AMD path lowers a kernel to LLVM IR without inline assembly. Take away what names the target, give the few
hardware intrinsics a definition, and llvmlite compiles it for this processor: layouts, vector widths, masks, 32- or
64-bit addresses and conversions run as Triton's compiler left them, none of which its interpreter sees.

Of a kernel whose threads do not talk to each other, threads and programs become a plain loop. Of one with a product,
which has shared memory, barriers and lane exchange, every thread is a fiber (fibers.c) that runs to its next barrier;
it is compiled for a GPU without matrix cores, whose products are plain arithmetic.
"""

import ctypes
import functools
import pathlib
import re
import struct
import subprocess
import tempfile

import llvmlite.binding as llvm
import torch
from triton.backends.compiler import GPUTarget

from pcsnn.kernels.offline import compile

TARGET = compile.TARGETS["gfx942"]
TARGET_OF_PRODUCTS = GPUTarget("hip", "gfx906", 64)
_SHARED_BYTES = 64 * 1024
_CTYPES = {"ptr": ctypes.c_void_p, "i32": ctypes.c_int32, "i64": ctypes.c_int64}
# A buffer descriptor is its base address here: all have this size, past which loads give zero and stores do nothing.
_BUFFER_BYTES = 2147483646
_INTRINSICS = (  # intrinsic, name, declaration, and definition where threads do not meet, if there is one
    ("@llvm.amdgcn.workitem.id.x", "@gpu_thread", "i32 @gpu_thread()", "{ %v = load i32, ptr @thread\n ret i32 %v }"),
    (
        "@llvm.amdgcn.workgroup.id.x",
        "@gpu_program",
        "i32 @gpu_program()",
        "{ %v = load i32, ptr @program\n ret i32 %v }",
    ),
    ("@llvm.amdgcn.readfirstlane.i32", "@gpu_first_lane", "i32 @gpu_first_lane(i32 %v)", "{ ret i32 %v }"),
    ("@llvm.amdgcn.s.barrier", "@gpu_barrier", "void @gpu_barrier()", None),
    ("@llvm.amdgcn.wave.barrier", "@gpu_barrier", "void @gpu_barrier()", None),
    ("@llvm.amdgcn.ds.bpermute", "@gpu_bpermute", "i32 @gpu_bpermute(i32 %a, i32 %v)", None),
)
_ARITHMETIC = (  # intrinsic, name, definition
    (
        "@llvm.amdgcn.make.buffer.rsrc.p8.p1",
        "@gpu_descriptor",
        "define ptr @gpu_descriptor(ptr %base, i16 %stride, i64 %bytes, i32 %flags) { ret ptr %base }",
    ),
    (
        "@llvm.amdgcn.sdot4",
        "@gpu_dot4",
        """define i32 @gpu_dot4(i32 %a, i32 %b, i32 %c, i1 %clamp) {
  %a8 = bitcast i32 %a to <4 x i8>
  %b8 = bitcast i32 %b to <4 x i8>
  %x = sext <4 x i8> %a8 to <4 x i32>
  %y = sext <4 x i8> %b8 to <4 x i32>
  %p = mul <4 x i32> %x, %y
  %s = call i32 @llvm.vector.reduce.add.v4i32(<4 x i32> %p)
  %r = add i32 %s, %c
  ret i32 %r
}
declare i32 @llvm.vector.reduce.add.v4i32(<4 x i32>)""",
    ),
    (
        "@llvm.amdgcn.fdot2",
        "@gpu_dot2",
        """define float @gpu_dot2(<2 x half> %a, <2 x half> %b, float %c, i1 %clamp) {
  %x = fpext <2 x half> %a to <2 x float>
  %y = fpext <2 x half> %b to <2 x float>
  %p = fmul <2 x float> %x, %y
  %p0 = extractelement <2 x float> %p, i32 0
  %p1 = extractelement <2 x float> %p, i32 1
  %s = fadd float %p0, %c
  %r = fadd float %s, %p1
  ret float %r
}""",
    ),
)
_BUFFER_LOAD = """define {type} @gpu_buffer_load.{suffix}(ptr %base, i32 %offset, i32 %scalar, i32 %cache) {{
  %inside = icmp ult i32 %offset, {bytes}
  br i1 %inside, label %yes, label %no
yes:
  %wide = zext i32 %offset to i64
  %place = getelementptr i8, ptr %base, i64 %wide
  %value = load {type}, ptr %place, align 1
  ret {type} %value
no:
  ret {type} zeroinitializer
}}"""
_BUFFER_STORE = """
define void @gpu_buffer_store.{suffix}({type} %value, ptr %base, i32 %offset, i32 %scalar, i32 %cache) {{
  %inside = icmp ult i32 %offset, {bytes}
  br i1 %inside, label %yes, label %no
yes:
  %wide = zext i32 %offset to i64
  %place = getelementptr i8, ptr %base, i64 %wide
  store {type} %value, ptr %place, align 1
  br label %no
no:
  ret void
}}"""
# What LLVM calls to round to bfloat16 on processors that cannot; a JIT has no compiler runtime to find it in.
_ROUND_TO_BFLOAT16 = """define bfloat @__truncsfbf2(float %x) {
  %nan = fcmp uno float %x, 0.0
  %bits = bitcast float %x to i32
  %above = lshr i32 %bits, 16
  %odd = and i32 %above, 1
  %half = add i32 %bits, 32767
  %rounded = add i32 %half, %odd
  %kept = select i1 %nan, i32 %bits, i32 %rounded
  %high = lshr i32 %kept, 16
  %short = trunc i32 %high to i16
  %quiet = or i16 %short, 64
  %result = select i1 %nan, i16 %quiet, i16 %short
  %value = bitcast i16 %result to bfloat
  ret bfloat %value
}"""
_LLVM_TYPES = {
    "i8": "i8",
    "i16": "i16",
    "i32": "i32",
    "i64": "i64",
    "f16": "half",
    "bf16": "bfloat",
    "f32": "float",
    "f64": "double",
}
_TARGET_WORDS = (
    r"target (datalayout|triple) = .*\n",
    r",? ![\w.]+ !\d+",
    r"^!.*\n",
    r"^attributes #\d+ = .*\n",
    r" #\d+",
    r"^;.*\n",
    r"^declare .*@llvm\.amdgcn.*\n",
    r" addrspace\(\d\)",
    r"amdgpu_kernel ",
    r"local_unnamed_addr ?",
    r"^\s*fence syncscope.*\n",
    r"\b(inreg|nofree|readonly|writeonly|readnone|noundef|captures\(none\)) ?",
)
_LOOP = """
@thread = internal global i32 0
@program = internal global i32 0
define void @launch(ptr %arguments, i32 %first, i32 %end, i32 %threads) {
entry:
  br label %programs
programs:
  %x = phi i32 [%first, %entry], [%x1, %programs_end]
  store i32 %x, ptr @program
  br label %lanes
lanes:
  %t = phi i32 [0, %programs], [%t1, %lanes]
  store i32 %t, ptr @thread
  call void @entry(ptr %arguments)
  %t1 = add i32 %t, 1
  %more_lanes = icmp ult i32 %t1, %threads
  br i1 %more_lanes, label %lanes, label %programs_end
programs_end:
  %x1 = add i32 %x, 1
  %more_programs = icmp ult i32 %x1, %end
  br i1 %more_programs, label %programs, label %done
done:
  ret void
}
"""


def _special_value(match):
    """Triton's LLVM spells infinities and NaNs out; llvmlite's wants their bits."""
    kind, before, sign, what, payload = match.groups()
    prefix, infinity, quiet, sign_bit, payload_shift = {
        "double": ("0x", 0x7FF << 52, 1 << 51, 1 << 63, 0),
        "float": ("0x", 0x7FF << 52, 1 << 51, 1 << 63, 29),  # written as a double
        "half": ("0xH", 0x7C00, 0x200, 0x8000, 0),
        "bfloat": ("0xR", 0x7F80, 0x40, 0x8000, 0),
    }[kind]
    bits = infinity | (sign_bit if sign == "-" else 0)
    if what == "nan":
        bits |= quiet | int(payload or "0", 16) << payload_shift
    return f"{kind} {before or ''}{prefix}{bits:X}"


def _float_bits(match):
    """Triton's LLVM writes some numbers as their bits, f0x...; llvmlite's wants those of the equal double."""
    (value,) = struct.unpack(">f" if len(match[1]) == 8 else ">d", bytes.fromhex(match[1]))
    return f"0x{struct.pack('>d', value).hex().upper()}"


def _portable(ir):
    """AMD LLVM IR, less what names the target, debug information and attributes."""
    for pattern in _TARGET_WORDS:
        ir = re.sub(pattern, "", ir, flags=re.M)
    ir = re.sub(
        r"@global_smem = external .*",
        f"@global_smem = internal global [{_SHARED_BYTES} x i8] zeroinitializer, align 16",
        ir,
    )
    ir = re.sub(r"\bf0x([0-9A-F]{16}|[0-9A-F]{8})\b", _float_bits, ir)
    return re.sub(r"\b(double|float|half|bfloat) (%[\w.]+, )?([+-])(inf|nan)(?:\(0x(\w+)\))?", _special_value, ir)


def _define_intrinsics(ir, fibers):
    """(ir with the hardware's intrinsics renamed, definitions of those names)."""
    added = []
    for intrinsic, renamed, declaration, definition in _INTRINSICS:
        if intrinsic in ir:
            ir = ir.replace(intrinsic, renamed)
            added.append(f"declare {declaration}" if fibers else f"define {declaration} {definition}")
    for intrinsic, renamed, definition in _ARITHMETIC:
        if intrinsic in ir:
            ir = ir.replace(intrinsic, renamed)
            added.append(definition)
    sizes = re.findall(r"@gpu_descriptor\(.*?, i64 (\S+?),", ir)
    if any(size != str(_BUFFER_BYTES) for size in sizes):
        raise NotImplementedError(f"buffers of {set(sizes)} bytes")
    for kind, template in (("load", _BUFFER_LOAD), ("store", _BUFFER_STORE)):
        intrinsic = f"@llvm.amdgcn.raw.ptr.buffer.{kind}."
        for suffix in set(re.findall(re.escape(intrinsic) + r"(\w+)", ir)):
            lanes, element = re.fullmatch(r"(?:v(\d+))?(\w+)", suffix).groups()
            name = _LLVM_TYPES[element]
            added.append(
                template.format(type=f"<{lanes} x {name}>" if lanes else name, suffix=suffix, bytes=_BUFFER_BYTES)
            )
        ir = ir.replace(intrinsic, f"@gpu_buffer_{kind}.")
    return ir, list(dict.fromkeys(added))


@functools.cache
def _load_fibers():
    """fibers.c, compiled; its functions known to the kernels."""
    with tempfile.TemporaryDirectory() as folder:
        library = pathlib.Path(folder) / "fibers.so"
        subprocess.run(
            ["cc", "-O2", "-shared", "-fPIC", "-o", library, pathlib.Path(__file__).with_name("fibers.c")], check=True
        )
        fibers = ctypes.CDLL(str(library))
    for name in ("gpu_thread", "gpu_program", "gpu_first_lane", "gpu_barrier", "gpu_bpermute"):
        llvm.add_symbol(name, ctypes.cast(getattr(fibers, name), ctypes.c_void_p).value)
    return fibers


class CpuKernel:
    """The compiled kernel of a launch; calling it with that launch, or one specialised alike, runs it on the CPU."""

    def __init__(self, launch):
        self._kind = _kind(launch)
        self._threads = launch.threads
        target = TARGET if launch.stages is None else TARGET_OF_PRODUCTS
        compiled = compile.compile_launch(launch, target)
        if compiled.metadata.shared > _SHARED_BYTES:
            raise NotImplementedError(f"{compiled.metadata.shared} bytes of shared memory")
        ir = compiled.asm["llir"]
        meeting = any(intrinsic in ir for intrinsic, *_, definition in _INTRINSICS if definition is None)
        self._fibers = _load_fibers() if meeting else None
        ir = _portable(ir)
        name, parameters = re.search(r"define void @(\w+)\((.*?)\)", ir).groups()
        self._types = [parameter.split()[0] for parameter in parameters.split(",")][
            :-2
        ]  # less Triton's scratch pointers
        ir, added = _define_intrinsics(ir, meeting)
        unknown = set(re.findall(r"@llvm\.amdgcn[\w.]*", ir))
        if unknown:
            raise NotImplementedError(f"intrinsics without a definition here: {sorted(unknown)}")
        entry = "define void @entry(ptr %arguments) {\n"
        for i, kind in enumerate(self._types):
            entry += f"%p{i} = getelementptr i64, ptr %arguments, i64 {i}\n%v{i} = load {kind}, ptr %p{i}\n"
        passed = ", ".join([f"{kind} %v{i}" for i, kind in enumerate(self._types)] + ["ptr null", "ptr null"])
        entry += f"call void @{name}({passed})\nret void\n}}\n"

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        module = llvm.parse_assembly("\n".join([ir, *added, _ROUND_TO_BFLOAT16, entry, *([] if meeting else [_LOOP])]))
        module.verify()
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
        )
        builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
        builder.getModulePassManager().run(module, builder)
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        address = self._engine.get_function_address
        if meeting:
            self._launch = functools.partial(self._fibers.gpu_launch, ctypes.c_void_p(address("entry")))
        else:
            self._launch = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int)(
                address("launch")
            )

    def __call__(self, launch, first=0, shuffle=0):
        """Run the programs of `launch` from number `first` on.

        shuffle: a seed for the order in which fibers take turns between barriers, drawn afresh at each; 0 is in order.
        """
        if _kind(launch) != self._kind:
            raise ValueError("this launch would be compiled differently")
        values = [launch.arguments[name] for name in compile.signature(launch)[0]]
        packed = (ctypes.c_int64 * len(values))()
        for i, (kind, value) in enumerate(zip(self._types, values, strict=True)):
            _CTYPES[kind].from_buffer(packed, 8 * i).value = (
                value.data_ptr() if isinstance(value, torch.Tensor) else value
            )
        if self._fibers:
            self._fibers.gpu_shuffle(shuffle)
        if self._launch(ctypes.cast(packed, ctypes.c_void_p), first, launch.programs, self._threads):
            raise MemoryError(f"no fibers for {self._threads} threads")


def _kind(launch):
    """What launches that are compiled alike have in common."""
    return launch.kernel, repr(compile.signature(launch)), launch.threads, launch.stages


_kernels = {}


def run_compiled(launch, first=0, shuffle=0):
    """Compile a launch, once for all of its kind, and run its programs from number `first` on, on this processor."""
    kind = _kind(launch)
    if kind not in _kernels:
        _kernels[kind] = CpuKernel(launch)
    _kernels[kind](launch, first, shuffle)
