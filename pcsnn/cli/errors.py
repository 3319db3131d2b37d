"""What goes wrong on the command line, in words that name the option."""

import re

# What the library calls its arguments, and what the user wrote.
_OPTIONS = {
    "model": "MODEL",
    "snn": "MODEL",
    "timesteps": "--timesteps",
    "spike_levels": "--spike-levels",
    "method": "--method",
    "seed": "--seed",
    "data": "--data",
    "calibration": "--calibration",
    "weights": "--optimize",
    "example_inputs": "--data",
    "path": "--output",
}


class UsageError(Exception):
    """Options that make no sense, alone or together: exit code 2. Its text names the option."""


def in_words(error, args):
    """The message of an error, its leading argument name replaced by that of the option.

    Where no --calibration was given, --data calibrates. A missing strict=False is named as --no-strict.
    """
    text = str(error) or type(error).__name__
    name, colon, rest = text.partition(": ")
    if colon and name in _OPTIONS:
        option = "--data" if name == "calibration" and not getattr(args, "calibration", None) else _OPTIONS[name]
        text = f"{option}: {rest}"
    if re.match(r"MODEL: \d+ operations? cannot spike", text):
        text += "\n--no-strict keeps them analog, applied to averages over time"
    return text
