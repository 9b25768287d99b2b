# SPDX-License-Identifier: GPL-3.0-or-later
"""`mgcface doctor` in the backend's Python, read as one sentence. No bpy in here."""

from __future__ import annotations

import json
import subprocess
import tempfile

from .installer import end_tree
from .launcher import start_process


class SelfTest:
    """Runs the check; :meth:`look` until it answers."""

    def __init__(self, python: str) -> None:
        # A file and not a pipe: nobody reads while it runs, and a full pipe would stop it.
        self._output = tempfile.TemporaryFile()
        command = [python, "-m", "backend.cli", "doctor", "--json"]
        try:
            self._process: subprocess.Popen[bytes] | None = start_process(command, self._output, subprocess.DEVNULL)
        except OSError:
            self._process = None

    def look(self) -> tuple[bool, str] | None:
        """None while it runs; then whether all is well, and a sentence."""
        if self._process is None:
            return False, "The backend's Python does not run: click Set Up Backend to repair it."
        if self._process.poll() is None:
            return None
        self._output.seek(0)
        return verdict(self._output.read().decode("utf-8", "replace"))

    def end(self) -> None:
        end_tree(self._process)


def verdict(text: str) -> tuple[bool, str]:
    """Whether all is well, and a sentence, from what `mgcface doctor --json` printed."""
    try:
        checks = json.loads(text)["checks"]
        missing = [check for check in checks if check["state"] == "missing"]
        if missing:
            first = missing[0]
            fix = first["fix"] or "click Set Up Backend to repair it"
            return False, f"The backend lacks {first['name']} ({first['detail']}): {fix}."
        return True, f"The backend is well: {len(checks)} checks passed."
    except (ValueError, KeyError, TypeError):
        return False, "The backend's self-test did not answer: click Set Up Backend to repair it."
