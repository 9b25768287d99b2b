"""The folder works where the add-on puts it: alone, under another name, with NumPy and pyzmq."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "backend" / "protocol"
ALLOWED = set(sys.stdlib_module_names) | {"numpy", "zmq"}
# What turns bytes from elsewhere into code, or into somebody's files.
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "subprocess", "ctypes", "importlib", "code", "shutil"}
FORBIDDEN_BUILTINS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_METHODS = {"recv_pyobj", "send_pyobj", "system", "popen", "import_module"}


def test_it_imports_nothing_but_the_standard_library_numpy_and_zmq():
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            tops = {name.split(".")[0] for name in names}
            assert tops <= ALLOWED, f"{path.name} imports {tops - ALLOWED}"
            assert not tops & FORBIDDEN_MODULES, f"{path.name} imports {tops & FORBIDDEN_MODULES}"


def test_nothing_on_the_wire_is_ever_run():
    for folder in (FOLDER, FOLDER.parent / "server"):
        for path in folder.glob("*.py"):
            assert not re.search(r"\bpickle\b|allow_pickle", path.read_text("utf-8")), f"{path.name} speaks of it"
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call):
                    name, method = getattr(node.func, "id", ""), getattr(node.func, "attr", "")
                    wrong = name in FORBIDDEN_BUILTINS or method in FORBIDDEN_METHODS
                    assert not wrong, f"{path.name}:{node.lineno} calls {name or method}"
                if isinstance(node, ast.keyword) and node.arg == "shell":
                    raise AssertionError(f"{path.name} starts a shell")


def test_it_works_under_another_name(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "extension" / "wire", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "extension" / "__init__.py").touch()
    question = (
        "import sys\n"
        "from extension.wire.client import Client\n"
        "from extension.wire.wire import Message, encode, decode\n"
        "print(decode([bytes(f) for f in encode(Message('ping', 'x'))]).id)\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'backend'])"
    )
    answer = subprocess.run([sys.executable, "-c", question], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["x", "[]"]
