"""Which part of an implicit product a program computes: tiles by the size of a weight, measured ones first, then a
rule."""

from typing import NamedTuple

import triton

PROGRAMS = 132  # that fill a large GPU: it has about as many multiprocessors
AMD_STAGES = 2  # there a program has 64 KiB of shared memory


class Tile(NamedTuple):
    """The part of a product that a program computes, and how it is run."""

    rows: int
    columns: int
    inner: int
    threads: int
    stages: int | None  # steps of the inner dimension in flight; None: there are no such steps


# By size of a weight in bytes, then by the step of the inner dimension; the largest first.
TILES = {
    1: {
        128: (
            Tile(128, 128, 128, 256, 3),
            Tile(128, 64, 128, 128, 3),
            Tile(64, 32, 128, 128, 4),
            Tile(32, 32, 128, 128, 4),
            Tile(16, 32, 128, 128, 4),
        ),
        64: (
            Tile(128, 128, 64, 256, 4),
            Tile(128, 64, 64, 128, 4),
            Tile(64, 32, 64, 128, 4),
            Tile(32, 32, 64, 128, 4),
            Tile(16, 32, 64, 128, 4),
        ),
        32: (Tile(128, 64, 32, 128, 3), Tile(64, 32, 32, 128, 4), Tile(16, 32, 32, 128, 4)),
    },
    2: {
        64: (
            Tile(128, 128, 64, 256, 3),
            Tile(128, 64, 64, 128, 3),
            Tile(64, 32, 64, 128, 4),
            Tile(32, 32, 64, 128, 4),
            Tile(16, 32, 64, 128, 4),
        ),
        32: (Tile(128, 64, 32, 256, 4), Tile(64, 32, 32, 128, 4), Tile(16, 32, 32, 128, 4)),
    },
}
# The fastest of those tried on an H200 with int8: rows, columns of a group, inputs of a tap, taps.
MEASURED = {
    (256 * 56 * 56, 64, 64, 9): Tile(128, 64, 64, 128, 4),
    (256 * 28 * 28, 128, 128, 9): Tile(128, 128, 128, 256, 3),
    (256 * 14 * 14, 256, 256, 9): Tile(128, 128, 128, 256, 3),
    (256 * 7 * 7, 512, 512, 9): Tile(128, 128, 128, 256, 3),
    (56 * 56, 64, 64, 9): Tile(32, 32, 64, 128, 4),
    (28 * 28, 128, 128, 9): Tile(64, 32, 128, 128, 4),
    (14 * 14, 256, 256, 9): Tile(16, 32, 128, 128, 4),
    (7 * 7, 512, 512, 9): Tile(16, 32, 128, 128, 4),
}


def of(itemsize):
    """All tiles for weights of so many bytes."""
    return [tile for ladder in TILES[itemsize].values() for tile in ladder]


def candidates(itemsize, inputs):
    """The tiles for runs of so many inputs: of the longest step that wastes a quarter at most, or the one that wastes
    least."""
    by_inner = TILES[itemsize]
    waste = {inner: triton.cdiv(inputs, inner) * inner / max(inputs, 1) for inner in by_inner}
    return by_inner[next((inner for inner in by_inner if waste[inner] <= 1.25), min(waste, key=waste.get))]


def pick(itemsize, rows, columns, inputs, taps, groups):
    """The tile for a product of `rows` x `columns` in each group, over `taps` runs of `inputs` each: the measured one,
    else the largest that leaves no half of it empty and makes programs enough, else the smallest."""
    measured = MEASURED.get((rows, columns, inputs, taps)) if itemsize == 1 and groups == 1 else None
    if measured:
        return measured
    fitting = candidates(itemsize, inputs)
    for tile in fitting:
        full = tile.rows < 2 * rows and tile.columns < 2 * columns
        if full and groups * triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns) >= PROGRAMS:
            return tile
    return fitting[-1]
