"""Every command in README.md and docs is one that works: run here, or run by .ci/run, or known to the parser."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from backend import cli

ROOT = Path(__file__).parents[1]
CI = (ROOT / ".ci" / "run").read_text("utf-8")

# Commands that are run as a whole by .ci/run, on a clean checkout.
RUN_BY_CI = {"python3 scripts/example.py", "python3 scripts/test.py"}

# Commands for other systems, and steps that need the network: what they name is checked instead of run.
NOT_RUN = {
    r"py -3.11 scripts\example.py",
    r"py -3.11 scripts\test.py",
    "python3.11 scripts/example.py",
    "python3.11 scripts/test.py",
    "python3 -m venv .venv",
    ".venv/bin/pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu",
}

# Run by a test of their own: with fewer repetitions, or because they need what another command made.
RUN_ELSEWHERE = {
    ".venv/bin/mgcface bench": "tests/commands/test_bench.py",
    ".venv/bin/mgcface report heads": "tests/commands/test_report.py",
}


def commands(page: Path) -> list[str]:
    """Lines of the fenced blocks marked as shell, and `mgcface` lines of unmarked ones."""
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            command = line.split("  #")[0].strip().removeprefix("$ ")
            if command and (language in ("sh", "bash", "bat", "console") or command.startswith("mgcface ")):
                found.append(command)
    return found


def mgcface_arguments(command: str) -> list[str] | None:
    words = shlex.split(command, posix=True)
    return words[1:] if words and words[0].rsplit("/", 1)[-1] == "mgcface" else None


README = commands(ROOT / "README.md")


def test_the_readme_has_the_two_commands():
    assert set(README) >= RUN_BY_CI


@pytest.mark.parametrize("command", sorted(set(README)))
def test_every_command_of_the_readme_is_covered(command):
    covered = command in RUN_BY_CI | NOT_RUN or mgcface_arguments(command) is not None
    assert covered, f"nobody tries this command: {command}"


@pytest.mark.parametrize("command", sorted(RUN_BY_CI))
def test_ci_runs_the_two_commands(command):
    assert re.search(rf"^{re.escape(command)}( |$)", CI, re.MULTILINE)


@pytest.mark.parametrize("command", sorted(NOT_RUN))
def test_commands_that_are_not_run_name_things_that_exist(command):
    assert command in README, "the readme no longer has it"
    for script in re.findall(r"scripts[/\\]\w+\.py", command):
        assert (ROOT / script.replace("\\", "/")).is_file()
    if "torch==" in command:
        assert re.search(r"torch==[\d.]+", command).group() in (ROOT / "constraints.txt").read_text("utf-8")


def run_here() -> list[str]:
    return sorted({line for line in README if mgcface_arguments(line) is not None and line not in RUN_ELSEWHERE})


@pytest.mark.parametrize("command", run_here())
def test_every_mgcface_command_of_the_readme_runs(command, tmp_path, monkeypatch, capfd):
    """In an empty folder with the example as every photo that is named."""
    arguments = mgcface_arguments(command)
    assert arguments
    for name in [word for word in arguments if word.endswith(".jpg")]:
        (tmp_path / name).write_bytes((ROOT / "examples" / "astronaut.jpg").read_bytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.app(arguments, prog_name="mgcface")
    assert (ended.value.code or 0) == 0, capfd.readouterr().err
    if "--out" in arguments:
        head = "head.glb" if "--same-person" in arguments else "*/head.glb"
        assert list(Path(arguments[arguments.index("--out") + 1]).glob(head))


@pytest.mark.parametrize(("command", "test"), sorted(RUN_ELSEWHERE.items()))
def test_the_other_tests_run_these(command, test):
    arguments = mgcface_arguments(command)
    assert command in README and arguments
    assert f'mgcface("{arguments[0]}"' in (ROOT / test).read_text("utf-8")


def documented() -> list[tuple[str, str]]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    pairs = [(page.name, command) for page in pages for command in commands(page)]
    return sorted({pair for pair in pairs if mgcface_arguments(pair[1]) is not None})


@pytest.mark.parametrize(("page", "command"), documented())
def test_every_option_in_the_documents_exists(page, command):
    arguments = mgcface_arguments(command)
    assert arguments
    depth = 2 if arguments[0] in ("models", "addon", "convert", "train-data") else 1
    words = [sys.executable, "-m", "backend.cli", *arguments[:depth], "--help"]
    help_text = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    for option in [word.split("=")[0] for word in arguments if word.startswith("-")]:
        assert re.search(rf"(^|[\s,]){re.escape(option)}\b", help_text), f"{page}: {command}"


def test_the_parser_of_this_test_sees_commands(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Text.\n```sh\nls -l  # look\nmgcface doctor\n```\n```\nmgcface bench\nother\n```\n")
    assert commands(page) == ["ls -l", "mgcface doctor", "mgcface bench"]
