"""The commands, and what becomes of their errors."""

import argparse
import os
import sys
import textwrap

import pcsnn
from pcsnn.cli import convert, evaluate, files, info, options, report, sweep
from pcsnn.cli.errors import UsageError, in_words

OK, FAILURE, STOPPED = 0, 1, 130  # argparse exits with 2 for wrong usage
COMMANDS = {"convert": convert, "evaluate": evaluate, "sweep": sweep, "report": report, "info": info}


def build_parser():
    parser = argparse.ArgumentParser(
        prog="pcsnn",
        description="Parallel spiking inference for PyTorch.",
        epilog=(
            "pcsnn COMMAND --help explains each command, with examples. Exit codes: 0 done, 1 failed, 2 wrong usage."
        ),
    )
    parser.add_argument("--version", action="version", version=f"pcsnn {pcsnn.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=textwrap.fill(module.DESCRIPTION, 100),
            epilog=f"examples:\n{module.EXAMPLES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_options(command)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(run=module.run, parser=command)
    return parser


def main(argv=None):
    """Run one command.

    Args:
        argv: list of strings; None: those of the process.

    Returns:
        The exit code: 0 done, 1 failed (the reason is on stderr), 130 stopped by the keyboard.

    Raises:
        SystemExit: wrong usage (2), --help and --version (0).
        Exception: with --debug, whatever went wrong; without it only what no user caused.
    """
    args = build_parser().parse_args(argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a layer's name may have letters that the terminal has not
    try:
        options.check_full_count(args)
        files.check(args)
        args.run(args)
        sys.stdout.flush()  # a full disk or a reader that went away shows here
    except UsageError as error:
        if args.debug:
            raise
        args.parser.error(str(error))
    except BrokenPipeError:
        _give_up_stdout()
        return FAILURE
    except KeyboardInterrupt:
        print(f"pcsnn {args.command}: stopped", file=sys.stderr)
        return STOPPED
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        if args.debug:
            raise
        print(f"pcsnn {args.command}: error: {in_words(error, args)}", file=sys.stderr)
        _give_up_stdout()
        return FAILURE
    return OK


def _give_up_stdout():
    """Where what is printed cannot be written, Python would complain of it again when it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
