"""How images are normalised: what --mean and --std say, else what the file of the network says."""

import sys
from typing import NamedTuple

from pcsnn.cli.errors import UsageError
from pcsnn.network.normalisation import Normalisation


class Settled(NamedTuple):
    """`mean` and `std`, lists or None, and who says them: "--mean", "--std", or the name of a file."""

    mean: list[float] | None = None
    std: list[float] | None = None
    of_mean: str = "--mean"
    of_std: str = "--std"

    def whole(self):
        """The Normalisation; None where nothing is known."""
        if self.mean is None and self.std is None:
            return None
        try:
            return Normalisation.of(self.mean or [0.0], self.std or [1.0])
        except ValueError as error:
            raise UsageError(f"--{error}") from error

    def given_alone(self):
        """What options say, without what a file says: for images that are normalised already."""
        mean = self.mean if self.of_mean == "--mean" else None
        return Settled(mean, self.std if self.of_std == "--std" else None)

    def __str__(self):
        parts = [(name, values) for name, values in (("mean", self.mean), ("std", self.std)) if values is not None]
        said = ", ".join(f"{name} {_numbers(values)}" for name, values in parts)
        of = [of for of, values in ((self.of_mean, self.mean), (self.of_std, self.std)) if values is not None]
        return f"{said}, as {' and '.join(dict.fromkeys(map(str, of)))} say{'s' if len(set(of)) == 1 else ''}"


def settle(args, said, path):
    """The Settled of a command line; notes on stderr say what a file says, and where options say otherwise.

    Args:
        args: has mean and std, lists or None.
        said: the pair (mean, std) of the file, as it stands there, or None.
        path: of that file.

    Raises:
        ValueError: a file whose mean or std are none, where no option takes their place.
        UsageError: options that are none together.
    """
    given = Settled(args.mean, args.std)
    if said is None:
        given.whole()
        return given
    try:
        theirs = Normalisation.of(*said)
    except ValueError as error:
        if args.mean is None or args.std is None:
            raise ValueError(
                f"--weights: {path} says how images are normalised, and cannot be understood: {error}; "
                "--mean and --std take its place"
            ) from error
        _note(f"--mean and --std are used; what {path} says cannot be understood: {error}")
        return given
    for name, ours, other in (("mean", args.mean, theirs.mean), ("std", args.std, theirs.std)):
        if ours is not None and not _equal(ours, other):
            _note(f"--{name} {_numbers(ours)} is used; {path} says {name} {_numbers(other)}")
    settled = Settled(
        list(theirs.mean) if args.mean is None else args.mean,
        list(theirs.std) if args.std is None else args.std,
        path if args.mean is None else "--mean",
        path if args.std is None else "--std",
    )
    settled.whole()
    if args.mean is None or args.std is None:
        _note(f"images are normalised: {settled}")
    return settled


def for_images(settled, source):
    """What of it the images of a source get: those that are normalised already only what options say."""
    if not source.raw():
        if settled != settled.given_alone():
            _note(
                f"{source.option}: the images are numbers beyond 0..1 or no [N, C, H, W], and are taken as they are, "
                "normalised already; --mean and --std normalise them"
            )
        return settled.given_alone()
    if settled.mean is None and settled.std is None:
        _note(
            f"{source.option}: neither --mean and --std nor a file say how images are normalised: the network gets "
            "values 0..1"
        )
    return settled


def _equal(ours, theirs):
    longest = max(len(ours), len(theirs))
    whole = [list(values) * (longest if len(values) == 1 else 1) for values in (ours, theirs)]
    return len(whole[0]) == len(whole[1]) and all(abs(a - b) <= 1e-6 for a, b in zip(*whole))


def _numbers(values):
    return " ".join(f"{value:.6g}" for value in values)


def _note(words):
    print(f"pcsnn: note: {words}", file=sys.stderr)
