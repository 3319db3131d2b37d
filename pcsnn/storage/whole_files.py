"""Files that appear whole or not at all, and words for what is no file."""

import contextlib
import os
import secrets
import stat

_KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


def kind(mode):
    """What stands at a path whose mode os.stat gave, in a word."""
    return _KINDS.get(stat.S_IFMT(mode), "special file")


@contextlib.contextmanager
def replacing(target, mode=None):
    """A new file to write bytes to, which takes the place of `target` in one step when the block ends without an error.

    It is `NAME.xxxxxxxx.unfinished` beside it until then: after an error nothing is left, after a kill that may go.

    Args:
        target: a path that is no link (os.path.realpath).
        mode: the permissions that the file gets; None: those of a new file.

    Raises:
        OSError: it cannot be written.
    """
    folder, name = os.path.split(target)
    unfinished = os.path.join(folder, f"{name[:40]}.{secrets.token_hex(4)}.unfinished")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with open(descriptor, "wb") as file:
            if mode is not None:
                os.chmod(unfinished, stat.S_IMODE(mode) & 0o777)
            yield file
            file.flush()
            os.fsync(descriptor)
        os.replace(unfinished, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise
    _sync_folder(folder)


def _sync_folder(folder):
    """That the name survives a power failure too, where the system can promise it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
