"""Builds pcsnn._C, the C++ kernels for the CPU. Everything else is in pyproject.toml.

They use the stable ABIs of LibTorch and of Python: what is built with one torch from 2.10 on runs with every later one,
under every Python from 3.10 on. Of torch only headers and libraries are read, wherever the Python that installs has
them: an isolated build, which sees no installed packages, needs no torch of its own. It gets one only where there is
none, as pcsnn's requirements would bring it anyway.

Without a working compiler the package still installs and runs on its slow reference, with a warning;
PCSNN_REQUIRE_EXT=1 makes a failed build an error.
"""

import glob
import os
import pathlib
import re
import site
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import PathFinder

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

REQUIRED = os.environ.get("PCSNN_REQUIRE_EXT") == "1"
TORCH = "torch>=2.10"
TORCH_TARGET = "0x020a000000000000"  # the oldest torch that the kernels run with: 2.10, in the first two bytes
PYTHON_TARGET = "0x030a0000"  # the oldest Python: 3.10


def description():
    """README for a package index, which has none of its relative links and pictures: their words stand alone there."""
    return re.sub(r"!?\[([^]]*)\]\((?!https?:)[^)]*\)", r"\1", pathlib.Path("README.md").read_text(encoding="utf-8"))


def torch_folder():
    """Where torch is for the Python that installs, or None; an isolated build hides it from imports alone."""
    folders = [*sys.path, sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    if sys.prefix == sys.base_prefix:  # in no virtual environment
        folders.append(site.getusersitepackages())
    spec = PathFinder.find_spec("torch", folders)
    return pathlib.Path(spec.origin).parent if spec and spec.origin else None


class OptionalBuild(build_ext):
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

    def build_extension(self, extension):
        torch = torch_folder()
        if torch is None:
            raise RuntimeError(f"expected {TORCH}, whose headers they need, got none")
        headers = str(torch / "include")
        if os.name == "nt":
            extension.include_dirs = [headers]
        else:
            extension.extra_compile_args = [*extension.extra_compile_args, "-isystem", headers]  # others' warnings
        extension.library_dirs = [str(torch / "lib")]
        super().build_extension(self._with_parts(extension))

    def _with_parts(self, extension):
        """The extension with its sources compiled already, several at a time, those that changed."""
        compiler, include = self.compiler, [*self.include_dirs, *extension.include_dirs]

        def compiled(source):
            parts = compiler.object_filenames([source], output_dir=self.build_temp)
            if not self.force and not newer_group([source, *extension.depends], parts[0]):
                return parts
            return compiler.compile(
                [source],
                output_dir=self.build_temp,
                macros=extension.define_macros,
                include_dirs=include,
                extra_postargs=extension.extra_compile_args,
                depends=extension.depends,
            )

        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count())) as pool:
            extension.extra_objects = [part for parts in pool.map(compiled, extension.sources) for part in parts]
        extension.sources = []
        return extension

    def copy_extensions_to_source(self):
        """In-place, a build of before, whose name says one Python alone, would be imported first."""
        super().copy_extensions_to_source()
        for extension in self.extensions:
            built = pathlib.Path(*self.get_ext_filename(self.get_ext_fullname(extension.name)).split(os.sep))
            for other in built.parent.glob(f"_C.*{built.suffix}"):
                if other.name != built.name:
                    other.unlink()


# No contraction into fused multiply-adds: a comparison against a level must not flip. No symbols for debuggers, which
# Python's own flags may ask for: those of torch's headers take longer to write than all the rest does to compile.
flags = (
    ["/O2", "/std:c++20", "/EHsc"]
    if os.name == "nt"
    else ["-O3", "-g0", "-std=c++20", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra"]
)
extension = Extension(
    "pcsnn._C",
    sorted(glob.glob("csrc/*.cpp")),
    depends=["setup.py", *sorted(glob.glob("csrc/*.h"))],
    define_macros=[("TORCH_TARGET_VERSION", TORCH_TARGET), ("Py_LIMITED_API", PYTHON_TARGET)],
    libraries=["torch", "torch_cpu", "c10"],
    extra_compile_args=flags,
    language="c++",
    py_limited_api=True,
)

setup(
    ext_modules=[extension],
    cmdclass={"build_ext": OptionalBuild},
    setup_requires=[] if torch_folder() else [TORCH],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
    long_description=description(),
    long_description_content_type="text/markdown",
)
