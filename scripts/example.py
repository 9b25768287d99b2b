"""Set up `.venv` and turn the example photo into a head in `out/example`. More options are passed on."""

import sys

from environment import main

COMMAND = ["-m", "backend.cli", "reconstruct", "examples/astronaut.jpg", "--out", "out/example"]

if __name__ == "__main__":
    sys.exit(main([], COMMAND + sys.argv[1:]))
