"""pcsnn info: backends, versions, the machine."""

import json

import pcsnn
from pcsnn.cli.machine import PACKAGES, machine, packages
from pcsnn.network.text_table import table

SUMMARY = "show backends, versions, what is built and why not, the machine"
DESCRIPTION = (
    "Shows which backend serves which device, what is built and why not, versions of packages, and the machine."
)
EXAMPLES = """\
  pcsnn info
  pcsnn info --json > machine.json"""


def add_options(parser):
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(args):
    found = {"pcsnn": pcsnn.__version__, "backends": pcsnn.backend_info(), "packages": packages(), "machine": machine()}
    print(json.dumps(found, indent=1) if args.json else in_words(found))


def in_words(found):
    backends = dict(found["backends"])
    threads = backends.pop("threads")
    del backends["torch"]  # stands among the packages
    versions = [
        (name, version or f"not installed, needed by: {PACKAGES[name]}") for name, version in found["packages"].items()
    ]
    facts = {**found["machine"], "gpus": ", ".join(found["machine"]["gpus"]) or "none", "threads": threads}
    sections = (
        [("backend", "state"), *((name, str(state or "no")) for name, state in backends.items())],
        [("package", "version"), *versions],
        [("machine", ""), *((name, str(value)) for name, value in facts.items())],
    )
    return "\n\n".join([f"pcsnn {found['pcsnn']}", *("\n".join(table(cells)) for cells in sections)])
