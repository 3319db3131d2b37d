"""The results of a sweep in a JSON-lines file that a stopped run goes on in: settings, then a line for each T."""

import json
import os

FORMAT = 1


def _line(content):
    return f"{json.dumps(content)}\n".encode()


def _parse(path, number, line):
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"{path}: line {number} is not JSON ({error})") from error


def read(path):
    """(settings, rows, how many bytes of the file are whole lines) of the results in a file.

    A last line without its end, of a run that was killed while it wrote, is left out.

    Raises:
        FileNotFoundError, ValueError: no such file; it holds no results, or a line that is not JSON.
    """
    content = path.read_bytes()
    whole = content[:content.rfind(b"\n") + 1]
    lines = whole.splitlines()
    header = _parse(path, 1, lines[0]) if lines else None
    if not isinstance(header, dict) or header.get("pcsnn_sweep") != FORMAT:
        raise ValueError(f"{path}: expected results of pcsnn sweep, format {FORMAT}, in its first line")
    rows = [_parse(path, number, line) for number, line in enumerate(lines[1:], 2)]
    return header["settings"], rows, len(whole)


class Results:
    """Results that grow, line by line; each is on the disk before the next is computed.

    Attributes:
        rows: the dicts of the file, in the order measured.
        cut: whether the last line was cut short and is to be measured anew.

    Raises:
        ValueError: the file holds something else, or results of other settings.
    """

    def __init__(self, path, settings):
        self.path, self.rows, self.cut = path, [], False
        settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
        header = _line({"pcsnn_sweep": FORMAT, "settings": settings})
        if not path.exists() or header.startswith(path.read_bytes()):  # nothing, or killed while it wrote the header
            path.write_bytes(header)
            return
        theirs, self.rows, whole = read(path)
        here, there = _flat(settings), _flat(theirs)
        different = [name for name in {**here, **there} if here.get(name) != there.get(name)]
        if different:
            told = "\n".join(f"  {name}: {_shown(there.get(name))} there, {_shown(here.get(name))} now"
                             for name in different)
            raise ValueError(f"--output: {path} holds results of other settings; name another file, or delete this "
                             f"one:\n{told}")
        self.cut = whole < path.stat().st_size
        if self.cut:
            os.truncate(path, whole)

    def done(self):
        """The T measured."""
        return {row["timesteps"] for row in self.rows}

    def append(self, row):
        """A dict for JSON; it stays whatever happens next."""
        with open(self.path, "ab") as file:
            file.write(_line(row))
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)


def _flat(settings):
    """{"data": {"seed": 0}} -> {"data.seed": 0}."""
    result = {}
    for name, value in settings.items():
        result |= {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
    return result


def _shown(value):
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
