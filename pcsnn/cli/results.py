"""The results of a sweep in a JSON-lines file that a stopped run goes on in: settings, then a line for each T and D."""

import json
import os
import sys
import weakref

from pcsnn.cli.files import writing
from pcsnn.network.report import steps_in_words

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FORMAT = 1
MOST_BYTES = 2**28  # of a file of results; a line takes some thousands


def _line(content):
    return f"{json.dumps(content)}\n".encode()


def _parse(place, number, line):
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: line {number} is not JSON ({error})") from error


def _spike_levels(row):
    """D of a row; those of earlier versions do not say it."""
    return row.get("spike_levels", 1)


def read(path, option="--output"):
    """(settings, rows, how many bytes of the file are whole lines) of the results in a file that an option names.

    A last line without its end, of a run that was killed while it wrote, is left out.

    Raises:
        FileNotFoundError, ValueError: no such file; it holds no results, or a line that is not JSON, has no T, or T and
            D of another line. Lines of earlier versions have no D: it is 1.
    """
    place = f"{option}: {path}"
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"{place}: expected results of pcsnn sweep, at most {MOST_BYTES:,} bytes, got {size:,}")
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    lines = whole.splitlines()
    header = _parse(place, 1, lines[0]) if lines else None
    header = header if isinstance(header, dict) else {}
    if header.get("pcsnn_sweep") != FORMAT or not isinstance(header.get("settings"), dict):
        raise ValueError(f"{place}: expected results of pcsnn sweep, format {FORMAT}, in its first line")
    rows, known = [_parse(place, number, line) for number, line in enumerate(lines[1:], 2)], {}
    for number, row in enumerate(rows, 2):
        timesteps = row.get("timesteps") if isinstance(row, dict) else None
        if not isinstance(timesteps, int) or isinstance(timesteps, bool):
            raise ValueError(f"{place}: line {number} is no result of pcsnn sweep: it has no timesteps")
        spike_levels = _spike_levels(row)
        if not isinstance(spike_levels, int) or isinstance(spike_levels, bool):
            raise ValueError(
                f"{place}: line {number} is no result of pcsnn sweep: its spike_levels are {str(spike_levels)[:40]!r}"
            )
        before = known.setdefault((timesteps, spike_levels), number)
        if before != number:
            said = steps_in_words(timesteps, spike_levels)
            raise ValueError(f"{place}: lines {before} and {number} are both of {said}; delete one of them")
    return header["settings"], rows, len(whole)


class Results:
    """Results that grow, line by line; each is on the disk before the next is computed.

    The file belongs to it until `close()`: another one is refused it, in whatever process.

    Attributes:
        rows: the dicts of the file, in the order measured.
        cut: whether the last line was cut short and is to be measured anew.

    Raises:
        ValueError: the file holds something else, or results of other settings, or another sweep writes into it.
        OSError: it cannot be written.
    """

    def __init__(self, path, settings):
        self.path, self.rows, self.cut = path, [], False
        with writing(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
        self._close = weakref.finalize(self, os.close, self._file)
        try:
            _lock(self._file, path)
            self._begin(settings)
        except BaseException:
            self.close()
            raise

    def close(self):
        """Leave the file to others."""
        self._close()

    def _begin(self, settings):
        path, settings = self.path, json.loads(json.dumps(settings))  # tuples become lists, as in the file
        header = _line({"pcsnn_sweep": FORMAT, "settings": settings})
        if os.fstat(self._file).st_size <= len(header) and header.startswith(path.read_bytes()):
            with writing(path):  # nothing yet, or killed while it wrote the header
                path.write_bytes(header)
            return
        theirs, self.rows, whole = read(path)
        here, there = _flat(settings), _flat(theirs)
        different = [name for name in {**here, **there} if here.get(name) != there.get(name)]
        if different:
            told = "\n".join(
                f"  {name}: {_shown(there.get(name))} there, {_shown(here.get(name))} now" for name in different
            )
            raise ValueError(
                f"--output: {path} holds results of other settings; name another file, or delete this one:\n{told}"
            )
        self.cut = whole < path.stat().st_size
        if self.cut:
            os.truncate(path, whole)

    def done(self, spike_levels=1):
        """The T measured at D."""
        return {row["timesteps"] for row in self.rows if _spike_levels(row) == spike_levels}

    def append(self, row):
        """A dict for JSON; it stays whatever happens next.

        Raises:
            OSError, ValueError: it cannot be written; the file is gone.
        """
        if not _names(self.path, self._file):
            raise ValueError(f"--output: {self.path} was deleted, or another file took its name, while the sweep ran")
        before, line = os.fstat(self._file).st_size, memoryview(_line(row))
        with writing(self.path):
            try:
                while line:
                    line = line[os.write(self._file, line) :]
                os.fsync(self._file)
            except OSError:
                os.truncate(self._file, before)
                raise
        self.rows.append(row)


def _names(path, file):
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _lock(file, path):
    """Keep others out for as long as the file is open; where that is not possible, say so."""
    why = "this system has no locks of files"
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            why = None
        except BlockingIOError as error:
            raise ValueError(
                f"--output: another sweep writes into {path} now; name another file, or wait for its end"
            ) from error
        except OSError as error:  # some file systems have none
            why = error.strerror
    if why:
        print(f"pcsnn: note: {path} cannot be locked ({why}): see that no other sweep writes into it", file=sys.stderr)


def _flat(settings):
    """{"data": {"seed": 0}} -> {"data.seed": 0}."""
    result = {}
    for name, value in settings.items():
        result |= {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
    return result


def _shown(value):
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
