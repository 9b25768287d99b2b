"""What all commands share: help, versions, errors as one sentence."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from backend import __version__, cli
from backend.commands import console, models
from backend.commands.console import run_guarded
from backend.errors import ModelError

COMMANDS = (
    "reconstruct",
    "report",
    "models list",
    "models info",
    "models install",
    "doctor",
    "bench",
    "serve",
    "convert mgcnet",
    "build-model",
    "evaluate",
    "train",
)


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.app(list(arguments), prog_name="mgcface")
    return int(ended.value.code or 0)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    assert call(*command.split(), "--help") == 0
    assert f"Usage: mgcface {command}" in capsys.readouterr().out


def test_help_lists_every_command(capsys):
    assert call("--help") == 0
    said = capsys.readouterr().out
    assert all(re.search(rf"^  {command.split()[0]} ", said, re.MULTILINE) for command in COMMANDS)


def test_version(capsys):
    assert call("--version") == 0
    assert capsys.readouterr().out == f"mgcface {__version__}\n"


def test_installed_command_runs():
    command = Path(sys.executable).with_name("mgcface.exe" if sys.platform == "win32" else "mgcface")
    answer = subprocess.run([str(command), "--version"], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == f"mgcface {__version__}"


@pytest.mark.parametrize("wrong", [(), ("nosuch",), ("models",), ("doctor", "--nosuch"), ("bench", "--repeats", "0")])
def test_wrong_usage_is_exit_2(wrong):
    assert call(*wrong) == 2


def test_names_are_split():
    assert cli.split_names("glb, OBJ,,glb ") == ("glb", "obj")
    assert cli.split_names("") == ()


# -- errors ----------------------------------------------------------------------------------------


def fail_with(error: BaseException):
    def work(_: console.Interrupt) -> int:
        raise error

    return work


@pytest.fixture
def logs(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_an_error_for_the_user_is_its_sentence(capsys, logs):
    assert run_guarded(fail_with(ModelError("The model is upside down; turn it."))) == 1
    assert capsys.readouterr() == ("", "mgcface: The model is upside down; turn it.\n")
    assert list(logs.iterdir()) == []


def test_an_error_as_json(capsys):
    assert run_guarded(fail_with(ModelError("Turn it.")), json_output=True) == 1
    assert json.loads(capsys.readouterr().out) == {"error": {"code": "model", "message": "Turn it."}}


def test_an_unexpected_error_is_one_sentence_and_a_log(capsys, logs, monkeypatch):
    monkeypatch.delenv(console.DEBUG_VARIABLE, raising=False)
    assert run_guarded(fail_with(ZeroDivisionError("secret detail"))) == 1
    (line,) = capsys.readouterr().err.splitlines()
    (log,) = logs.iterdir()
    assert str(log) in line and "secret detail" not in line
    assert "Traceback" in log.read_text() and "secret detail" in log.read_text()


def test_debugging_shows_the_traceback(capsys, logs, monkeypatch):
    monkeypatch.setenv(console.DEBUG_VARIABLE, "1")
    assert run_guarded(fail_with(ZeroDivisionError("secret detail"))) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said and "secret detail" in said


def test_a_log_that_cannot_be_written_is_no_second_error(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert run_guarded(fail_with(ZeroDivisionError())) == 1
    assert console.DEBUG_VARIABLE in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"), [(ImportError("libGL.so.1: cannot open"), "mgcface doctor"), (MemoryError(), "smaller")]
)
def test_known_causes_get_advice(capsys, logs, error, words):
    assert run_guarded(fail_with(error)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


# -- models ----------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MGCFACE_HOME", str(tmp_path))
    return tmp_path


def test_models_list(home, capsys):
    assert call("models", "list", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["models"]}
    assert rows["open-head"]["installed"] and rows["open-head"]["commercial"]
    assert not rows["bfm09"]["installed"] and not rows["bfm09"]["commercial"]
    assert call("models", "list") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in rows)


def test_models_info(home, capsys):
    assert call("models", "info", "open-head", "--json") == 0
    details = json.loads(capsys.readouterr().out)
    assert details["licence"] == "MIT" and len(details["expressions"]) == 52
    assert call("models", "info", "open-head") == 0
    said = capsys.readouterr().out
    assert "jawOpen" in said and "USC Institute for Creative Technologies" in said


def test_models_info_of_what_is_not_there(home, capsys):
    assert call("models", "info", "nosuch") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "open-head" in line
    assert call("models", "info", "flame") == 0
    assert "models install flame --from FILE" in capsys.readouterr().out


def test_models_install_from_a_file_and_say_its_licence(home, capsys):
    from backend.face_model.registry import PACKAGED

    assert call("models", "install", "my-head", "--from", str(PACKAGED / "open-head.safetensors")) == 0
    assert (home / "models" / "my-head.safetensors").is_file()
    assert "Licence MIT" in capsys.readouterr().out


def test_models_install_of_a_missing_file(home, capsys):
    assert call("models", "install", "flame", "--from", str(home / "gone.npz")) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not list(home.rglob("*.safetensors"))


def test_values_read_like_words():
    assert models.as_text({"a": True, "b": [1, 2]}) == "a yes, b 1, 2"


# -- trainer ---------------------------------------------------------------------------------------


def test_build_model_without_its_source(tmp_path, capsys):
    pytest.importorskip("pynanoinstantmeshes", reason="the extra train is not installed")
    assert call("build-model", "--from", str(tmp_path), "--out", str(tmp_path / "head.safetensors")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "report it" not in line
    assert not (tmp_path / "head.safetensors").exists()


def test_evaluate_names_its_sets_and_its_data(tmp_path, capsys):
    assert call("evaluate", "--sets", "nosuch") == 2
    assert call("evaluate", "--data", str(tmp_path / "gone")) == 2
    assert call("evaluate", "--sets", "meshmonk", "--data", str(tmp_path / "gone"), "--out", str(tmp_path)) == 1
    first, second, third = capsys.readouterr().err.splitlines()
    assert "meshmonk" in first and "--data" in second and "--sets synthetic" in second
    assert "--data" in third and "meshmonk" in third
