"""The project's own papers: licences, versions, pins, links, and what must never be committed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from backend import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = {"gpu", "train", "addon-dev", "fan", "heif", "bfm", "board", "dev"}

# bpy is asked for with an exact version and only there.
PINNED_IN_PYPROJECT = {"bpy"}


def name_of(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match
    return re.sub(r"[-_.]+", "-", match.group()).lower()


def all_requirements() -> set[str]:
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return {name_of(requirement) for requirements in lists for requirement in requirements}


def constraints() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def tracked_files() -> list[Path]:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    answer = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in answer.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_the_version_is_said_once_and_the_same():
    assert PROJECT["version"] == __version__ == metadata.version("mgcface")


def test_extras_are_those_that_the_documents_name():
    assert set(PROJECT["optional-dependencies"]) == EXTRAS


def test_every_direct_dependency_is_pinned_exactly():
    pinned = {name_of(line) for line in constraints()}
    assert all_requirements() - PINNED_IN_PYPROJECT <= pinned
    assert "torch==2.13.0" in constraints()
    assert all(re.fullmatch(r"[a-z0-9-]+==[^ ;]+(; python_version .+)?", line) for line in constraints())


def test_every_direct_dependency_is_explained():
    text = (ROOT / "docs" / "dependencies.md").read_text("utf-8").lower()
    missing = [name for name in sorted(all_requirements()) if not re.search(rf"\b{re.escape(name)}\b", text)]
    assert not missing, f"say in docs/dependencies.md why these are here: {missing}"


def test_every_python_supported_has_one_pin_per_package():
    """Markers of one package exclude each other and leave no version out."""
    for version in ("3.10", "3.11", "3.12"):
        seen: dict[str, str] = {}
        for line in constraints():
            pin, _, marker = line.partition(";")
            if marker and not holds(marker, version):
                continue
            name = name_of(pin)
            assert name not in seen, f"two pins for {name} on Python {version}"
            seen[name] = pin
        direct = all_requirements() - PINNED_IN_PYPROJECT
        assert direct <= set(seen), f"no pin on Python {version}: {direct - set(seen)}"


def holds(marker: str, version: str) -> bool:
    from packaging.markers import Marker

    return Marker(marker.strip()).evaluate({"python_version": version})


def test_licences_are_whole():
    licence = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in licence and "END OF TERMS AND CONDITIONS" in licence
    assert licence == (ROOT / "LICENSES" / "Apache-2.0.txt").read_text("utf-8")
    assert "END OF TERMS AND CONDITIONS" in (ROOT / "LICENSES" / "GPL-3.0-or-later.txt").read_text("utf-8")


def test_notice_carries_what_the_default_head_asks_for():
    notice = " ".join((ROOT / "NOTICE").read_text("utf-8").replace(">", " ").split())
    assert "Copyright (c) 2020 USC Institute for Creative Technologies" in notice
    assert "The above copyright notice and this permission notice shall be included in all copies" in notice
    assert "astronaut" in notice and "public domain" in notice


def test_links_between_documents_lead_somewhere():
    broken = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken, "\n".join(broken)


def test_nothing_pickled_evaluated_or_run_through_a_shell():
    """Code from files is never run; ruff holds most of this, the rest is here."""
    forbidden = re.compile(
        r"allow_pickle\s*=\s*True|\bimport (pickle|dill|joblib)\b|shell\s*=\s*True|weights_only\s*=\s*False"
    )
    found = []
    for path in tracked_files():
        if path.suffix == ".py" and path.parts[len(ROOT.parts)] in ("backend", "blender_addon", "trainer", "scripts"):
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                if forbidden.search(line):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found, "\n".join(found)


def test_no_file_is_too_large_to_be_committed():
    """The default head, its albedo and the default networks are the largest files that belong here."""
    large = {path.name: path.stat().st_size for path in tracked_files() if path.stat().st_size > 3e6}
    most = {"open-head.safetensors": 16e6, "open-head.albedo.safetensors": 8e6, "encoder_open-head.safetensors": 12e6}
    most |= {"turned_heads.safetensors": 4e6}
    assert set(large) <= set(most)
    assert all(size <= most[name] for name, size in large.items())


def test_no_path_of_a_machine_in_text():
    """Absolute paths of one developer's machine mean nothing to others."""
    path_of_a_machine = re.compile("/(" + "work|root|home/[a-z]+" + ")/(main|shared|[.]venv|[.]cache|[a-z]+/)")
    found = []
    for path in tracked_files():
        if path.suffix in (".py", ".md", ".toml", ".txt", ".json", "") and path.stat().st_size < 1e6:
            try:
                text = path.read_text("utf-8")
            except UnicodeDecodeError:
                continue
            found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in path_of_a_machine.finditer(text)]
    assert not found, "\n".join(found)
