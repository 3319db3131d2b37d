"""Builds pcsnn._C, the C++ kernels for the CPU. Everything else is in pyproject.toml.

Without a working compiler the package still installs and runs on its slow reference, with a warning;
PCSNN_REQUIRE_EXT=1 makes a failed build an error.
"""

import glob
import os
import pathlib
import re
import sys

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

REQUIRED = os.environ.get("PCSNN_REQUIRE_EXT") == "1"


def description():
    """README for a package index, which has none of its relative links and pictures: their words stand alone there."""
    return re.sub(r"!?\[([^]]*)\]\((?!https?:)[^)]*\)", r"\1", pathlib.Path("README.md").read_text(encoding="utf-8"))


class OptionalBuild(BuildExtension):
    def run(self):
        try:
            super().run()
        except Exception as error:
            if REQUIRED:
                raise
            print(
                f"warning: pcsnn's C++ kernels were not built ({error}); pcsnn will run on its slow reference",
                file=sys.stderr,
            )
            self.extensions = []  # nothing to copy into the package


# No contraction into fused multiply-adds: a comparison against a level must not flip. No symbols for debuggers, which
# Python's own flags may ask for: those of torch's headers take longer to write than all the rest does to compile.
flags = (
    ["/O2", "/std:c++20"]
    if os.name == "nt"
    else ["-O3", "-g0", "-std=c++20", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra"]
)
if sys.platform == "linux":
    flags.append("-fopenmp")  # for at::parallel_for; not linked with it, so that the runtime in use is torch's own
extension = CppExtension(
    "pcsnn._C", sorted(glob.glob("csrc/*.cpp")), depends=sorted(glob.glob("csrc/*.h")), extra_compile_args=flags
)

setup(
    ext_modules=[extension],
    cmdclass={"build_ext": OptionalBuild},
    long_description=description(),
    long_description_content_type="text/markdown",
)
