"""Sets up `.venv` of this checkout. Standard library only; any Python 3.6 or newer can read it.

The commands beside this file call `prepare`, which returns the path of the environment's Python. A second
call is quick: a stamp in the environment says what was installed.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"

# MediaPipe 0.10.21, the last version that carries its networks in the wheel, has wheels for these only.
SUPPORTED = ((3, 12), (3, 11), (3, 10))

# What the wheels load from the system on Linux and do not carry themselves: OpenCV's Qt needs both.
SYSTEM_LIBRARIES = {"libGL.so.1": "libgl1", "libgthread-2.0.so.0": "libglib2.0-0"}


class SetupError(Exception):
    """One sentence: what is missing and what to do."""


def prepare(extras):
    """Make `.venv` if needed and install this checkout with the given extras (a list of str) into it."""
    python = find_python()
    check_system(python)
    if not venv_python().exists():
        say(f"Making .venv with {python}")
        run([python, "-m", "venv", str(VENV)], "Making .venv failed; remove the folder .venv and try again.")
    check_venv()
    wanted = stamp(extras)
    stamp_file = VENV / "mgcface-{}.stamp".format("-".join(extras) or "plain")
    if not stamp_file.exists() or stamp_file.read_text() != wanted:
        install(extras)
        stamp_file.write_text(wanted)
    return str(venv_python())


def install(extras):
    target = str(ROOT) + ("[{}]".format(",".join(extras)) if extras else "")
    say("Installing into .venv; the first time takes a few minutes")
    pip = [str(venv_python()), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(
        [*pip, "--constraint", str(ROOT / "constraints.txt"), "--editable", target],
        "The installation failed; read pip's message above, check the network and try again.",
    )
    warm_up()


def warm_up():
    """Compile the kernels now, so that the first photo is fast. When this fails, the first photo compiles them."""
    say("Compiling")
    command = [str(venv_python()), "-m", "backend.cli", "warm-up", "--quiet"]
    subprocess.call(command, cwd=str(ROOT), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def find_python():
    """A supported Python: this one, or one on the PATH."""
    if sys.version_info[:2] in SUPPORTED:
        # Inside an environment sys.executable is the environment's, which may be the .venv to be replaced.
        return getattr(sys, "_base_executable", None) or sys.executable
    for major, minor in SUPPORTED:
        found = shutil.which(f"python{major}.{minor}")
        # Version managers put names on the PATH that only say that nothing is installed.
        if found and version_of(found) == f"{major}.{minor}":
            return found
    raise SetupError(
        "This is Python {}.{} and MGC Face needs 3.10, 3.11 or 3.12; install one of them, for example with "
        "`uv python install 3.12` (https://docs.astral.sh/uv), and run this again.".format(*sys.version_info[:2])
    )


def check_system(python):
    """Name the Debian packages that are missing, all in one sentence."""
    packages = []
    if subprocess.call([python, "-c", "import ensurepip, venv"], stderr=subprocess.DEVNULL) != 0:
        packages.append(f"{Path(os.path.realpath(python)).name}-venv")
    if sys.platform.startswith("linux"):
        packages += [package for library, package in SYSTEM_LIBRARIES.items() if not loads(library)]
    if packages:
        raise SetupError(
            "System packages are missing; install them with `sudo apt-get install -y {}` (Debian, Ubuntu) and "
            "run this again.".format(" ".join(packages))
        )


def loads(library):
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def check_venv():
    """A .venv left over from an unsupported or removed Python is named instead of failing later."""
    answer = version_of(str(venv_python())) or "broken"
    if answer not in ["{}.{}".format(*version) for version in SUPPORTED]:
        raise SetupError(f"The Python of .venv is {answer}; remove the folder .venv and run this again.")


def version_of(python):
    """Such as "3.11"; None when it does not run."""
    question = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.check_output([python, "-c", question], stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.decode().strip()


def venv_python():
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def stamp(extras):
    """Changes when what should be installed changes."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    digest.update("{} {}".format(ROOT, " ".join(extras)).encode())
    return digest.hexdigest()


def run(command, sentence):
    if subprocess.call(command) != 0:
        raise SetupError(sentence)


def say(line):
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def main(extras, command):
    """Prepare, then run the Python of `.venv` with `command` (a list of arguments); the exit code."""
    try:
        python = prepare(extras)
        return subprocess.call([python, *command], cwd=str(ROOT))
    except SetupError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("Interrupted.")
        return 130
