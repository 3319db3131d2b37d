"""A compiled Triton kernel as a function of this processor.

Triton's AMD path lowers a kernel to LLVM IR without inline assembly. Take away what names the target, give the few
hardware intrinsics a definition, and llvmlite compiles it for this processor: layouts, vector widths, masks, 32- or 64-bit
addresses and conversions run as Triton's compiler left them, none of which its interpreter sees.

Only kernels whose threads do not talk to each other (no shared memory, barriers or lane exchange): threads and programs
become a plain loop.
"""

import ctypes
import re

import llvmlite.binding as llvm
import torch

from pcsnn.kernels import common, inspection

TARGET = inspection.TARGETS["gfx942"]
_CTYPES = {"ptr": ctypes.c_void_p, "i32": ctypes.c_int32, "i64": ctypes.c_int64}
# A buffer descriptor is its base address here: all have this size, past which loads give zero and stores do nothing.
_BUFFER_BYTES = 2147483646
_INTRINSICS = (  # intrinsic, name and definition here
    ("@llvm.amdgcn.workitem.id.x", "@gpu_thread", "i32 @gpu_thread() { %v = load i32, ptr @thread\n ret i32 %v }"),
    ("@llvm.amdgcn.workgroup.id.x", "@gpu_program", "i32 @gpu_program() { %v = load i32, ptr @program\n ret i32 %v }"),
    ("@llvm.amdgcn.readfirstlane.i32", "@gpu_first_lane", "i32 @gpu_first_lane(i32 %v) { ret i32 %v }"),
    ("@llvm.amdgcn.make.buffer.rsrc.p8.p1", "@gpu_descriptor",
     "ptr @gpu_descriptor(ptr %base, i16 %stride, i64 %bytes, i32 %flags) { ret ptr %base }"),
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
_BUFFER_STORE = """define void @gpu_buffer_store.{suffix}({type} %value, ptr %base, i32 %offset, i32 %scalar, i32 %cache) {{
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
_LLVM_TYPES = {"i8": "i8", "i16": "i16", "i32": "i32", "i64": "i64",
               "f16": "half", "bf16": "bfloat", "f32": "float", "f64": "double"}
_TARGET_WORDS = (
    r"target (datalayout|triple) = .*\n", r",? ![\w.]+ !\d+", r"^!.*\n", r"^attributes #\d+ = .*\n", r" #\d+", r"^;.*\n",
    r"^declare .*@llvm\.amdgcn.*\n", r" addrspace\(\d\)", r"amdgpu_kernel ", r"local_unnamed_addr ?",
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


def _portable(ir):
    """AMD LLVM IR, less what names the target, debug information and attributes."""
    for pattern in _TARGET_WORDS:
        ir = re.sub(pattern, "", ir, flags=re.M)
    return re.sub(r"\b(double|float|half|bfloat) (%[\w.]+, )?([+-])(inf|nan)(?:\(0x(\w+)\))?", _special_value, ir)


def _define_intrinsics(ir):
    """(ir with the hardware's intrinsics renamed, definitions of those names)."""
    added = []
    for intrinsic, renamed, definition in _INTRINSICS:
        if intrinsic in ir:
            ir = ir.replace(intrinsic, renamed)
            added.append(f"define {definition}")
    sizes = re.findall(r"@gpu_descriptor\(.*?, i64 (\S+?),", ir)
    if any(size != str(_BUFFER_BYTES) for size in sizes):
        raise NotImplementedError(f"buffers of {set(sizes)} bytes")
    for kind, template in (("load", _BUFFER_LOAD), ("store", _BUFFER_STORE)):
        intrinsic = f"@llvm.amdgcn.raw.ptr.buffer.{kind}."
        for suffix in set(re.findall(re.escape(intrinsic) + r"(\w+)", ir)):
            lanes, element = re.fullmatch(r"(?:v(\d+))?(\w+)", suffix).groups()
            name = _LLVM_TYPES[element]
            added.append(template.format(type=f"<{lanes} x {name}>" if lanes else name, suffix=suffix, bytes=_BUFFER_BYTES))
        ir = ir.replace(intrinsic, f"@gpu_buffer_{kind}.")
    return ir, added


class CpuKernel:
    """The compiled kernel of a launch; calling it with that launch, or one specialised alike, runs it on this processor."""

    def __init__(self, launch):
        self._signature = inspection.signature(launch)
        ir = _portable(inspection.compile_launch(launch, TARGET).asm["llir"])
        name, parameters = re.search(r"define void @(\w+)\((.*?)\)", ir).groups()
        self._types = [parameter.split()[0] for parameter in parameters.split(",")][:-2]  # less Triton's scratch pointers
        ir, added = _define_intrinsics(ir)
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
        module = llvm.parse_assembly("\n".join([ir, *added, _ROUND_TO_BFLOAT16, entry, _LOOP]))
        module.verify()
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3)
        builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
        builder.getModulePassManager().run(module, builder)
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        self._launch = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int)(
            self._engine.get_function_address("launch"))

    def __call__(self, launch, first=0):
        """Run the programs of `launch` from number `first` on."""
        if inspection.signature(launch) != self._signature:
            raise ValueError("this launch would be compiled differently")
        values = [launch.arguments[name] for name in self._signature[0]]
        packed = (ctypes.c_int64 * len(values))()
        for i, (kind, value) in enumerate(zip(self._types, values, strict=True)):
            _CTYPES[kind].from_buffer(packed, 8 * i).value = value.data_ptr() if isinstance(value, torch.Tensor) else value
        self._launch(ctypes.cast(packed, ctypes.c_void_p), first, launch.programs, common.THREADS)


_kernels = {}


def run_compiled(launch, first=0):
    """Compile a launch, once for all of its kind, and run its programs from number `first` on, on this processor."""
    key = (launch.kernel, repr(inspection.signature(launch)))
    if key not in _kernels:
        _kernels[key] = CpuKernel(launch)
    _kernels[key](launch, first)
