"""Which tile was the fastest for each kind of product on a GPU: timed inside `timing`, kept in a file for later
processes."""

import contextlib
import json
import os
import pathlib
import re
import tempfile
import warnings

import torch
import triton
import triton.testing

from pcsnn.kernels import tiles

_timing = False
_choices = {}  # name of a GPU, and a device of that name -> its Choices: asking for the name takes long


class Choices:
    """Tiles by kind of product, kept in a file: {"tiles": {kind: [rows, columns, inner, threads, stages]}}."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.tiles = self._read()

    def _read(self):
        try:
            found = json.loads(self.path.read_text())["tiles"]
            chosen = {str(kind): tiles.Tile(*tile) for kind, tile in found.items()}
            if not {tile for itemsize in tiles.TILES for tile in tiles.of(itemsize)}.issuperset(chosen.values()):
                raise ValueError("a tile that is none of these kernels'")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            warnings.warn(f"{self.path} is not used: {error!r}", RuntimeWarning, stacklevel=2)
            return {}
        return chosen

    def keep(self, kind, tile):
        """Add a choice, and what other processes have added since; the file is replaced as a whole."""
        self.tiles = self._read() | self.tiles | {kind: tile}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.path.parent, prefix=self.path.stem, delete=False) as file:
                json.dump(dict(tiles=self.tiles), file, indent=1)
            os.replace(file.name, self.path)
        except OSError as error:
            warnings.warn(f"{self.path} is not written: {error!r}", RuntimeWarning, stacklevel=2)


def cache_path(gpu):
    """The file of a GPU of that name, for this Triton and this pcsnn."""
    from pcsnn import __version__

    folder = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    name = re.sub(r"[^\w.]+", "-", f"{gpu}-triton-{triton.__version__}-pcsnn-{__version__}")
    return pathlib.Path(folder) / "pcsnn" / f"{name}.json"


def choices(device):
    """The Choices of a device."""
    known = _choices.get(device)
    if known is None:
        gpu = torch.cuda.get_device_name(device)
        if gpu not in _choices:
            _choices[gpu] = Choices(cache_path(gpu))
        known = _choices[device] = _choices[gpu]
    return known


def state(device):
    """What `choose` says about products on a device depends on this; None where it has nothing to say."""
    if device.type != "cuda":
        return None
    known = choices(device)
    return (_timing, len(known.tiles)) if _timing or known.tiles else None


def milliseconds(launch):
    """Median time of a launch, which writes the same result each time."""
    with torch.cuda.device(launch.arguments["out_ptr"].device):
        return triton.testing.do_bench(launch, warmup=5, rep=20, return_mode="median")


def choose(chosen, kind, candidates, launch_of, timer=None):
    """The tile of `candidates` that Choices hold for a kind of product. timer: of launches, to fill in what they do not
    hold; without it None stands for that."""
    tile = chosen.tiles.get(kind)
    if tile in candidates or timer is None:
        return tile if tile in candidates else None
    tile = min(candidates, key=lambda candidate: timer(launch_of(candidate)))
    chosen.keep(kind, tile)
    return tile


def timer():
    """What is to time launches now: nothing outside `timing`, nor while a CUDA graph is captured."""
    return milliseconds if _timing and not torch.cuda.is_current_stream_capturing() else None


@contextlib.contextmanager
def timing():
    """Time every kind of product that runs inside and was not timed before."""
    global _timing
    before, _timing = _timing, True
    try:
        yield
    finally:
        _timing = before
