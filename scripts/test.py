"""Set up `.venv` and run the tests. More options are passed on to pytest."""

import sys

from environment import main

if __name__ == "__main__":
    sys.exit(main(["dev", "train"], ["-m", "pytest", *sys.argv[1:]]))
