"""Runs compiled Triton kernels on the CPU: what Triton's compiler made of a kernel, at full size, with no GPU."""
