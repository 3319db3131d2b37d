"""The command line: convert, sweep, report, info. See docs/command_line.md."""

from pcsnn.cli.commands import main

__all__ = ["main"]
