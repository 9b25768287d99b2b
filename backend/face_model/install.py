"""Installing a face model: get its source, read it, complete it from open-head, write one file.

Everything happens in a temporary folder beside the target; the finished model is renamed into place, so
an interrupted installation leaves what was there before.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from backend.errors import Cancelled, ModelError, OutputError
from backend.face_model.adapters import bfm09, flame, gnm_head, ict_facekit
from backend.face_model.adapters.bfm09 import read_bfm09
from backend.face_model.adapters.flame import read_flame
from backend.face_model.adapters.gnm_head import read_gnm_head
from backend.face_model.adapters.ict_facekit import read_ict_facekit
from backend.face_model.download import Cancel, Progress, RemoteFile, fetch_all
from backend.face_model.file_format import load_model, save_model
from backend.face_model.model import FaceModel, ModelInfo
from backend.face_model.registry import (
    DEFAULT_MODEL,
    PACKAGED,
    SUFFIX,
    get_model,
    known_models,
    model_path,
    models_folder,
)
from backend.face_model.transfer import complete

# The npz of Google's own repository on Hugging Face at a fixed revision.
GNM_URL = "https://huggingface.co/google/gnm-v3/resolve/c01e90d298d82301f9fd18f54806be751775cb7c"
GNM_FILES = [
    RemoteFile("v3_0/gnm_head.npz", 53_328_601, "61d78bbfb4ad8e0b38495804a4caef3214d3df00f8c3f68761e63b41ce3747eb")
]

# Name, size and SHA-256 of the 155 files of ICT-FaceKit light that the reader needs.
ICT_MANIFEST = PACKAGED / "ict-facekit-files.json"

# How much of the progress bar the download takes when there is one; reading takes most of the rest.
DOWNLOAD_SHARE, READ_SHARE = 0.8, 0.15


def install_model(
    name: str,
    source: str | Path | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    base_url: str | None = None,
) -> Path:
    """Install a model and return the path of its file.

    Parameters
    ----------
    name : str
        ``ict-facekit``, ``gnm-head``, ``flame-open``, ``flame``, ``bfm09``, or any other name for a
        face-model file of the user's own.
    source : path, optional
        The source's file or folder, or a finished ``.safetensors`` model. Without it the model is
        downloaded, where that is possible.
    progress : callable, optional
        Called with the fraction done and a few words.
    cancel : callable, optional
        Asked now and then; returning true raises :class:`Cancelled`.
    base_url : str, optional
        Another place to download from, with the same paths below it.
    """
    target = model_path(name)
    if name == DEFAULT_MODEL:
        raise ModelError(f"{DEFAULT_MODEL} comes with mgcface and needs no installation; use it right away.")
    progress = progress or (lambda _fraction, _text: None)
    cancel = cancel or (lambda: False)
    if source is not None and Path(source).suffix == SUFFIX:
        model = load_model(source)
        save_model(model.replaced(info=_renamed(model, name)), target)
        return target
    if name not in known_models():
        raise ModelError(f"{name} is not a model that mgcface knows; use --from with a {SUFFIX} file to install yours.")
    known = known_models()[name]
    if source is None and not known.download_bytes:
        raise ModelError(
            f"{name} has to be fetched by hand ({known.info.terms.rstrip('.')}); get {known.source} from "
            f'{known.info.extra["source"]} and run "mgcface models install {name} --from FILE".'
        )
    if source is not None and not Path(source).exists():
        raise ModelError(f"{source} does not exist; name the file or folder of {name}.")
    reference = get_model(DEFAULT_MODEL)
    with _workshop() as folder:
        start = 0.0
        if source is None:
            source = _download(name, folder, base_url, lambda done, text: progress(DOWNLOAD_SHARE * done, text), cancel)
            start = DOWNLOAD_SHARE
        span = (1.0 - start) * READ_SHARE / (1.0 - DOWNLOAD_SHARE)
        model = _read(name, Path(source), lambda done, text: progress(start + span * done, text), cancel)
        _check(cancel)
        progress(start + span, "landmarks and regions")
        model = complete(model, reference)
        _check(cancel)
        save_model(model, target)
    progress(1.0, "installed")
    return target


def _workshop() -> tempfile.TemporaryDirectory:
    """A temporary folder on the disk that the model will lie on, removed whatever happens."""
    try:
        models_folder().mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".install-", dir=models_folder())
    except OSError as error:
        raise OutputError(f"{models_folder()} cannot be written ({error.strerror}); check its permissions.") from error


def _download(name: str, folder: str, base_url: str | None, progress: Progress, cancel: Cancel) -> Path:
    if name == gnm_head.NAME:
        fetch_all(base_url or GNM_URL, GNM_FILES, Path(folder), progress, cancel)
        return Path(folder) / GNM_FILES[0].path
    manifest = json.loads(ICT_MANIFEST.read_text("utf-8"))
    files = [RemoteFile(path, entry["bytes"], entry["sha256"]) for path, entry in manifest["files"].items()]
    fetch_all(base_url or manifest["url"], files, Path(folder), progress, cancel)
    return Path(folder)


def _read(name: str, source: Path, progress: Progress, cancel: Cancel) -> FaceModel:
    readers: dict[str, Callable[[], FaceModel]] = {
        ict_facekit.NAME: lambda: read_ict_facekit(source, progress, cancel),
        gnm_head.NAME: lambda: read_gnm_head(source),
        flame.OPEN_NAME: lambda: read_flame(source, open_licence=True),
        flame.NAME: lambda: read_flame(source),
        bfm09.NAME: lambda: read_bfm09(source),
    }
    progress(0.0, f"reading {source.name}")
    return readers[name]()


def _renamed(model: FaceModel, name: str) -> ModelInfo:
    return replace(model.info, name=name)


def _check(cancel: Cancel) -> None:
    if cancel():
        raise Cancelled("The installation was cancelled; nothing was installed.")
