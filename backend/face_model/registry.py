"""Which face models there are and where they lie.

``open-head`` comes with the package. Every other model is a file ``<name>.safetensors`` in the user's
data folder, put there by :mod:`backend.face_model.install`.
"""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import platformdirs

from backend.errors import ModelError
from backend.face_model.file_format import load_model, read_metadata
from backend.face_model.model import FaceModel, ModelInfo

DEFAULT_MODEL = "open-head"
SUFFIX = ".safetensors"
# The albedo of a model lies beside it (backend.face_model.albedo_file).
ALBEDO_SUFFIX = ".albedo.safetensors"

# Tests, portable installations and shared machines set this to keep everything in one folder.
HOME_VARIABLE = "MGCFACE_HOME"

PACKAGED = Path(__file__).parent / "data"

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True)
class KnownModel:
    """A model that this version can install.

    Attributes
    ----------
    info : ModelInfo
        Licence and terms as they are known before the file is there.
    source : str
        What to hand to the installer, for people.
    download_bytes : int
        How much an automatic download fetches; 0 where only ``--from`` works.
    """

    info: ModelInfo
    source: str
    download_bytes: int = 0


@lru_cache(maxsize=1)
def known_models() -> dict[str, KnownModel]:
    """The models that the installer knows, by name.

    Their readers are imported here and not above: they pull in a third of a second of libraries that
    reconstructing with the default head never needs.
    """
    from backend.face_model.adapters import bfm09, flame, gnm_head, ict_facekit

    known = (
        KnownModel(ict_facekit.INFO, "downloaded, or its FaceXModel folder", 394_461_711),
        KnownModel(gnm_head.INFO, "downloaded, or gnm_head.npz", 53_328_601),
        KnownModel(flame.OPEN_INFO, "FLAME 2023 Open as .npz"),
        KnownModel(flame.INFO, "FLAME 2020 or 2023 as .npz"),
        KnownModel(bfm09.INFO, "bfm09_trim_exp_uv_presplit.h5"),
    )
    return {model.info.name: model for model in known}


@dataclass(frozen=True)
class ModelEntry:
    """One line of the list of models.

    Attributes
    ----------
    name, version, licence, terms : str
    commercial : bool
    path : Path or None
        None while the model is not installed.
    source : str
        Where it comes from: ``comes with mgcface``, or what the installer takes.
    size_bytes : int
        Of the installed file; 0 while it is not installed.
    problem : str
        Why an installed file cannot be used; empty when it can.
    """

    name: str
    version: str
    licence: str
    commercial: bool
    terms: str
    path: Path | None
    source: str
    size_bytes: int
    problem: str = ""


def models_folder() -> Path:
    """Where installed models lie; not made until something is installed."""
    home = os.environ.get(HOME_VARIABLE)
    return (Path(home) if home else platformdirs.user_data_path("mgcface", appauthor=False)) / "models"


def model_path(name: str) -> Path:
    """Where the model of this name lies or would lie; raises for a name that is not one."""
    if not NAME_PATTERN.fullmatch(name):
        raise ModelError(f'"{name}" is not a model name; use small letters, digits and hyphens.')
    return (PACKAGED if name == DEFAULT_MODEL else models_folder()) / f"{name}{SUFFIX}"


def list_models() -> list[ModelEntry]:
    """All models: the default, those that can be installed, and whatever else is installed."""
    folder = models_folder()
    files = folder.glob(f"*{SUFFIX}") if folder.is_dir() else []
    found = sorted(path.stem for path in files if not path.name.endswith(ALBEDO_SUFFIX))
    others = [name for name in found if name not in known_models() and name != DEFAULT_MODEL]
    return [_entry(name) for name in (DEFAULT_MODEL, *known_models(), *others)]


def _entry(name: str) -> ModelEntry:
    path = model_path(name)
    known = known_models().get(name)
    source = "comes with mgcface" if name == DEFAULT_MODEL else known.source if known else "a file of yours"
    info, problem, size = known.info if known else None, "", 0
    if path.is_file():
        size = path.stat().st_size
        try:
            info = ModelInfo(**read_metadata(path)["info"])
        except ModelError as error:
            problem = str(error)
        except (KeyError, TypeError):
            problem = f"The face model {path.name} has damaged metadata; install it again."
    elif name == DEFAULT_MODEL:
        problem = f"{path} is missing; install mgcface again."
    if info is None:
        return ModelEntry(name, "", "", False, "", path if size else None, source, size, problem)
    terms = (info.version, info.licence, info.commercial, info.terms)
    return ModelEntry(name, *terms, path if size else None, source, size, problem)


def find_model(name_or_path: str | Path) -> Path:
    """The file of a model given by name or by path; :class:`ModelError` says how to get it when it is missing."""
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(SUFFIX) or "/" in text or os.sep in text:
        return Path(name_or_path)
    if not NAME_PATTERN.fullmatch(text):
        return Path(text)
    path = model_path(text)
    if path.is_file():
        return path
    if text == DEFAULT_MODEL:
        raise ModelError(f"The default face model is missing at {path}; install mgcface again.")
    if text in known_models():
        how = text if known_models()[text].download_bytes else f"{text} --from FILE"
        raise ModelError(f'The face model {text} is not installed; run "mgcface models install {how}".')
    if Path(text).exists():
        return Path(text)
    names = ", ".join(entry.name for entry in list_models())
    raise ModelError(f"There is no face model {text}; known are {names}, or name a {SUFFIX} file.")


_cache: dict[tuple[str, int, int], FaceModel] = {}
_cache_lock = threading.Lock()


def get_model(name_or_path: str | Path = DEFAULT_MODEL) -> FaceModel:
    """A model by name or by file, read once per process and again only when its file changes.

    The arrays are shared between all callers and must not be written to.
    """
    path = find_model(name_or_path)
    try:
        status = path.stat()
        key = (str(path.resolve()), status.st_mtime_ns, status.st_size)
    except OSError:
        return load_model(path)  # says what is wrong with the path
    with _cache_lock:
        if key not in _cache:
            # The file at this path has changed: its old content would never be asked for again.
            for old in [other for other in _cache if other[0] == key[0]]:
                del _cache[old]
            _cache[key] = load_model(path)
        return _cache[key]
