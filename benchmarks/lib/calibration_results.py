"""The rows of calibration.py and their file, written after every row, so that a stopped run goes on where it was."""

import json

from train import replace_file

from lib import timing


class Stale(Exception):
    """The file holds rows that are not comparable with those to come."""


class Results:
    """Rows, each a dict for JSON, known by network, method, timesteps, seed and spike_levels (1 where not said).

    A row holds `accuracy` and what belongs to it, or `why` there is none.

    Args:
        path: the JSON file, or None; rows that it has are taken.
        settings: what rows must have in common to be comparable, a dict.

    Raises:
        Stale: the file's settings differ.
    """

    def __init__(self, path, settings):
        self.path, self.settings = path, settings
        self.rows = []
        if path is not None and path.is_file():
            known = json.loads(path.read_text())
            if known["settings"] != settings:
                raise Stale(f"{path} has rows with {known['settings']}, not {settings}: delete it or name another file")
            self.rows = known["rows"]

    def find(self, network, method, timesteps=None, seed=None, spike_levels=1):
        """The measured row, or None."""
        key = network, method, timesteps, seed, spike_levels
        return next((row for row in self.rows if _key(row) == key and "why" not in row), None)

    def add(self, row):
        """Put a row in, in place of one of the same key, and write the file."""
        self.rows = [other for other in self.rows if _key(other) != _key(row)] + [row]
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            result = {"settings": self.settings, **timing.circumstances(), "rows": self.rows}
            replace_file(self.path, lambda path: path.write_text(json.dumps(result, indent=1) + "\n"))

    def drop(self, network, method):
        """Forget the rows of a method that say why it has none."""
        self.rows = [
            row for row in self.rows if "why" not in row or (row["network"], row["method"]) != (network, method)
        ]


def _key(row):
    return row["network"], row["method"], row["timesteps"], row["seed"], row.get("spike_levels", 1)
