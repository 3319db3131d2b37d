"""The files that options name: looked at before anything is computed, read and written under the option's name."""

import contextlib
import os
import pathlib

import safetensors

from pcsnn.cli.errors import UsageError
from pcsnn.storage.whole_files import kind, replacing

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
PAGE = '<!DOCTYPE html>\n<html lang="en">\n'  # how a report begins
_INPUTS = ("weights", "data", "calibration", "sweep")
_FOLDERS = ("data", "calibration")  # options that take a folder too
_LONGEST = 300  # characters of a reason


def check(args):
    """Whether the inputs are there and the output may be written: of whatever command, before it begins.

    Raises:
        FileNotFoundError, ValueError: no such input, one that is empty, cannot be opened or is no regular file.
        UsageError: an output that cannot come to be, or would take the place of an input or of another kind of file.
    """
    inputs = {name: path for name in _INPUTS if (path := getattr(args, name, None)) is not None}
    for name, path in inputs.items():
        _check_input(path, f"--{name}", name in _FOLDERS)
    compared = getattr(args, "compare", None) or ()
    for path in compared:
        _check_input(path, "--compare", False)
    output = getattr(args, "output", None)
    if output is None:
        return
    try:
        _check_place(output)
        if output.exists():
            _check_kind(output, args.command)
            for name, path in (
                *inputs.items(),
                *(("compare", path) for path in compared),
            ):  # of folders only images are read, and those are of another kind
                if os.path.samefile(output, path):
                    raise UsageError(f"--output: {output} is the file of --{name}, {path}; name another one")
    except OSError as error:
        raise UsageError(f"--output: cannot write {output}: {reason(error)}") from error


def _check_input(path, option, folder):
    with reading(path, option):
        if not path.exists():
            raise FileNotFoundError(f"{option}: no file {'or folder ' if folder else ''}{path}")
        if path.is_dir() and folder:
            return
        if not path.is_file():
            raise ValueError(f"it is a {kind(path.stat().st_mode)}, expected a file")
        with open(path, "rb") as file:
            if not file.read(1):
                raise ValueError("it is empty")


def _check_place(output):
    if output.exists() and not output.is_file():
        raise UsageError(f"--output: expected a file, got the {kind(output.stat().st_mode)} {output}")
    folder = pathlib.Path(os.path.realpath(output)).parent
    if not folder.is_dir():
        raise UsageError(f"--output: expected a file in a folder that exists, got {output}")
    if not os.access(folder, os.W_OK | os.X_OK) or output.exists() and not os.access(output, os.W_OK):
        raise UsageError(f"--output: no permission to write {output}")


def _check_kind(output, command):
    """A file that is there is one of those that the command writes: those of sweep say so themselves."""
    written = {"convert": ("spiking network", _is_network), "report": ("report", _is_page)}
    if command in written and output.stat().st_size:
        what, is_one = written[command]
        if not is_one(output):
            raise UsageError(
                f"--output: {output} is there, and is no {what} that could be written anew; name another file"
            )


def _is_network(path):
    try:
        with safetensors.safe_open(path, "pt") as file:
            return "pcsnn" in (file.metadata() or {})
    except safetensors.SafetensorError:
        return False


def _is_page(path):
    with open(path, "rb") as file:
        return file.read(len(PAGE)) == PAGE.encode()


def reason(error):
    """Why something failed, in a line."""
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


@contextlib.contextmanager
def reading(path, option):
    """What goes wrong with a file inside, whatever its decoder raises: a ValueError that names option and file."""
    try:
        yield
    except FileNotFoundError as error:
        if str(error).startswith(option):
            raise
        raise FileNotFoundError(f"{option}: no file {path}") from error
    except Exception as error:
        raise ValueError(f"{option}: cannot read {path}: {reason(error)}") from error


@contextlib.contextmanager
def writing(path):
    """What goes wrong with the output inside becomes an OSError that names it."""
    try:
        yield
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise OSError(f"--output: cannot write {path}: {reason(error).removeprefix('path: ')}") from error


def write(path, content):
    """Text to a file that appears whole or not at all; a link stays one. OSError where it cannot be written."""
    with writing(path), replacing(os.path.realpath(path)) as file:
        file.write(content.encode("utf-8", "backslashreplace"))  # names of files need not be text
