"""Who may import whom: docs/architecture.md as a test, so that the rooms stay apart."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Rooms of the project that a room may import; itself goes without saying. `errors` and `version` are open
# to all.
FOUNDATION = {"geometry"}
SENSES = {"vision", "face_model", "rendering"}
ARROWS = {
    "protocol": set(),
    "geometry": set(),
    "errors": set(),
    "version": set(),
    "vision": FOUNDATION,
    "face_model": FOUNDATION,
    "rendering": FOUNDATION,
    "network": FOUNDATION | SENSES,
    # What a Reconstruction is lies in this room, so the network stands beside and not below it.
    "reconstruction": FOUNDATION | SENSES | {"network"},
    "motion": FOUNDATION | SENSES | {"reconstruction"},
    "registration": FOUNDATION | SENSES | {"reconstruction"},
    "export": FOUNDATION | SENSES | {"reconstruction"},
    "server": FOUNDATION | SENSES | {"network", "reconstruction", "motion", "registration", "export", "protocol"},
    "commands": FOUNDATION
    | SENSES
    | {"network", "reconstruction", "motion", "registration", "export", "server", "trainer"},
    "cli": {"commands"},
    "trainer": FOUNDATION | SENSES | {"network", "reconstruction", "registration", "export"},
    "blender_addon": {"protocol"},
}
OPEN_TO_ALL = {"errors", "version"}
PACKAGES = ("backend", "trainer", "blender_addon")


def room_of_module(name: str) -> str | None:
    """``backend.vision.decode`` -> ``vision``; the packages that are rooms themselves keep their names."""
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return None
    if parts[0] != "backend":
        return parts[0]
    return parts[1] if len(parts) > 1 else "version"


def imported_modules(source: str, module: str) -> list[tuple[int, str]]:
    """Line and absolute name of every import, those inside functions too."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *([base] if base else [])])
            if base == "backend":  # `from backend import vision` names a room, `__version__` does not
                found += [
                    (node.lineno, f"backend.{alias.name}" if alias.name in ARROWS else "backend")
                    for alias in node.names
                ]
            else:
                found.append((node.lineno, base))
        elif isinstance(node, ast.Call) and called_name(node) in ("import_module", "__import__") and node.args:
            if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                found.append((node.lineno, node.args[0].value))
    return found


def called_name(node: ast.Call) -> str:
    return getattr(node.func, "id", None) or getattr(node.func, "attr", "")


def broken_arrows(source: str, module: str) -> list[str]:
    room = room_of_module(module)
    assert room is not None
    broken = []
    for line, name in imported_modules(source, module):
        other = room_of_module(name)
        # The protocol also lives in the add-on, where there is nothing of the backend beside it.
        open_to_this = set() if room == "protocol" else OPEN_TO_ALL
        if other is None or other == room or other in open_to_this:
            continue
        if room not in ARROWS or other not in ARROWS[room]:
            broken.append(f"{module}:{line} imports {name}: {room} must not know {other}")
    return broken


def project_modules() -> list[tuple[str, Path]]:
    modules = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = list(path.relative_to(ROOT).with_suffix("").parts)
            modules.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return modules


def test_every_arrow_points_one_way():
    modules = project_modules()
    assert len(modules) > 30
    broken = [line for name, path in modules for line in broken_arrows(path.read_text("utf-8"), name)]
    assert not broken, "\n".join(broken)


def test_every_room_has_arrows():
    rooms = {room_of_module(name) for name, _ in project_modules()}
    assert rooms <= set(ARROWS), f"add these rooms to ARROWS and docs/architecture.md: {rooms - set(ARROWS)}"


def test_arrows_make_no_circle():
    """Raises CycleError when rooms could come to need each other."""
    assert len(list(TopologicalSorter(ARROWS).static_order())) == len(ARROWS)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("backend.geometry.mesh", "from backend.vision.photo import Photo"),
        ("backend.geometry.mesh", "import backend.face_model.model"),
        ("backend.vision.decode", "def f():\n    from backend.reconstruction import fit"),
        ("backend.vision.decode", "from ..reconstruction.fit import fit"),
        ("backend.vision.decode", "from backend import reconstruction"),
        ("backend.reconstruction.fit", "import trainer.evaluate"),
        ("backend.reconstruction.fit", "importlib.import_module('backend.export.gltf')"),
        ("backend.export.gltf", "from backend.cli import main"),
        ("blender_addon.link", "from backend.geometry import mesh"),
        ("blender_addon.scene.head_data", "from backend.face_model.model import EYES"),
        ("backend.cli", "import backend.reconstruction.pipeline"),
        ("backend.protocol.wire", "from backend.geometry import mesh"),
        ("backend.protocol.client", "from backend.errors import MgcFaceError"),
        ("backend.reconstruction.pipeline", "from backend.protocol.wire import Message"),
        ("backend.export.gltf", "from backend.server.engine import Engine"),
    ],
)
def test_a_wrong_import_is_found(module, source):
    assert len(broken_arrows(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("backend.vision.decode", "from backend.errors import PhotoError\nimport numpy\nfrom .photo import Photo"),
        ("backend.export.gltf", "from backend import __version__"),
        ("backend.commands.build_model", "import trainer.build_model.build"),
        ("trainer.build_model.build", "from backend.face_model.model import FaceModel"),
    ],
)
def test_a_right_import_passes(module, source):
    assert broken_arrows(source, module) == []


def test_only_the_add_on_knows_blender_and_only_some_of_it():
    """The link and the conversion of what arrives run in a thread, where Blender's data must not be touched."""
    without = ("link", "scene/axes", "scene/harmonics", "scene/head_data", "scene/png", "naming")
    for name, path in project_modules():
        blender = {"bpy", "mathutils", "bpy_extras", "bl_operators"}
        used = {module.split(".")[0] for _, module in imported_modules(path.read_text("utf-8"), name)} & blender
        inside = path.relative_to(ROOT).as_posix()
        if not inside.startswith("blender_addon/") or inside.startswith(
            tuple(f"blender_addon/{part}" for part in without)
        ):
            assert not used, f"{inside} must do without {used}"


def test_command_line_starts_without_heavy_imports():
    """``mgcface --help`` must answer at once: no PyTorch, no NumPy, no MediaPipe in :mod:`backend.cli`."""
    question = (
        "import sys, backend.cli; print([m for m in ('torch', 'numpy', 'mediapipe', 'rich') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, cwd=ROOT, check=True)
    assert answer.stdout.strip() == "[]"
