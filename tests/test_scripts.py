"""The set-up scripts: readable by old Pythons, one sentence for what is missing, quick the second time."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import environment  # noqa: E402 - the folder is no package


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """An empty checkout, and a record of what would have been run."""
    (tmp_path / "pyproject.toml").write_text("[project]")
    (tmp_path / "constraints.txt").write_text("numpy==1.26.4")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    return tmp_path


@pytest.fixture
def ran(checkout, monkeypatch) -> list[list[str]]:
    commands: list[list[str]] = []

    def run(command: list[str], sentence: str) -> None:
        commands.append(command)
        if "venv" in command:
            python = environment.venv_python()
            python.parent.mkdir(parents=True)
            python.symlink_to(sys.executable)

    monkeypatch.setattr(environment, "run", run)
    return commands


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.name)
def test_scripts_can_be_read_by_python_3_6(script):
    """A Python that is too old must get as far as saying so."""
    tree = ast.parse(script.read_text("utf-8"), feature_version=(3, 6))
    modules = {name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in [node.names[0].name]}
    assert modules <= {"ctypes", "glob", "hashlib", "os", "shutil", "subprocess", "sys"}


def test_an_unsupported_python_without_another_is_one_sentence(monkeypatch):
    monkeypatch.setattr(environment, "SUPPORTED", ((2, 9),))
    with pytest.raises(environment.SetupError, match=r"needs 3\.10, 3\.11 or 3\.12"):
        environment.find_python()


def test_another_python_on_the_path_is_taken(monkeypatch, tmp_path):
    current = sys.version_info[:2]
    monkeypatch.setattr(environment, "SUPPORTED", (current,))
    monkeypatch.setattr(environment.sys, "version_info", (3, 6, 0))
    monkeypatch.setattr(environment.shutil, "which", lambda name: sys.executable)
    assert environment.find_python() == sys.executable


def test_a_name_on_the_path_that_does_not_run_is_passed_over(monkeypatch, tmp_path):
    monkeypatch.setattr(environment.sys, "version_info", (3, 6, 0))
    monkeypatch.setattr(environment.shutil, "which", lambda name: str(tmp_path / name))
    with pytest.raises(environment.SetupError):
        environment.find_python()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="system libraries are looked for on Linux only")
def test_missing_system_packages_are_named_in_one_sentence(monkeypatch):
    monkeypatch.setattr(environment, "SYSTEM_LIBRARIES", {"libnosuch.so.1": "libnosuch1", "libgone.so.2": "libgone2"})
    with pytest.raises(environment.SetupError, match=r"apt-get install -y libnosuch1 libgone2`"):
        environment.check_system(sys.executable)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="system libraries are looked for on Linux only")
def test_doctor_and_setup_look_for_the_same_libraries():
    from backend.commands import doctor

    assert environment.SYSTEM_LIBRARIES == doctor.SYSTEM_LIBRARIES


def test_the_second_time_installs_nothing(ran):
    environment.prepare(["dev"])
    assert ["venv" in command for command in ran] == [True, False]
    assert ran[1][-1].endswith("[dev]") and "--constraint" in ran[1]
    environment.prepare(["dev"])
    assert len(ran) == 2


def test_new_constraints_or_extras_install_again(ran, checkout):
    environment.prepare(["dev"])
    (checkout / "constraints.txt").write_text("numpy==1.26.3")
    environment.prepare(["dev"])
    assert len(ran) == 3
    environment.prepare([])
    assert len(ran) == 4


def test_an_installation_that_failed_is_tried_again(ran, monkeypatch):
    record = environment.run

    def failing(command: list[str], sentence: str) -> None:
        record(command, sentence)
        if "pip" in command:
            raise environment.SetupError(sentence)

    monkeypatch.setattr(environment, "run", failing)
    for attempt in (2, 3):
        with pytest.raises(environment.SetupError):
            environment.prepare([])
        assert len(ran) == attempt


def test_a_broken_venv_is_named(ran, checkout):
    python = environment.venv_python()
    python.parent.mkdir(parents=True)
    python.write_text("not a program")
    with pytest.raises(environment.SetupError, match=r"remove the folder \.venv"):
        environment.prepare([])


def test_arguments_are_passed_on_and_the_exit_code_comes_back(checkout, monkeypatch):
    monkeypatch.setattr(environment, "prepare", lambda extras: sys.executable)
    assert environment.main([], ["-c", "import sys; sys.exit(len(sys.argv))", "one", "two"]) == 3


def test_a_setup_error_is_its_sentence(checkout, monkeypatch, capsys):
    def prepare(extras):
        raise environment.SetupError("Turn it on.")

    monkeypatch.setattr(environment, "prepare", prepare)
    assert environment.main([], []) == 1
    assert capsys.readouterr().err == "Turn it on.\n"
