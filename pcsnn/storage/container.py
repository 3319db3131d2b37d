"""Tensors and a description in one safetensors file with a checksum: read once, written as a whole or not at all.

The file is read through one descriptor, each tensor straight into its own memory, and nothing of it stays mapped: the
memory is that of the tensors, and what becomes of the file afterwards is of no consequence. (The safetensors library
maps the file, or holds all of it twice; the format is a length, a JSON header, and the tensors one after the other.)
"""

import errno
import hashlib
import json
import os
import stat

import torch

from pcsnn.storage.whole_files import kind, replacing

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
MOST_HEADER = 2**24  # bytes of the header, and so of the description
_MOST_DIMENSIONS, _MOST_SIZE = 16, 2**40
_LENGTH = 8  # bytes that hold the length of the header
_CHUNK = 2**24  # bytes read and hashed at a time, so that they are still in the cache
_UNKNOWN = "0" * 64  # stands in the header for the checksum while it is computed


def _bytes(tensor):
    """The memory of a contiguous tensor on the CPU."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


# Reading


def _refuse(path, why):
    raise ValueError(f"path: {path} is not a safetensors file: {why}")


def _open(path):
    """A descriptor of a regular file, and its size."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"path: no file {path}") from error
    except OSError as error:
        raise OSError(error.errno, f"path: cannot read: {error.strerror}", path) from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        _refuse(path, f"it is a {kind(found.st_mode)}")
    return descriptor, found.st_size


def _fill(file, memory, digest, path):
    """Read exactly as many bytes as fit the memory."""
    while memory:
        count = file.readinto(memory[:_CHUNK])
        if not count:
            _refuse(path, "it ends early")
        digest.update(memory[:count])
        memory = memory[count:]


def _pairs(pairs):
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _is_size(value, most):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _layout(header, length):
    """[(name, dtype, shape)] in the order of the data of `length` bytes; ValueError where they do not fill it
    exactly."""
    tensors = []
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"tensor {name!r} has no dtype, shape and data_offsets")
        dtype, shape, (begin, end) = DTYPES.get(entry["dtype"]), entry["shape"], entry["data_offsets"]
        if dtype is None:
            raise ValueError(f"tensor {name!r} has dtype {entry['dtype']!r}")
        if len(shape) > _MOST_DIMENSIONS or not all(_is_size(size, _MOST_SIZE) for size in shape):
            raise ValueError(f"tensor {name!r} has shape {shape}")
        if not (_is_size(begin, length) and _is_size(end, length)):
            raise ValueError(f"tensor {name!r} lies outside of the file")
        count = dtype.itemsize
        for size in shape:
            count *= size
        if count != end - begin:
            raise ValueError(f"tensor {name!r} of shape {shape} takes {count} bytes, not {end - begin}")
        tensors.append((begin, end, name, dtype, shape))
    place = 0
    for begin, end, *_ in sorted(tensors, key=lambda tensor: tensor[:2]):
        if begin != place:
            raise ValueError("its tensors overlap or leave gaps")
        place = end
    if place != length:
        raise ValueError(f"its tensors take {place} bytes, and it has {length}")
    return [tensor[2:] for tensor in sorted(tensors, key=lambda tensor: tensor[:2])]


def read(path):
    """(metadata, {name: tensor}) of a safetensors file; where it has a checksum, the file fits it.

    Raises:
        FileNotFoundError, OSError: it cannot be opened or read.
        ValueError: it is no regular file, none of this format, or was changed since it was written.
    """
    descriptor, size = _open(path)
    with open(descriptor, "rb", buffering=0) as file:
        digest = hashlib.sha256()
        prefix = bytearray(_LENGTH)
        if size < _LENGTH:
            _refuse(path, "it ends early")
        _fill(file, memoryview(prefix), hashlib.sha256(), path)
        length = int.from_bytes(prefix, "little")
        if length > MOST_HEADER or length > size - _LENGTH:
            _refuse(path, f"its header of {length} bytes is longer than the file, or than {MOST_HEADER}")
        text = bytearray(length)
        _fill(file, memoryview(text), hashlib.sha256(), path)
        try:
            header = json.loads(text.decode(), object_pairs_hook=_pairs)
            metadata = header.pop("__metadata__", {})
            if not all(isinstance(value, str) for value in metadata.values()):
                raise ValueError("its metadata is not text")
            layout = _layout(header, size - _LENGTH - length)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else error
            _refuse(path, f"its header is broken ({reason})")
        checksum = metadata.get("checksum")
        digest.update(prefix)
        digest.update(text if checksum is None else _without(text, checksum, path))
        tensors = {}
        for name, dtype, shape in layout:
            tensors[name] = torch.empty(shape, dtype=dtype, device="cpu")
            _fill(file, _bytes(tensors[name]), digest, path)
            if dtype == torch.bool and (tensors[name].view(torch.uint8) > 1).any():
                _refuse(path, f"tensor {name!r} holds bytes that are neither true nor false")
    if checksum is not None and digest.hexdigest() != checksum:
        raise ValueError(f"path: {path} was changed or damaged since it was saved: its checksum does not fit")
    return metadata, tensors


def _without(text, checksum, path):
    """The header as it was hashed."""
    digits = checksum.encode()
    if len(digits) != len(_UNKNOWN) or text.count(digits) != 1:
        raise ValueError(f"path: {path} was changed or damaged since it was saved: it has no proper checksum")
    return text.replace(digits, _UNKNOWN.encode())


# Writing


def check_tensor(name, tensor):
    """ValueError for a tensor that a file cannot carry."""
    if tensor.layout != torch.strided or tensor.device.type == "meta" or tensor.dtype not in _NAMES:
        raise ValueError(
            f"snn: cannot save the tensor {name} ({tensor.dtype}, {tensor.layout}, on {tensor.device}): "
            f"expected a dense one of {', '.join(str(dtype).removeprefix('torch.') for dtype in _NAMES)}"
        )


def write(path, metadata, tensors):
    """Write tensors, and metadata (texts by name) to which a checksum is added, so that the file appears whole or not
    at all.

    The bytes go to a new file beside it, `NAME.xxxxxxxx.unfinished`, to the disk, and then take the name in one step,
    which leaves whoever has the old file open with the old file. The new one has the permissions of the old one, or of
    a new file. A link keeps its name and points to the new file. After an error nothing is left; after a kill the
    unfinished file is, and may go.

    Raises:
        OSError: the file cannot be written, or is a folder, device or pipe.
    """
    target = os.path.realpath(path)
    try:
        mode = os.stat(target).st_mode if os.path.lexists(target) else None
        if mode is not None and not stat.S_ISREG(mode):
            raise OSError(f"path: cannot save to {path}: it is a {kind(mode)}, expected a file or a new name")
        if mode is not None and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        text, ordered = _header(metadata, tensors)
        with replacing(target, mode) as file:
            _write(file, text, ordered)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, f"path: cannot save: {error.strerror}", path) from error


def _header(metadata, tensors):
    """The header with a checksum of zeros, and the tensors in the order of their data: the largest elements first, as
    aligned."""
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    entries, place = {"__metadata__": {"checksum": _UNKNOWN, **metadata}}, 0
    for name, tensor in ordered:
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, place + tensor.nbytes],
        }
        place += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    if len(text) > MOST_HEADER - _LENGTH:
        raise ValueError(f"snn: cannot save a network whose description takes {len(text)} bytes; at most {MOST_HEADER}")
    return text + b" " * (-len(text) % _LENGTH), [tensor for _, tensor in ordered]


def _write(file, text, tensors):
    digest = hashlib.sha256()

    def put(data):
        file.write(data)
        digest.update(data)

    put(len(text).to_bytes(_LENGTH, "little"))
    put(text)
    for tensor in tensors:  # one after the other: no second copy of them all
        put(_bytes(tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()))
    file.seek(_LENGTH)
    file.write(text.replace(_UNKNOWN.encode(), digest.hexdigest().encode(), 1))
