"""What ``mgcface models list | info | install`` does, as plain data for whoever draws it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backend.face_model.download import Cancel, Progress
from backend.face_model.install import install_model
from backend.face_model.model import ModelInfo
from backend.face_model.registry import ModelEntry, find_model, get_model, known_models, list_models, model_path


def models_table() -> list[dict[str, Any]]:
    """One row per model: ``name, installed, version, licence, commercial, terms, source, size_mb, path, problem``.

    ``path`` is None and ``size_mb`` 0 while a model is not installed; ``problem`` is empty unless an
    installed file cannot be used. All values are ready for JSON.
    """
    return [_row(entry) for entry in list_models()]


def model_details(name: str | Path) -> dict[str, Any]:
    """Everything worth knowing of one model or model file, ready for JSON.

    Of a model that is known but not installed: its licence, terms and how to get it (``installed`` is
    false and what only the file can tell is missing). An installed file is read whole, so a damaged one
    raises :class:`backend.errors.ModelError`.
    """
    known = known_models().get(str(name))
    if known is not None and not model_path(known.info.name).is_file():
        how = "" if known.download_bytes else " --from FILE"
        return {
            **_about(known.info),
            "installed": False,
            "source": known.source,
            "download_mb": _megabytes(known.download_bytes),
            "install": f"mgcface models install {known.info.name}{how}",
            **_remarks(known.info),
        }
    path = find_model(name)
    model = get_model(name)
    return {
        **_about(model.info),
        "installed": True,
        "path": str(path),
        "size_mb": _megabytes(path.stat().st_size),
        "vertices": model.vertex_count,
        "faces": len(model.faces),
        "quads": int((model.faces[:, 3] >= 0).sum()),
        "materials": list(model.materials),
        "identity_modes": len(model.identity),
        "expressions": list(model.expression_names),
        "expression_limits": model.expression_limits,
        "landmarks": {name: len(embedding.corners) for name, embedding in model.landmarks.items()},
        "regions": {name: int(mask.sum()) for name, mask in sorted(model.regions.items())},
        "mirror": model.mirror is not None,
        "albedo_modes": 0 if model.albedo_basis is None else len(model.albedo_basis),
        **_texture_albedo(name),
        **_remarks(model.info),
    }


def _about(info: ModelInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "version": info.version,
        "licence": info.licence,
        "commercial": info.commercial,
        "terms": info.terms,
        "attribution": info.attribution,
    }


def _texture_albedo(name: str | Path) -> dict[str, Any]:
    """What is known of the albedo beside a model, under the key ``texture_albedo``; nothing where there is none."""
    # Imported here: it brings PyTorch, which listing models never needs.
    from backend.face_model.albedo_file import albedo_path, read_albedo_metadata

    path = albedo_path(name)
    if not path.is_file():
        return {}
    about = read_albedo_metadata(path)
    info = ModelInfo(**about["info"])
    rights = {"licence": info.licence, "terms": info.terms, "attribution": info.attribution}
    return {"texture_albedo": {"modes": about["modes"], "size": about["size"], **rights}}


def _remarks(info: ModelInfo) -> dict[str, Any]:
    extra = dict(info.extra)
    return {"notes": list(extra.pop("notes", [])), "extra": extra}


def install(
    name: str,
    source: str | Path | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    base_url: str | None = None,
) -> dict[str, Any]:
    """Install a model, see :func:`backend.face_model.install.install_model`; its row of the table on success."""
    install_model(name, source, progress, cancel, base_url)
    return next(row for row in models_table() if row["name"] == name)


def _row(entry: ModelEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "installed": entry.path is not None and not entry.problem,
        "version": entry.version,
        "licence": entry.licence,
        "commercial": entry.commercial,
        "terms": entry.terms,
        "source": entry.source,
        "size_mb": _megabytes(entry.size_bytes),
        "path": None if entry.path is None else str(entry.path),
        "problem": entry.problem,
    }


def _megabytes(count: int) -> float:
    return round(count / 1e6, 1)
