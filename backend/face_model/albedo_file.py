"""The file of an albedo: safetensors with JSON metadata, like the face model that it belongs to.

It lies beside the model's file, as ``<model>.albedo.safetensors``, and is read when :func:`get_albedo` is called.
A mode is two layers of int8 times a scale: a coarse picture of the whole texture, enlarged bilinearly, and on top of it
single texels of the face. Photos show no detail elsewhere, so nothing is lost and two thirds of the room are saved.

Symbols: S side of the texture, C side of the coarse layer, N fine texels, K modes, T tones.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from backend.errors import ModelError
from backend.face_model.albedo import Albedo
from backend.face_model.file_format import METADATA_KEY, write_atomically
from backend.face_model.model import SKIN, FaceModel, ModelInfo
from backend.face_model.registry import ALBEDO_SUFFIX, DEFAULT_MODEL, SUFFIX, find_model, get_model
from backend.face_model.validation import check_finite, check_range, check_shape, fail

FORMAT_VERSION = 1
KIND = "albedo"

# A coarse texel is 8 mm wide on the face of the default head: the completed skin around the face is as smooth.
COARSE = 64
LARGEST_INT8 = 127
# Texture coordinates are compared in steps of this, so that a rewritten file of the same head keeps its albedo.
LAYOUT_STEP = 1e-4

# What the file holds, with the axes of each tensor; numbers stand for themselves.
TENSORS: dict[str, tuple[type, str]] = {
    "mean": (np.float16, "S S 3"),
    "coarse": (np.int8, "K C C 3"),
    "coarse_scale": (np.float32, "K"),
    "texels": (np.int32, "N"),
    "fine": (np.int8, "K N 3"),
    "fine_scale": (np.float32, "K"),
    "sigma": (np.float32, "K"),
    "tones": (np.float32, "T"),
    "tone_curve": (np.float32, "T K"),
    "tone_spread": (np.float32, "2 K"),
}


_read: dict[tuple[str, int, int], Albedo] = {}
_lock = threading.Lock()


def albedo_path(name_or_path: str | Path) -> Path:
    """Where the albedo of a model lies or would lie: beside the model."""
    path = find_model(name_or_path)
    return path.with_name(path.name.removesuffix(SUFFIX) + ALBEDO_SUFFIX)


def get_albedo(name_or_path: str | Path = DEFAULT_MODEL) -> Albedo | None:
    """The statistical albedo of a model, None where it has none; read once per process, and again when it changes.

    The arrays are shared between all callers and must not be written to.

    Raises
    ------
    ModelError
        The model or its albedo cannot be used, or they do not belong together.
    """
    path = albedo_path(name_or_path)
    if not path.is_file():
        return None
    status = path.stat()
    key = (str(path.resolve()), status.st_mtime_ns, status.st_size)
    with _lock:
        if key not in _read:
            for old in [other for other in _read if other[0] == key[0]]:
                del _read[old]
            _read[key] = load_albedo(path)
        albedo = _read[key]
    model = get_model(name_or_path)
    if albedo.layout != layout_of(model):
        raise ModelError(
            f"The albedo {path} was made for a head whose texture is laid out otherwise than that of "
            f"{model.info.name}; build it again for this head."
        )
    return albedo


def layout_of(model: FaceModel) -> str:
    """A short name of a model's skin layout: equal for models whose skins lie alike in the texture."""
    corners = model.face_uv[model.face_material == model.materials.index(SKIN)]
    places = np.where((corners >= 0)[..., None], np.rint(model.uv[corners] / LAYOUT_STEP), -1)
    return hashlib.sha256(places.astype("<i4").tobytes()).hexdigest()[:16]


def save_albedo(albedo: Albedo, fine: np.ndarray, path: str | Path) -> None:
    """Write an albedo; the file appears whole or not at all, and equal ones give equal bytes.

    ``fine`` (S, S) bool are the texels that keep their detail.
    """
    steps, scale = coarse_layer(albedo.modes)
    fine_steps, fine_scale = quantize8(coarse_rest(albedo.modes)[:, fine])
    tensors = {
        "mean": albedo.mean,
        "coarse": steps,
        "coarse_scale": scale,
        "texels": np.flatnonzero(fine),
        "fine": fine_steps,
        "fine_scale": fine_scale,
        **{name: getattr(albedo, name) for name in ("sigma", "tones", "tone_curve", "tone_spread")},
    }
    content = {name: np.ascontiguousarray(tensors[name], dtype) for name, (dtype, _) in TENSORS.items()}
    metadata = {
        "format_version": FORMAT_VERSION,
        "kind": KIND,
        "info": asdict(albedo.info),
        "layout": albedo.layout,
        "modes": len(albedo.modes),
        "size": albedo.size,
        "units": {"mean": "linear RGB", "modes": "log of linear RGB per standard deviation", "tones": "degrees"},
    }
    write_atomically(Path(path), save(content, {METADATA_KEY: json.dumps(metadata, sort_keys=True)}))


def load_albedo(path: str | Path) -> Albedo:
    """Read an albedo and check that it holds together; :class:`ModelError` says in one sentence what is wrong."""
    path = Path(path)
    with _open(path) as file:
        metadata = _parse(file.metadata(), path)
        try:
            tensors = {name: file.get_tensor(name) for name in TENSORS}
        except SafetensorError as error:
            raise fail(path.name, f"a tensor of its albedo cannot be read ({error})") from error
    _check(tensors, path.name)
    size, modes = len(tensors["mean"]), len(tensors["sigma"])
    full = enlarged(tensors["coarse"], tensors["coarse_scale"], size).reshape(modes, size * size, 3)
    full[:, tensors["texels"]] += tensors["fine"] * tensors["fine_scale"][:, None, None]
    try:
        info, layout = ModelInfo(**metadata["info"]), str(metadata["layout"])
    except (KeyError, TypeError) as error:
        raise fail(path.name, f"its metadata lacks or garbles {error}") from error
    return Albedo(
        info,
        layout,
        tensors["mean"].astype(np.float32),
        full.reshape(modes, size, size, 3),
        **{name: tensors[name] for name in ("sigma", "tones", "tone_curve", "tone_spread")},
    )


def read_albedo_metadata(path: str | Path) -> dict:
    """``info``, ``layout``, ``modes`` and ``size`` of an albedo file, without its pictures."""
    path = Path(path)
    with _open(path) as file:
        return _parse(file.metadata(), path)


def coarse_layer(modes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K, S, S, 3) -> (K, C, C, 3) int8 and (K,) scale."""
    # Only who builds an albedo needs it; who reads one may be a training machine without OpenCV.
    import cv2

    return quantize8(np.stack([cv2.resize(mode, (COARSE, COARSE), interpolation=cv2.INTER_AREA) for mode in modes]))


def coarse_rest(modes: np.ndarray) -> np.ndarray:
    """(K, S, S, 3): what the coarse layer leaves of the modes."""
    return modes - enlarged(*coarse_layer(modes), modes.shape[1])


def quantize8(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K, ..., 3) float -> int8 of that shape and (K,) float32 scale; off by at most half a scale."""
    axes = tuple(range(1, values.ndim))
    scale = (np.abs(values).max(axis=axes, initial=0.0) / LARGEST_INT8).astype(np.float32)
    divisor = np.where(scale > 0, scale, 1.0).reshape(-1, *[1] * len(axes))
    return np.clip(np.rint(values / divisor), -LARGEST_INT8, LARGEST_INT8).astype(np.int8), scale


def enlarged(coarse: np.ndarray, scale: np.ndarray, size: int) -> np.ndarray:
    """(K, C, C, 3) int8 and (K,) -> (K, size, size, 3) float32, bilinear."""
    values = torch.from_numpy(coarse * scale[:, None, None, None].astype(np.float32)).permute(0, 3, 1, 2)
    result = torch.nn.functional.interpolate(values, size=(size, size), mode="bilinear", align_corners=False)
    return result.permute(0, 2, 3, 1).contiguous().numpy()


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="numpy")
    except OSError as error:
        raise ModelError(f"The albedo {path} cannot be read ({error.strerror}); check the path.") from error
    except SafetensorError as error:
        raise ModelError(f"{path} is not an albedo or is damaged ({error}); build or copy it again.") from error


def _parse(metadata: dict[str, str] | None, path: Path) -> dict:
    try:
        parsed = json.loads((metadata or {})[METADATA_KEY])
        kind, version = parsed["kind"], int(parsed["format_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is a safetensors file of another kind and not an albedo; name another.") from error
    if kind != KIND:
        raise ModelError(f'{path} holds "{kind}" and not an albedo; name an albedo file.')
    if version > FORMAT_VERSION:
        raise ModelError(
            f"The albedo {path} has format {version} and this version reads up to {FORMAT_VERSION}; update mgcface."
        )
    return parsed


def _check(tensors: dict[str, np.ndarray], source: str) -> None:
    sizes: dict[str, int] = {}
    for name, (dtype, axes) in TENSORS.items():
        array = tensors[name]
        if array.dtype != dtype:
            raise fail(source, f'its tensor "{name}" holds {array.dtype} where {np.dtype(dtype)} is needed')
        wanted = tuple(int(axis) if axis.isdigit() else sizes.get(axis) for axis in axes.split())
        check_shape(array.shape, wanted, name, source)
        sizes |= {axis: length for axis, length in zip(axes.split(), array.shape) if not axis.isdigit()}
        if array.dtype.kind == "f":
            check_finite(array, name, source)
    check_shape(tensors["mean"].shape, (sizes["S"], sizes["S"], 3), "mean", source)
    check_shape(tensors["coarse"].shape, (sizes["K"], sizes["C"], sizes["C"], 3), "coarse", source)
    check_range(tensors["texels"], sizes["S"] ** 2, "texels", source)
    if sizes["T"] < 2 or (np.diff(tensors["tones"]) <= 0).any():
        raise fail(source, 'its tensor "tones" does not rise')
    if (tensors["mean"] <= 0).any() or (tensors["mean"] > 1).any():
        raise fail(source, 'its tensor "mean" holds light outside 0 to 1')
