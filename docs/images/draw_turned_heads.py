"""docs/images/turned-heads.jpg: invented people in profile or covered, their heads without and with the network.

python docs/images/draw_turned_heads.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from backend.export.overlay import overlay_image
from backend.geometry.rotation import rotation_from_head_euler
from backend.network.turned_heads import LANDMARK_SET
from backend.reconstruction.landmark_model import LandmarkModel
from backend.reconstruction.pipeline import Pipeline
from backend.vision.photo import Photo
from trainer.data.before_faces import DRAWN, Face
from trainer.data.painter import Painter
from trainer.data.people import draw_person, turned
from trainer.see_faces import true_landmarks

# Nobody else's seeds, with yaw in degrees and what stands before the face.
PEOPLE = ((9_710_002, 68.0, ""), (9_710_005, 75.0, ""), (9_710_003, -20.0, "mask"), (9_710_006, 15.0, "hand"))
SIZE, SHOWN = 700, 420
DOT = 1.5


def main() -> None:
    pipeline = Pipeline(texture_size=None)
    painter, rows = Painter(pipeline.model), []
    put_right = pipeline.turned_heads
    lm = LandmarkModel(pipeline.model, LANDMARK_SET, regress=False)
    for seed, yaw, before in PEOPLE:
        person = draw_person(pipeline.model, seed, size=SIZE, neutral=True)
        person = turned(person, rotation_from_head_euler(yaw))
        pixels = painter.paint(person, seed)
        if before:
            pixels = DRAWN[before][0](pixels, Face(true_landmarks(lm, person)), np.random.default_rng(seed))
        photo = Photo(pixels)
        panels = [Image.fromarray(photo.pixels)]
        for network in (None, put_right):
            pipeline.turned_heads = network
            head = pipeline.reconstruct_photo(photo)[0]
            dotted = Image.fromarray(photo.pixels)
            draw = ImageDraw.Draw(dotted)
            for x, y in head.landmarks[LANDMARK_SET]:
                draw.ellipse([x - DOT, y - DOT, x + DOT, y + DOT], fill=(120, 255, 160))
            clay = Image.fromarray(overlay_image(head, photo, None)[:, 486:966])
            panels += [dotted, clay]
        height = [panel.resize((round(panel.width * SHOWN / panel.height), SHOWN)) for panel in panels]
        rows.append(np.concatenate([np.asarray(panel) for panel in height], axis=1))
    picture = Image.fromarray(np.concatenate(rows))
    picture.save(Path(__file__).with_name("turned-heads.jpg"), quality=85)


if __name__ == "__main__":
    main()
