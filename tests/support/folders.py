"""Where the repository and the programs that tests start are."""

import pathlib

SUPPORT = pathlib.Path(__file__).parent
ROOT = SUPPORT.parents[1]
