"""What every command does the same way: exit codes, errors as one sentence, Ctrl-C, JSON.

Nothing heavy is imported here, because ``mgcface --help`` goes through this file.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

from backend.errors import Cancelled, MgcFaceError

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3
# Shells report "ended by signal N" as 128 + N.
EXIT_BY_SIGNAL = 128

# Set to 1 to see the traceback of an unexpected error instead of the name of its log file.
DEBUG_VARIABLE = "MGCFACE_DEBUG"


class UsageError(MgcFaceError):
    """The command line asks for something that does not exist."""

    code = "usage"


class Interrupted(KeyboardInterrupt):
    """What a signal raises.

    Not ``KeyboardInterrupt`` itself: Python notes when that one passes through a string that is executed, such as
    those that dataclasses are made from, and then ends the process by the signal, whatever its exit code.
    """


class Interrupt:
    """Ctrl-C and a request to end, heard once.

    The first signal raises ``Interrupted`` where the program is, which unwinds through every
    ``finally`` and leaves no half-written file. Signals that follow are ignored so that they do not
    interrupt that cleaning up. A program with a loop of its own asks to be called instead of interrupted.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.previous: dict[int, Any] = {}
        self.answer: Callable[[], object] | None = None

    def __enter__(self) -> Interrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self.hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def hear(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        signal.signal(number, signal.SIG_IGN)
        if self.answer is None:
            raise Interrupted
        self.answer()

    def answer_with(self, answer: Callable[[], object]) -> None:
        """From now on a signal calls this and raises nothing; one that was heard before calls it now."""
        self.answer = answer
        if self.heard():
            answer()

    def heard(self) -> bool:
        """True once a signal came: the ``cancel`` of the pipeline."""
        return self.number is not None

    @property
    def exit_code(self) -> int:
        return EXIT_BY_SIGNAL + (self.number or signal.SIGINT)


# A command's work: gets the ears for Ctrl-C, gives the exit code.
Work = Callable[[Interrupt], int]


def run_guarded(work: Work, json_output: bool = False) -> int:
    """Do a command's work; whatever happens, the user reads one sentence and never a traceback.

    Parameters
    ----------
    work : callable (Interrupt) -> exit code
    json_output : bool
        Print a failure as a JSON document on stdout too, so that a program always gets one.
    """
    with Interrupt() as interrupt:
        try:
            return work(interrupt)
        except BrokenPipeError:
            # The reader of our output (``head``, a closed pager) has gone: nobody is left to tell.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_FAILED
        except BaseException as error:
            # A signal that arrives inside an import or a C library can surface as any exception.
            if interrupt.heard() or isinstance(error, (KeyboardInterrupt, Cancelled)):
                complain("Interrupted; what was finished is on disk, nothing half-written was left.")
                return interrupt.exit_code
            if isinstance(error, SystemExit):
                raise
            return report_failure(error, json_output)


def report_failure(error: BaseException, json_output: bool) -> int:
    """One sentence on stderr, the same as JSON on stdout where asked for; the exit code."""
    sentence, code = explain(error)
    complain(sentence)
    if json_output:
        print_json({"error": {"code": code, "message": sentence}})
    return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED


def explain(error: BaseException) -> tuple[str, str]:
    """The sentence for the user and the code for a program."""
    if isinstance(error, MgcFaceError):
        return str(error), error.code
    log = write_log(error)
    where = f"the details are in {log}" if log else f"set {DEBUG_VARIABLE}=1 to see the details"
    if isinstance(error, ImportError):
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"A library is missing or broken ({cause}); run `mgcface doctor`, {where}.", "dependency"
    if isinstance(error, MemoryError):
        return f"The memory is used up; use smaller or fewer photos or a smaller --texture, {where}.", "memory"
    return f"Something went wrong that should not have ({type(error).__name__}); please report it, {where}.", "bug"


def write_log(error: BaseException) -> str | None:
    """Keep the traceback in a file of its own; the file's path, or None when it cannot be written."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    if os.environ.get(DEBUG_VARIABLE) == "1":
        sys.stderr.write(text)
    try:
        handle, path = tempfile.mkstemp(prefix="mgcface-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"mgcface {' '.join(sys.argv[1:])}\n\n{text}")
    except OSError:
        return None
    return path


def complain(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"mgcface: {message}\n")
    sys.stderr.flush()


def say(line: str) -> None:
    """One line on stdout; characters that the terminal cannot show are written as escapes."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stdout.flush()


def print_json(document: object) -> None:
    """One JSON document on stdout. NaN and infinity are not JSON, so they raise here."""
    say(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def make_table(*titles: str, header: bool = True) -> Any:
    """An empty rich table with these columns; cells are plain text, never markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    class PlainTable(Table):
        def add_row(self, *cells: Any, **options: Any) -> None:
            super().add_row(*(Text(str(cell)) for cell in cells), **options)

    return PlainTable(*titles, show_header=header, box=box.SIMPLE, pad_edge=False)


def show(table: Any) -> None:
    """A table on stdout: as wide as the terminal, or as wide as it likes in a file or pipe."""
    from rich.console import Console

    wide = None if sys.stdout.isatty() else 240
    Console(width=wide, highlight=False, emoji=False).print(table)
