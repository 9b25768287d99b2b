"""Make the installable Blender extension: one zip for Blender 4.2 to 5.2 on Windows, Linux and macOS.

    python build_addon.py --out DIR [--blender PROGRAM]

The zip holds `blender_addon/`, a copy of `backend/protocol/`, the engine as a wheel for Set Up Backend, and
pyzmq's wheels for the two Pythons of these Blenders. Blender's own validation checks the result.
"""

from __future__ import annotations

import argparse
import ast
import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
SOURCE = ROOT / "blender_addon"
PROTOCOL = ROOT / "backend" / "protocol"
# Downloaded wheels are kept here; git ignores the folder.
CACHE = ROOT / "build" / "addon-wheels"
# What the engine's wheel is built from.
ENGINE = ("backend", "trainer", "LICENSES", "pyproject.toml", "README.md", "LICENSE", "NOTICE")
# Sums of the wheels that blender_manifest.toml names, as they lie on PyPI.
SUMS = SOURCE / "wheels.sha256"
# A fixed time for every file, so that the same sources give the same zip.
TIMESTAMP = (2026, 1, 1, 0, 0, 0)
# Blender's own validator in an environment of scripts/blender.py or an installed program; it needs Python 3.11.
VALIDATOR = "scripts/addons_core/bl_pkg/cli/blender_ext.py"


class BuildError(Exception):
    """The zip cannot be made; one sentence."""


def build(out_dir: Path, blender: str | None = None) -> Path:
    """Make and validate the zip; its path. Raises BuildError."""
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "mgcface"
        copy_addon(tree)
        copy_protocol(tree)
        for name in manifest_wheels():
            (tree / "wheels").mkdir(exist_ok=True)
            shutil.copy(fetched_wheel(name), tree / "wheels" / name)
        (tree / "engine").mkdir()
        shutil.copy(engine_wheel(Path(folder)), tree / "engine")
        shutil.copy(ROOT / "constraints.txt", tree / "engine" / "constraints.txt")
        shutil.copy(ROOT / "LICENSES" / "GPL-3.0-or-later.txt", tree / "LICENSE")
        part = out_dir / f".mgcface-{version()}.zip.part"
        write_zip(tree, part)
    target = out_dir / f"mgcface-{version()}.zip"
    os.replace(part, target)
    validate(target, blender)
    return target


def version() -> str:
    return re.findall(r'^version = "([^"]+)"', manifest_text(), re.MULTILINE)[0]


def manifest_text() -> str:
    return (SOURCE / "blender_manifest.toml").read_text("utf-8")


def manifest_wheels() -> list[str]:
    return re.findall(r'"\./wheels/([^"]+)"', manifest_text())


def copy_addon(tree: Path) -> None:
    """The add-on, with its imports of the protocol turned to the copy beside it."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(SOURCE, tree, ignore=ignore)
    for path in tree.rglob("*.py"):
        depth = len(path.relative_to(tree).parts)
        text = path.read_text("utf-8")
        text = re.sub(r"^(\s*from )backend(\.protocol[\w.]* import )", rf"\1{'.' * (depth - 1)}\2", text, flags=re.M)
        path.write_text(text, "utf-8")
        refuse_backend(path, text)


def copy_protocol(tree: Path) -> None:
    (tree / "protocol").mkdir()
    for path in sorted(PROTOCOL.glob("*.py")):
        text = path.read_text("utf-8")
        refuse_backend(path, text)
        (tree / "protocol" / path.name).write_text(text, "utf-8")


def refuse_backend(path: Path, text: str) -> None:
    """Inside Blender there is no package `backend`."""
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            if name.split(".")[0] in ("backend", "trainer"):
                raise BuildError(
                    f"{path.name} imports {name}, which is not in the extension: import the protocol only."
                )


def fetched_wheel(name: str) -> Path:
    """The wheel from the cache, else from PyPI; its sum is checked in both cases."""
    sums = {file: digest for digest, file in map(str.split, SUMS.read_text("utf-8").splitlines())}
    if name not in sums:
        raise BuildError(f"{SUMS.name} knows no sum for {name}: add it.")
    path = CACHE / name
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        package, number, python, abi, platform = name.removesuffix(".whl").split("-")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python[2:], "--abi", abi]
        command += ["--platform", platform.split(".")[-1], "--dest", str(CACHE), f"{package}=={number}"]
        if subprocess.run(command, check=False).returncode != 0 or not path.exists():
            raise BuildError(f"{name} could not be downloaded from PyPI: check the network and try again.")
    if hashlib.sha256(path.read_bytes()).hexdigest() != sums[name]:
        path.unlink()
        raise BuildError(f"{name} is not the file that it should be and was removed: try again.")
    return path


def engine_wheel(folder: Path) -> Path:
    """The backend as a wheel, built from a copy, because setuptools would mix in what an earlier build left."""
    copy = folder / "engine-source"
    for name in ENGINE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc"))
        else:
            shutil.copy(ROOT / name, copy / name)
    wheels = folder / "engine-wheel"
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    answer = subprocess.run([*command, "--wheel-dir", str(wheels), str(copy)], check=False)
    found = list(wheels.glob("mgcface-*.whl"))
    if answer.returncode != 0 or not found:
        raise BuildError("The engine's wheel could not be built: read pip's message above.")
    return found[0]


def write_zip(tree: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in tree.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(tree).as_posix(), TIMESTAMP)
            # Wheels are compressed already.
            entry.compress_type = zipfile.ZIP_STORED if path.suffix == ".whl" else zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())


def validate(target: Path, blender: str | None) -> None:
    """Blender's own check of manifest and wheels."""
    if blender is not None:
        command = [blender, "--command", "extension", "validate", str(target)]
    else:
        command = [*validator(), "validate", str(target)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        target.unlink()
        reason = " ".join((answer.stdout + answer.stderr).split())
        raise BuildError(f"Blender refuses the extension: {reason}")


def validator() -> list[str]:
    """Python and the validator of a Blender that is here as a module."""
    parents = [os.environ.get("MGCFACE_BLENDER") or str(ROOT / ".venv-blender"), str(ROOT / ".venv*")]
    for parent in parents:
        for inner in ("*/lib/python3.*", "lib/python3.*", "*/Lib", "Lib"):
            found = sorted(glob.glob(f"{parent}/{inner}/site-packages/bpy/*/{VALIDATOR}"))
            if found:
                place = Path(found[0])
                environment = place.parents[next(i for i, p in enumerate(place.parents) if p.name == "site-packages")]
                home = environment.parents[0] if environment.parent.name == "Lib" else environment.parents[2]
                pythons = [home / "bin" / "python", home / "Scripts" / "python.exe"]
                return [str(next(python for python in pythons if python.exists())), str(place)]
    raise BuildError(
        "There is no Blender to validate the extension with: run `python3 scripts/blender.py 4.2`, or name one with "
        "--blender."
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make the installable Blender extension.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the zip")
    parser.add_argument("--blender", help="program that validates it; else a module of scripts/blender.py")
    options = parser.parse_args(arguments)
    try:
        target = build(options.out, options.blender)
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{target} ({target.stat().st_size / 1e6:.1f} MB), validated by Blender\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
