"""``mgcface serve``: the process behind the Blender add-on."""

from __future__ import annotations

from pathlib import Path

from backend.commands import console
from backend.commands.console import Interrupt


def run(
    connection_file: Path | None,
    bind: str,
    parent_pid: int | None,
    device: str,
    log_file: Path | None,
    interrupt: Interrupt,
) -> int:
    """Serve until Ctrl-C, a request to end, or the end of the parent; all of them are a good end."""
    from backend.server.start import Request, serve

    try:
        serve(Request(connection_file, bind, parent_pid, device, log_file), console.say, interrupt.answer_with)
    except KeyboardInterrupt:
        pass
    return console.EXIT_DONE
