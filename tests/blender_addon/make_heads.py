"""What the backend would send for a photo, and what the engine itself draws of it, for tests inside Blender.

    python make_heads.py OUT    writes OUT/model.npz, OUT/face.npz, OUT/truth.npz and photos

Blender's Python has no engine, so the messages travel as files with the same headers and arrays. The head is
that of the public-domain astronaut.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from backend.export.eye_texture import eye_texture  # noqa: E402
from backend.export.record import record_fields  # noqa: E402
from backend.face_model.model import FaceModel  # noqa: E402
from backend.reconstruction.pipeline import Pipeline  # noqa: E402
from backend.reconstruction.result import Reconstruction  # noqa: E402
from backend.rendering.rasterize import rasterize  # noqa: E402
from backend.rendering.transform import project_to_image  # noqa: E402

# A light from the subject's upper left, by hand, so that a test knows the answer (9, 3).
LIGHT = np.zeros((9, 3), np.float32)
LIGHT[0] = 0.7
LIGHT[1:4] = np.array([-0.15, 0.25, -0.2])[:, None]
# Counter-clockwise as Pillow turns, about the middle of the photo.
TILT_DEGREES = 8.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    photo = out / "astronaut.jpg"
    astronaut = Image.open(ROOT / "examples" / "astronaut.jpg")
    astronaut.save(photo, quality=95)
    write_photos(astronaut, out)
    outcome = next(iter(Pipeline(texture_size=1024).reconstruct_many([photo])))
    reconstruction = outcome.reconstructions[0]
    write_model(reconstruction.model, out / "model.npz")
    write_face(reconstruction, out / "face.npz")
    write_truth(reconstruction, out / "truth.npz")


def write_photos(astronaut: Image.Image, out: Path) -> None:
    """Photos as they come from phones, one with two faces, and two more of the same person."""
    from pillow_heif import from_pillow

    portrait = astronaut.crop((0, 0, 440, 512))
    from_pillow(portrait).save(out / "phone.heic", quality=90)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # lies on its side: the camera was held upright
    portrait.transpose(Image.Transpose.ROTATE_90).save(out / "turned.jpg", exif=exif, quality=95)
    astronaut.crop((60, 0, 440, 400)).save(out / "closer.jpg", quality=95)
    astronaut.rotate(TILT_DEGREES, Image.Resampling.BICUBIC).save(out / "tilted.jpg", quality=95)
    two = Image.new("RGB", (2 * astronaut.width, astronaut.height))
    two.paste(astronaut, (0, 0))
    two.paste(astronaut.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (astronaut.width, 0))
    two.save(out / "two.jpg", quality=95)


def write_model(model: FaceModel, path: Path) -> None:
    header = {
        "name": model.info.name,
        "version": model.info.version,
        "sha256": "0" * 64,
        "licence": model.info.licence,
        "terms": model.info.terms,
        "attribution": model.info.attribution,
        "expression_names": list(model.expression_names),
        "material_names": list(model.materials),
        "region_names": list(model.regions),
    }
    save(
        path,
        header,
        mean=model.mean,
        quads=model.faces,
        uv=model.uv,
        uv_quads=model.face_uv,
        material=model.face_material.astype(np.int32),
        expression=model.expression,
        regions=np.stack(list(model.regions.values())).astype(np.uint8),
    )


def write_face(reconstruction: Reconstruction, path: Path) -> None:
    header = {"photo": 0, "face": 0, "name": "astronaut", "record": record_fields(reconstruction)}
    texture = reconstruction.texture
    assert texture is not None
    save(
        path,
        header,
        neutral=reconstruction.neutral_vertices.astype(np.float32),
        texture=texture.color,
        confidence=texture.confidence,
        light=LIGHT,
        eye_texture=eye_texture(512),
    )


def write_truth(reconstruction: Reconstruction, path: Path) -> None:
    """The engine's silhouette (H, W) of the whole head in the photo, and where the landmarks fall (L, 2)."""
    model, camera = reconstruction.model, reconstruction.camera
    vertices = reconstruction.vertices.astype(np.float32)
    K, R, t = (torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in (camera.K, camera.R, camera.t))
    image = project_to_image(torch.from_numpy(vertices)[None], K, R, t)
    seen = rasterize(image, torch.from_numpy(model.triangles), camera.height, camera.width)
    embedding = model.landmarks["ibug68"]
    np.savez(
        path,
        silhouette=seen.triangle[0].numpy() >= 0,
        landmarks=camera.project(model.landmark_points(vertices, "ibug68")),
        corners=embedding.corners,
        weights=embedding.barycentric,
        vertices=vertices,
    )


def save(path: Path, header: dict, **arrays: np.ndarray) -> None:
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, header=text, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
