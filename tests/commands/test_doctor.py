"""``mgcface doctor``: finds what is missing and says how to fix it."""

from __future__ import annotations

import json

import pytest

from backend.commands import doctor


def findings(mgcface, capfd) -> tuple[int, dict[tuple[str, str], dict]]:
    code = mgcface("doctor", "--json")
    document = json.loads(capfd.readouterr().out)
    assert document["ok"] == (code == 0)
    return code, {(check["area"], check["name"]): check for check in document["checks"]}


def test_a_whole_installation(mgcface, capfd):
    code, found = findings(mgcface, capfd)
    assert code == 0
    assert found["detector", "mediapipe"]["state"] == "ok"
    assert found["rasterizer", "cpu"]["state"] == "ok"
    assert "2" in found["packages", "torch"]["detail"]
    assert "may be sold" in found["face model", "open-head"]["detail"]
    assert "NOT be sold" in found["face model", "bfm09"]["detail"]


def test_the_table_says_the_same(mgcface, capfd):
    assert mgcface("doctor") == 0
    said = capfd.readouterr()
    assert "Everything that is needed is here." in said.out and "open-head" in said.out
    assert said.err == ""


def test_a_missing_package_is_named_with_its_fix(mgcface, capfd, monkeypatch):
    gone = ("nosuch_module", "nosuch-package", "magic")
    monkeypatch.setattr(doctor, "REQUIRED", (*doctor.REQUIRED, gone))
    code, found = findings(mgcface, capfd)
    assert code == 1
    assert found["packages", "nosuch-package"]["state"] == "missing"
    assert found["packages", "nosuch-package"]["fix"] == "pip install nosuch-package"


def test_a_package_that_does_not_load_is_found(mgcface, capfd, monkeypatch, tmp_path):
    """Installed by its metadata, broken when imported, as OpenCV is without libGL."""
    (tmp_path / "broken_module.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "REQUIRED", (("broken_module", "numpy", "all"),))
    code, found = findings(mgcface, capfd)
    assert code == 1
    assert "libGL.so.1" in found["packages", "numpy"]["detail"]


def test_a_missing_extra_is_no_failure(mgcface, capfd, monkeypatch):
    monkeypatch.setattr(doctor, "EXTRAS", (("nosuch_module", "nosuch-package", "magic", "wand"),))
    code, found = findings(mgcface, capfd)
    assert code == 0
    assert found["extras", "nosuch-package"] == {
        "area": "extras",
        "name": "nosuch-package",
        "state": "optional",
        "detail": "not installed, needed for magic",
        "fix": 'pip install -e ".[wand]"',
    }


def test_a_missing_system_library_names_its_package(monkeypatch):
    if not doctor.system_library_checks():
        pytest.skip("system libraries are looked for on Linux only")
    monkeypatch.setattr(doctor, "SYSTEM_LIBRARIES", {"libnosuch.so.9": "libnosuch9"})
    (check,) = doctor.system_library_checks()
    assert check.state == "missing" and check.fix == "sudo apt-get install -y libnosuch9"


def test_the_default_model_missing_is_a_failure(mgcface, capfd, monkeypatch, tmp_path):
    monkeypatch.setattr("backend.face_model.registry.PACKAGED", tmp_path)
    code, found = findings(mgcface, capfd)
    assert code == 1
    assert found["face model", "open-head"]["state"] == "missing"
