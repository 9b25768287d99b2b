"""Runs the tests of `inside/` in real Blender, each version in its own environment and process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import ROOT, blender_environments, environment_python

INSIDE = Path(__file__).with_name("inside")
FILES = sorted(path.name for path in INSIDE.glob("test_*.py"))
# Two gigabytes each time, so only with the oldest Blender, whose own Python serves the backend, and two whose Python
# is too new for it: one looks for another, one has uv bring it.
SET_UP, SET_UP_VERSIONS = "test_set_up.py", ("4.2", "5.1", "5.2")
# Blender starts in a second; the longest file works with a real backend, on a machine that may be busy.
LIMIT_S = 1500


@pytest.mark.parametrize(
    ("version", "file"),
    [
        (version, file)
        for version in blender_environments.MODULES
        for file in FILES
        if file != SET_UP or version in SET_UP_VERSIONS
    ],
)
def test_in_background(version, file, archive, heads, tmp_path, record_property):
    python = environment_python(version)
    report = tmp_path / "report.xml"
    command = [
        str(python),
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "junit_family=xunit1",
        "--rootdir",
        str(INSIDE),
    ]
    command += [f"--junitxml={report}", str(INSIDE / file)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "COV_"))}
    environment |= {"MGCFACE_ZIP": str(archive), "MGCFACE_HEADS": str(heads), "MGCFACE_PYTHON": sys.executable}
    answer = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert answer.returncode == 0, f"Blender {version}\n{answer.stdout[-8000:]}\n{answer.stderr[-2000:]}"
    cases = ElementTree.parse(report).getroot().iter("testcase")
    found = [
        (case.get("name"), each.get("name"), each.get("value")) for case in cases for each in case.iter("property")
    ]
    for _, name, value in found:
        record_property(f"{version} {name}", value)
