"""Make the folder that the windowed add-on tests run in: a small Debian with Blender's program and a screen.

    python3 scripts/blender_window.py [--dir DIR] [trixie|sid]
    python3 scripts/blender_window.py [--dir DIR] --remove

It lies in DIR, else where MGCFACE_BLENDER_WINDOW says, else in `.blender-window` of the checkout, and the tests
look for it in the latter two. trixie, which is what is made when nothing is said, holds Blender 4.3; sid holds
what Debian's developers have today. It takes about 1.4 GB and a few minutes, and needs root on Debian or Ubuntu.
A second call is quick.
"""

import glob
import os
import shutil
import subprocess
import sys
from urllib.request import urlopen

from environment import ROOT, SetupError, say

SUITES = ("trixie", "sid")
FOLDER_VARIABLE = "MGCFACE_BLENDER_WINDOW"
# In a folder of ours: which recipe it was made by, or that it is not finished.
MARK = ".mgcface-window"
UNFINISHED = "unfinished\n"
# Debian's Blender does not ask for the Python packages that the official one carries, nor for OpenGL in software.
PACKAGES = (
    "blender python3-numpy python3-requests python3-cattr python3-zstandard libgl1-mesa-dri libgl1 libglx-mesa0 "
    "libegl1 libegl-mesa0 xvfb xdotool imagemagick tesseract-ocr tesseract-ocr-eng python3-xlib python3-pip-whl"
).split()
# What its Python brings along to run outside of the folder, for scripts/blender.py; all else is this machine's.
PYTHON_LIBRARIES = (
    "libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1 libresolv.so.2 libutil.so.1 libnss_dns.so.2 "
    "libnss_files.so.2 libexpat.so.1 libz.so.1 libssl.so.3 libcrypto.so.3 libffi.so.8 libsqlite3.so.0 libzstd.so.1"
).split()
DEBIAN = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
# Seconds that one step may take before the network is given up.
LIMIT_S = 1500
# A process space and mounts of its own: all that runs in it ends with its first process, and a mount with it.
APART = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
ENVIRONMENT = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"]


def folder():
    """Where it is looked for."""
    return os.path.abspath(os.environ.get(FOLDER_VARIABLE) or str(ROOT / ".blender-window"))


def inside(place, *variables):
    """The beginning of a command that runs in the folder, with /proc there for just as long."""
    # Ends with the process that starts it, however that ends.
    command = ["setpriv", "--pdeathsig", "KILL", *APART, "--mount-proc=" + os.path.join(place, "proc")]
    return [*command, "chroot", place, "env", "-i", *ENVIRONMENT, *variables]


def recipe(suite):
    return "{} {}\n".format(suite, " ".join(PACKAGES))


def is_complete(place):
    return read(os.path.join(place, MARK)) in [recipe(suite) for suite in SUITES]


def prepare(suite, place):
    """Make the folder if it is not there, or not this one."""
    mark = os.path.join(place, MARK)
    check_machine()
    if read(mark) == recipe(suite):
        return
    remove(place)
    mirror = find_mirror(suite)
    ensure_debootstrap()
    say(f"Making {place} with Blender from Debian {suite} at {mirror}")
    os.makedirs(place, exist_ok=True)
    write(mark, UNFINISHED)
    network = "the network failed or the disk is full; see the lines above and try again."
    bootstrap = ["debootstrap", "--variant=minbase", "--keyring=" + KEYRING, suite, place, mirror]
    run_quietly([*APART, "--mount-proc", *bootstrap], f"Debian {suite} could not be installed: {network}")
    set_up_apt(place)
    say("Installing Blender, a virtual screen and a text reader into it")
    apt = [*inside(place), "apt-get"]
    run_quietly([*apt, "update"], f"Debian's list of packages could not be read: {network}")
    run_quietly([*apt, "install", "-y", *PACKAGES], f"Blender could not be installed: {network}")
    run_quietly([*apt, "clean"], "Removing the downloaded packages failed; check the disk.")
    write_outside_python(place)
    write(mark, recipe(suite))


def remove(place):
    """Delete the folder, if it is one of ours; never anything that is mounted in it."""
    if not os.path.lexists(place):
        return
    if os.path.islink(place) or not os.path.isdir(place) or (os.listdir(place) and not read(os.path.join(place, MARK))):
        raise SetupError(f"{place} was not made here and is left alone; choose an empty folder with --dir.")
    for mounted in mounts_in(place):
        if subprocess.call(["umount", mounted]) != 0:
            raise SetupError(f"{mounted} is mounted and busy; end what uses it and try again.")
    # The mark goes last: a deletion that was interrupted can be begun again.
    entries = [os.path.join(place, name) for name in os.listdir(place) if name != MARK]
    command = ["rm", "-rf", "--one-file-system", "--", *entries]
    if subprocess.call(command) != 0 or subprocess.call(["rm", "-rf", "--one-file-system", "--", place]) != 0:
        raise SetupError(f"{place} could not be removed; see the lines above.")


def mounts_in(place):
    """What is mounted in the folder, the deepest first."""
    lines = (read("/proc/self/mounts") or "").splitlines()
    points = [line.split()[1].replace("\\040", " ") for line in lines]
    return sorted((point for point in points if point.startswith(os.path.realpath(place) + os.sep)), reverse=True)


def check_machine():
    if not sys.platform.startswith("linux") or shutil.which("apt-get") is None:
        raise SetupError("The windowed Blender can be made on Debian and Ubuntu only; without it its tests skip.")
    if os.geteuid() != 0:
        raise SetupError("Making a windowed Blender needs root: run this again with sudo, or let its tests skip.")
    if subprocess.call([*APART, "--mount-proc", "true"], stderr=subprocess.DEVNULL) != 0:
        raise SetupError("Root may not make mounts here (a container?): run this where it may, or let its tests skip.")


def find_mirror(suite):
    """The mirror of Debian that this machine's apt uses, else Debian's own; one that answers."""
    answer = subprocess.check_output(["apt-get", "indextargets", "--format", "$(REPO_URI)"], stderr=subprocess.DEVNULL)
    used = [line.rstrip("/") for line in answer.decode().split()]
    mirror = ([uri for uri in used if uri.startswith("http") and uri.endswith("/debian")] or [DEBIAN])[0]
    try:
        urlopen(f"{mirror}/dists/{suite}/Release", timeout=30).close()
    except OSError as error:
        raise SetupError(f"The mirror {mirror} does not answer ({error}); check the network and try again.") from None
    return mirror


def ensure_debootstrap():
    if shutil.which("debootstrap") is not None and os.path.exists(KEYRING):
        return
    say("Installing debootstrap")
    # Lists that fail are often others than Debian's; what counts is the installation.
    install = "apt-get update; apt-get install -y --no-install-recommends debootstrap debian-archive-keyring"
    run_quietly(
        ["env", "DEBIAN_FRONTEND=noninteractive", "sh", "-c", install],
        "Installing debootstrap failed; see the lines above, check the network and try again.",
    )


def set_up_apt(place):
    """Download as this machine does; install no manuals, nothing that is only recommended, no services."""
    settings = subprocess.check_output(["apt-config", "dump"]).decode().splitlines()
    kept = ("Acquire::Check", "Acquire::http", "Acquire::https", "Acquire::Retries")
    own = ['APT::Install-Recommends "false";', 'Acquire::Languages "none";']
    lines = [line for line in settings if line.startswith(kept)] + own
    write(os.path.join(place, "etc/apt/apt.conf.d/90mgcface"), "\n".join(lines) + "\n")
    excluded = "path-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\n"
    write(os.path.join(place, "etc/dpkg/dpkg.cfg.d/90mgcface"), excluded)
    policy = os.path.join(place, "usr/sbin/policy-rc.d")
    write(policy, "#!/bin/sh\nexit 101\n")
    os.chmod(policy, 0o755)
    for name in ("etc/resolv.conf", "etc/hosts", CERTIFICATES):
        if os.path.exists("/" + name):
            os.makedirs(os.path.dirname(os.path.join(place, name)), exist_ok=True)
            shutil.copy("/" + name, os.path.join(place, name))
    # Blender lists the mounted file systems when it starts.
    mtab = os.path.join(place, "etc/mtab")
    if not os.path.lexists(mtab):
        os.symlink("/proc/self/mounts", mtab)


def outside_python(place):
    """The folder's Python as a program of this machine."""
    return os.path.join(place, "usr", "bin", "python-outside")


def write_outside_python(place):
    """A program that starts it with its own C library, because this machine's may be too old for it."""
    place = os.path.realpath(place)
    libraries, found = os.path.join(place, "usr", "lib", "outside"), os.path.join(place, "usr", "lib")
    os.makedirs(libraries, exist_ok=True)
    for name in PYTHON_LIBRARIES:
        for path in glob.glob(os.path.join(found, "*-linux-gnu", name)):
            os.symlink(path, os.path.join(libraries, name))
    (loader,) = glob.glob(os.path.join(place, "lib*", "ld-linux-*.so.*"))[:1]
    program = outside_python(place)
    start = f'"{loader}" --argv0 "$0" --library-path "{libraries}" "{place}/usr/bin/python3" "$@"'
    write(program, f"#!/bin/sh\nexec {start}\n")
    os.chmod(program, 0o755)


def run_quietly(command, sentence):
    """Show what the command printed only when it fails; raises SetupError with the sentence."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        output, _ = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        raise SetupError(f"This took longer than {LIMIT_S // 60} minutes and was ended. {sentence}") from None
    finally:
        # What it started ends with it, because it is the first process of its space.
        process.kill()
        process.wait()
    if process.returncode != 0:
        say("\n".join(output.decode("utf-8", "replace").splitlines()[-20:]))
        raise SetupError(sentence)


def read(path):
    """The text of a file; None when there is none."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return None


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def main(arguments):
    place = folder()
    if arguments[:1] == ["--dir"] and len(arguments) > 1:
        place, arguments = os.path.abspath(arguments[1]), arguments[2:]
    if len(arguments) > 1 or not set(arguments) <= {*SUITES, "--remove"}:
        say((__doc__ or "").split("\n\n")[1])
        return 2
    try:
        if arguments == ["--remove"]:
            remove(place)
        else:
            prepare(arguments[0] if arguments else SUITES[0], place)
    except SetupError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("Interrupted; the next call begins anew.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
