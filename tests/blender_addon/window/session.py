"""The first process of a windowed test: runs a screen and Blender, and sees what Blender leaves behind.

Runs in the folder of scripts/blender_window.py, as process 1 of a process space
of its own: whatever is still there when it ends, ends with it. Its one argument is a folder with ``session.json``
(steps, arguments, limit_s, archive) that takes the pictures, ``blender.log`` and ``ended.json`` in ``out``.
"""

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

from Xlib.display import Display

SCREEN = "1600x1000x24"
# Seconds that the screen may take to come, and that processes of a Blender that has ended may.
SCREEN_S = 30.0
LEFT_S = 5.0
# For starting Blender and making its first picture, beside what the steps themselves may take.
START_S = 60.0


def main(folder: Path) -> int:
    wanted = json.loads((folder / "session.json").read_text())
    for name in ("out", "home", "run", "tmp"):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    os.environ |= {
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "XDG_RUNTIME_DIR": str(folder / "run"),
        "BLENDER_USER_RESOURCES": str(folder / "home"),
        "LIBGL_ALWAYS_SOFTWARE": "1",
        "GALLIUM_DRIVER": "llvmpipe",
        # Compiling the shaders takes seconds; they are kept for the next run.
        "MESA_SHADER_CACHE_DIR": "/var/cache/mesa",
    }
    screen, os.environ["DISPLAY"] = start_screen(folder / "out" / "screen.log")
    # Blender can be closed by the desktop only where the desktop was there first.
    desktop = Display()
    desktop.intern_atom("WM_DELETE_WINDOW")
    with open(folder / "out" / "blender.log", "wb") as log:
        if wanted["archive"]:
            install = ["blender", "--offline-mode", "--command", "extension", "install-file", "-r", "user_default"]
            subprocess.run(
                [*install, "-e", wanted["archive"]], stdout=log, stderr=subprocess.STDOUT, timeout=START_S, check=True
            )
        command = ["blender", "--offline-mode", "--window-geometry", "0", "0", *SCREEN.split("x")[:2]]
        command += ["--python", str(folder / "driver.py"), "--", wanted["steps"], str(folder / "out")]
        command += [str(wanted["limit_s"]), *wanted["arguments"]]
        blender = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        code = reap(blender.pid, wanted["limit_s"] + START_S)
    ended = time.monotonic()
    while (left := processes({os.getpid(), screen.pid})) and time.monotonic() - ended < LEFT_S:
        reap(-1, 0.05)
    answer = {"exit_code": code, "all_gone_s": round(time.monotonic() - ended, 2), "left": left}
    answer["crash_files"] = [path.name for path in (folder / "tmp").glob("*.crash.txt")]
    (folder / "out" / "ended.json").write_text(json.dumps(answer))
    desktop.close()
    return 0


def start_screen(log: Path) -> tuple[subprocess.Popen, str]:
    """A screen of its own; the process and its name."""
    ours, theirs = os.pipe()
    command = ["Xvfb", "-displayfd", str(theirs), "-screen", "0", SCREEN, "+extension", "GLX", "-nolisten", "tcp"]
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, pass_fds=[theirs])
    os.close(theirs)
    if not select.select([ours], [], [], SCREEN_S)[0] or not (number := os.read(ours, 20).strip()):
        raise SystemExit("The screen did not start: " + log.read_text())
    return process, f":{number.decode()}"


def reap(pid: int, limit_s: float) -> int | None:
    """Wait for a process, and be the parent of all orphans meanwhile; its exit code, None when the time is up."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        try:
            found, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if found == pid:
            return os.waitstatus_to_exitcode(status)
        if not found:
            time.sleep(0.02)
    return None


def processes(known: set[int]) -> list[str]:
    """Commands of all processes of this space that still run, but for the known ones."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if int(entry.name) not in known and state != "Z":
            found.append(command.strip())
    return found


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
