"""``mgcface doctor``: what is here, what is missing and how to fix it, what may be sold."""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend import __version__
from backend.commands import console

if TYPE_CHECKING:
    from backend.face_model.model import ModelInfo

OK, MISSING, OPTIONAL = "ok", "missing", "optional"

# Module to import, distribution name, and what needs it.
REQUIRED = (
    ("numpy", "numpy", "all"),
    ("torch", "torch", "the fit"),
    ("mediapipe", "mediapipe", "finding faces"),
    ("cv2", "opencv-contrib-python", "pictures"),
    ("PIL", "pillow", "pictures"),
    ("scipy", "scipy", "the texture"),
    ("numba", "numba", "the fast CPU rasterizer"),
    ("safetensors", "safetensors", "face-model files"),
    ("pygltflib", "pygltflib", "GLB files"),
    ("platformdirs", "platformdirs", "finding installed models"),
    ("rich", "rich", "tables and progress"),
    ("typer", "typer", "the command line"),
)
# The same, with the extra that brings it.
EXTRAS = (
    ("pillow_heif", "pillow-heif", "HEIC photos", "heif"),
    ("face_alignment", "face-alignment", "--detector fan", "fan"),
    ("h5py", "h5py", "the model bfm09", "bfm"),
    ("triton", "triton", "the GPU rasterizer", "gpu"),
    ("pynanoinstantmeshes", "pynanoinstantmeshes", "mgcface build-model", "train"),
)

# What MediaPipe's OpenCV loads from the system and which Debian package has it.
SYSTEM_LIBRARIES = {"libGL.so.1": "libgl1", "libgthread-2.0.so.0": "libglib2.0-0"}

# How the weight files of face-alignment begin in PyTorch's cache; a checksum follows.
FAN_WEIGHTS = ("2DFAN4", "s3fd")


@dataclass(frozen=True)
class Check:
    """One finding. ``state`` is ``ok``, ``missing`` (must be fixed) or ``optional`` (may be added)."""

    area: str
    name: str
    state: str
    detail: str
    fix: str = ""


def run(json_output: bool) -> int:
    """Print the findings; 0 when nothing that is needed is missing, otherwise 1."""
    checks = all_checks()
    missing = [check for check in checks if check.state == MISSING]
    if json_output:
        document = {"mgcface": __version__, "ok": not missing, "checks": [asdict(check) for check in checks]}
        console.print_json(document)
    else:
        show(checks)
        console.say(verdict(missing))
    return console.EXIT_FAILED if missing else console.EXIT_DONE


def show(checks: list[Check]) -> None:
    table = console.make_table("", "", "state", "detail")
    area = ""
    for check in checks:
        detail = f"{check.detail}; to fix: {check.fix}" if check.fix else check.detail
        table.add_row(check.area if check.area != area else "", check.name, check.state, detail)
        area = check.area
    console.show(table)


def verdict(missing: list[Check]) -> str:
    if not missing:
        return "Everything that is needed is here."
    return f"Missing: {', '.join(check.name for check in missing)}; the table says how to fix each."


def all_checks() -> list[Check]:
    checks = [*machine_checks(), *system_library_checks(), *package_checks()]
    # The rest imports the packages; where one of them is broken the rows above have said so.
    for part in (device_checks, rasterizer_checks, detector_checks, model_checks, weights_checks):
        try:
            checks += part()
        except Exception as error:
            area = part.__name__.replace("_checks", "")
            checks.append(Check(area, "all", MISSING, one_line(error), "fix the rows above first"))
    return checks


def machine_checks() -> list[Check]:
    version = platform.python_version()
    supported = (3, 10) <= sys.version_info[:2] <= (3, 12)
    fix = "" if supported else "use Python 3.10, 3.11 or 3.12"
    return [
        Check("program", "mgcface", OK, __version__),
        Check("program", "Python", OK if supported else MISSING, f"{version} at {sys.executable}", fix),
        Check("program", "licence", OK, "Apache-2.0; for what you make, the face model decides (below)"),
        Check("machine", "system", OK, platform.platform()),
        Check("machine", "CPU", OK, f"{cpu_name()}, {usable_cores()} cores for this process"),
    ]


def system_library_checks() -> list[Check]:
    if not sys.platform.startswith("linux"):
        return []
    checks = []
    for library, package in SYSTEM_LIBRARIES.items():
        try:
            ctypes.CDLL(library)
        except OSError as error:
            fix = f"sudo apt-get install -y {package}"
            checks.append(Check("system", library, MISSING, one_line(error), fix))
        else:
            checks.append(Check("system", library, OK, "found"))
    return checks


def package_checks() -> list[Check]:
    checks = [package_check(*entry, fix=f"pip install {entry[1]}", absent=MISSING) for entry in REQUIRED]
    for module, distribution, purpose, extra in EXTRAS:
        fix = f'pip install -e ".[{extra}]"'
        checks.append(package_check(module, distribution, purpose, fix, OPTIONAL))
    return checks


def package_check(module: str, distribution: str, purpose: str, fix: str, absent: str) -> Check:
    """Really imports the module: a package can be installed and still not load."""
    area = "packages" if absent == MISSING else "extras"
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return Check(area, distribution, absent, f"not installed, needed for {purpose}", fix)
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken package may raise anything
        return Check(area, distribution, absent, f"{version} does not load: {one_line(error)}", fix)
    return Check(area, distribution, OK, f"{version}, for {purpose}")


def device_checks() -> list[Check]:
    import torch

    if torch.cuda.is_available():
        name, memory = torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory
        return [Check("device", "cuda", OK, f"{name}, {memory / 2**30:.0f} GiB; --device auto uses it")]
    reason = "PyTorch sees no GPU" if torch.version.cuda else "this PyTorch is built without CUDA"
    return [Check("device", "cpu", OK, f"--device auto uses the CPU with {torch.get_num_threads()} threads; {reason}")]


def rasterizer_checks() -> list[Check]:
    from backend.rendering.backends import available_backends

    return [
        Check("rasterizer", name, OK if reason is None else OPTIONAL, reason or "can run")
        for name, reason in available_backends().items()
    ]


def detector_checks() -> list[Check]:
    """MediaPipe brings its networks along and is tried; FAN fetches its own at first use."""
    from backend.vision.detector import make_detector

    make_detector("mediapipe").close()
    checks = [Check("detector", "mediapipe", OK, "its networks load; they come with the package (Apache-2.0)")]
    if util.find_spec("face_alignment") is None:
        return [*checks, Check("detector", "fan", OPTIONAL, "not installed", 'pip install -e ".[fan]"')]
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    missing = [name for name in FAN_WEIGHTS if not list(folder.glob(f"{name}-*"))]
    detail = f"fetches {' and '.join(missing)} at first use" if missing else f"its weights are in {folder}"
    return [*checks, Check("detector", "fan", OPTIONAL if missing else OK, detail)]


def model_checks() -> list[Check]:
    """Installed models with the licence that is in force for what is made with them."""
    from backend.face_model.commands import models_table

    checks = []
    for row in models_table():
        sale = "output may be sold" if row["commercial"] else "output may NOT be sold"
        licence = f"licence {row['licence'] or 'unknown'}, {sale}: {row['terms']}"
        if row["problem"]:
            state = MISSING if row["name"] == "open-head" else OPTIONAL
            checks.append(Check("face model", row["name"], state, row["problem"], "install it again"))
        elif row["installed"]:
            checks.append(Check("face model", row["name"], OK, f"installed; {licence}"))
        else:
            checks.append(Check("face model", row["name"], OPTIONAL, f"not installed; {licence}"))
    return checks


def weights_checks() -> list[Check]:
    """The network that comes with each installed model, and whether it looks at photos without being told to."""
    from backend.face_model.registry import list_models
    from backend.network.choice import default_weights, regress_by_default
    from backend.network.turned_heads import FILE
    from backend.network.weights_file import read_info

    checks = []
    for entry in list_models():
        path = default_weights(entry.name)
        if path is not None and entry.path is not None:
            info = read_info(path).info
            use = (
                "used by default" if regress_by_default(entry.name) else "used with --stages detect,regress,fit,texture"
            )
            checks.append(Check("network", entry.name, OK, f"{info.name} {info.version}, {use}; {licence_of(info)}"))
    if not checks:
        detail = "no weights come with this version; your own or the published ones go in with --weights"
        checks.append(Check("network", "weights", OPTIONAL, detail, "docs/training.md"))
    info = read_info(FILE).info
    checks.append(Check("network", info.name, OK, f"{info.version}, used by default on every face; {licence_of(info)}"))
    return checks


def licence_of(info: ModelInfo) -> str:
    """Of weights, and whether what is made with them may be sold."""
    sale = "output may be sold" if info.commercial else "output may NOT be sold"
    return f"licence {info.licence}, {sale}"


def cpu_name() -> str:
    """What the maker calls the processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may use, which containers make fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def one_line(error: BaseException) -> str:
    text: Any = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
