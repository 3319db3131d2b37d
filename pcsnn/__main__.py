"""`python -m pcsnn`."""

import sys

from pcsnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
