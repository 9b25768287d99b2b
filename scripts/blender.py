"""Make the environments that the add-on's tests run in: real Blender as a Python module, one for each version.

    python3 scripts/blender.py [--dir DIR] [4.2 4.5 5.0 5.1 5.2]

They lie in DIR, else where MGCFACE_BLENDER says, else in `.venv-blender` of the checkout, and the tests look
for them in the latter two. Each takes about 1.1 GB. A second call is quick.
"""

import glob
import os
import shutil
import subprocess
import sys

from blender_window import folder as window_folder
from blender_window import outside_python
from environment import ROOT, SetupError, loads, run, say, version_of

# Blender's release, the Python that its module is built for.
MODULES = {
    "4.2": ("4.2.23", "3.11"),
    "4.5": ("4.5.15", "3.11"),
    "5.0": ("5.0.1", "3.11"),
    "5.1": ("5.1.2", "3.13"),
    "5.2": ("5.2.3", "3.13"),
}
# What Blender's module loads from the system on Linux: all of it ends the process, and not with a sentence.
LIBRARIES = {
    "libX11.so.6": "libx11-6",
    "libXrender.so.1": "libxrender1",
    "libXxf86vm.so.1": "libxxf86vm1",
    "libXfixes.so.3": "libxfixes3",
    "libXi.so.6": "libxi6",
    "libXext.so.6": "libxext6",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libgomp.so.1": "libgomp1",
    "libSM.so.6": "libsm6",
    "libICE.so.6": "libice6",
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libEGL_mesa.so.0": "libegl-mesa0",
}
FOLDER_VARIABLE = "MGCFACE_BLENDER"


def folder():
    """Where the environments are looked for."""
    return os.environ.get(FOLDER_VARIABLE) or str(ROOT / ".venv-blender")


def prepare(version, parent):
    """Make the environment of one Blender if it is not there; the path of its Python."""
    release, python_version = MODULES[version]
    place = os.path.join(parent, version)
    python = os.path.join(place, "Scripts", "python.exe") if os.name == "nt" else os.path.join(place, "bin", "python")
    stamp = os.path.join(place, f"bpy-{release}.stamp")
    if os.path.exists(stamp) and version_of(python) == python_version:
        return python
    check_libraries()
    shutil.rmtree(place, ignore_errors=True)
    say(f"Making {place} with Blender {release}")
    base = find_python(python_version)
    options, pip = [], ["-m", "pip"]
    if base == outside_python(window_folder()):
        # Debian keeps pip in a wheel of its own.
        wheels = os.path.join(os.path.dirname(base), "..", "share", "python-wheels", "pip-*.whl")
        options, pip = ["--without-pip"], [glob.glob(wheels)[0] + "/pip"]
    run([base, "-m", "venv", *options, place], f"Making {place} failed; check the disk.")
    command = [python, *pip, "install", "--quiet", "--disable-pip-version-check"]
    run(
        [*command, "bpy==" + release, "pytest==9.2.0"],
        f"Installing Blender {release} failed; read pip's message above, check the network and try again.",
    )
    with open(stamp, "w") as file:
        file.write(release + "\n")
    return python


def check_libraries():
    """Name the Debian packages that are missing, all in one sentence."""
    packages = [package for library, package in LIBRARIES.items() if not loads(library)]
    if packages and sys.platform.startswith("linux"):
        raise SetupError(
            "Blender misses system packages; install them with `sudo apt-get install -y {}` (Debian, Ubuntu) and "
            "run this again.".format(" ".join(packages))
        )


def find_python(version):
    """A Python of exactly this version: this one, on the PATH, pyenv's, the windowed Blender's, or one of uv's."""
    names = [sys.executable, shutil.which("python" + version) or ""]
    names += sorted(glob.glob(os.path.expanduser(f"~/.pyenv/versions/{version}.*/bin/python")))
    # Debian 12 has no Python 3.13 and the network may have none for uv, but Debian 13 has one.
    names.append(outside_python(window_folder()))
    for name in names:
        if name and version_of(name) == version:
            return name
    uv = shutil.which("uv")
    if uv is not None:
        run([uv, "python", "install", version], f"uv could not bring Python {version}; check the network.")
        return subprocess.check_output([uv, "python", "find", version]).decode().strip()
    raise SetupError(
        f"Python {version} is not here; install it, for example with `pip install uv` and "
        f"`uv python install {version}` or, for 3.13, `sudo python3 scripts/blender_window.py`, and run this again."
    )


def main(arguments):
    parent = folder()
    if arguments[:1] == ["--dir"] and len(arguments) > 1:
        parent, arguments = arguments[1], arguments[2:]
    unknown = [name for name in arguments if name not in MODULES]
    if unknown:
        say("There is no Blender {} here; choose from {}.".format(unknown[0], ", ".join(MODULES)))
        return 2
    try:
        for version in arguments or MODULES:
            prepare(version, parent)
    except SetupError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
