"""Whether the programs that the server was started for still run."""

from __future__ import annotations

import os
import sys
from pathlib import Path


class Parents:
    """Processes whose end is the server's end: when all of them have gone. None at all: it stays."""

    def __init__(self) -> None:
        self.births: dict[int, str] = {}
        self.any = False

    def add(self, pid: int) -> bool:
        """Watch this process; False when there is none."""
        born = birth(pid)
        if born is None:
            return False
        self.births[pid] = born
        self.any = True
        return True

    def remove(self, pid: int) -> int:
        """Watch this process no longer; how many others are left that still run."""
        self.births.pop(pid, None)
        self.all_gone()
        return len(self.births)

    def all_gone(self) -> bool:
        self.births = {pid: born for pid, born in self.births.items() if birth(pid) == born}
        return self.any and not self.births


def birth(pid: int) -> str | None:
    """Something that tells this process from a later one of the same number; None when it does not run.

    On Linux its start time, elsewhere nothing. A zombie, which nobody has collected yet, does not run.
    """
    if pid <= 0:
        return None
    if sys.platform == "win32":
        return "" if _runs_on_windows(pid) else None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass  # it runs and belongs to somebody else
    try:
        # proc(5): the name in brackets may hold anything, the fields after it are plain; state, ..., start time.
        fields = Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(")")[2].split()
    except OSError:
        return ""
    return None if fields[0] in "ZX" else fields[19]


def _runs_on_windows(pid: int) -> bool:
    """``os.kill`` would end the process there."""
    import ctypes

    synchronize, timed_out = 0x00100000, 0x102  # winnt.h SYNCHRONIZE, winerror.h WAIT_TIMEOUT
    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined]
    handle = kernel.OpenProcess(synchronize, False, pid)
    if not handle:
        return False
    try:
        return kernel.WaitForSingleObject(handle, 0) == timed_out
    finally:
        kernel.CloseHandle(handle)
