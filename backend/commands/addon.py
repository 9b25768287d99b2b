"""``mgcface addon``: make the Blender extension, put it into a Blender."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import ModuleType

from backend.commands import console
from backend.errors import DependencyError, MgcFaceError, OutputError

ROOT = Path(__file__).resolve().parents[2]
# The repository that every Blender has for extensions from a file.
REPOSITORY = "user_default"
# Blender starts, unpacks and enables in a few seconds; a slow disk may take its time.
LONGEST_INSTALL_S = 180


class AddonError(MgcFaceError):
    """The extension cannot be built or installed."""

    code = "addon"


def run_build(out: Path, blender: Path | None, quiet: bool) -> int:
    """Build and validate the zip in ``out``."""
    target = build(out, blender)
    if not quiet:
        console.say(f"{target} is ready: drag it into Blender's window.")
    return console.EXIT_DONE


def run_install(blender: Path, archive: Path | None, quiet: bool) -> int:
    """Install and enable the extension in one Blender; builds it first when no zip is given."""
    program = shutil.which(blender)
    if program is None:
        raise AddonError(f"{blender} is no program that runs: give the path of Blender itself.")
    if archive is not None and not archive.is_file():
        raise AddonError(f"There is no file {archive}: give the zip that `mgcface addon build` made.")
    with tempfile.TemporaryDirectory() as folder:
        archive = archive or build(Path(folder), Path(program))
        command = [program, "--command", "extension", "install-file", "-r", REPOSITORY, "--enable"]
        try:
            answer = subprocess.run(
                [*command, str(archive.resolve())],
                capture_output=True,
                text=True,
                timeout=LONGEST_INSTALL_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise AddonError(
                f"{program} did not install the extension ({error}): drag the zip into its window."
            ) from error
    if answer.returncode != 0 or "Installed" not in answer.stdout:
        lines = [line for line in (answer.stdout + answer.stderr).splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else "it said nothing"
        raise AddonError(f"Blender did not install the extension ({reason}): see that it is 4.2 or newer.")
    if not quiet:
        console.say("The extension is installed: open the tab Face in the sidebar of a 3D viewport (N).")
    return console.EXIT_DONE


def build(out: Path, blender: Path | None) -> Path:
    module = build_module()
    try:
        return module.build(out, None if blender is None else str(blender))
    except module.BuildError as error:
        raise AddonError(str(error)) from error
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error.strerror}): choose another --out.") from error


def build_module() -> ModuleType:
    """`build_addon.py` of this clone; an installed wheel has neither it nor the add-on's sources."""
    path = ROOT / "build_addon.py"
    if not path.is_file():
        raise DependencyError("The add-on is built in a clone of the project: run this command there.")
    spec = importlib.util.spec_from_file_location("build_addon", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
