"""Check that this machine has what the set-up needs; says what to install when not. Changes nothing."""

import sys

from environment import SetupError, check_system, find_python, say

if __name__ == "__main__":
    try:
        check_system(find_python())
    except SetupError as error:
        say(str(error))
        sys.exit(1)
