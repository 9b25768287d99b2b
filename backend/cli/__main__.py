"""``python -m backend.cli``: the command where its script is not on the path."""

from backend.cli import main

# Processes that are started from here import this page again.
if __name__ == "__main__":
    main()
