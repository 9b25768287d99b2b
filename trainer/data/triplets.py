"""Who is in a triplet of pictures, what their face does, where cameras and lamps are: all that is true of it.

Everything is a function of a seed and the number of the batch, so that a training run that stops and goes on sees
the same people as one that never stopped, and several processes share the work without talking.

Symbols: B triplets, N views of each, P = B N pictures, I identity modes, E expressions, A albedo modes, L landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backend.face_model.albedo import Albedo
from backend.face_model.model import FaceModel
from backend.geometry.rotation import matrix_from_rotation_vector, rotation_from_head_euler
from backend.rendering.shade import A0, A1, A2
from trainer.data.people import IDENTITY_SIGMA, draw_expression
from trainer.losses.flags import ANYBODY, ONE_MOMENT, ONE_PERSON

VIEWS = 3

# Expressions that are drawn ahead; each picture shows one of them, some weaker.
EXPRESSIONS = 1024

# Part of the people that wear a painted look where the model has an albedo: brows, beards and make-up vary more there
# than on the people that an albedo was learned from.
PAINTED = 0.3

# Part of them that close their lips over an open jaw.
CLOSED_LIPS = 0.04

# Yaw: of the triplet's middle, evenly, and of each view about it, degrees; and the furthest that a view turns.
MIDDLE_YAW, YAW_SIGMA, LARGEST_YAW = 55.0, 28.0, 95.0
PITCH_SIGMA, ROLL_SIGMA = 13.0, 12.0

# Distance of the camera, metres: the median, the spread of its logarithm, and from selfie to telephoto.
DISTANCE, DISTANCE_SPREAD, DISTANCE_RANGE = 0.9, 0.75, (0.22, 8.0)

# Part of the pictures in hard light, and how much of the even light is left there: portraits in the open have more
# contrast than an even part that is nearly always there allows.
HARD, HARD_EVEN = 0.35, 0.2

# Angular radius of the largest lamp, degrees, as a window or an umbrella has it; part of the pictures with shadows.
LARGEST_LAMP, SHADOWED = 60.0, 0.5

# How far a crop is off from where it should be, since landmarks are found and not known: in parts of its
# side, as a factor, and radians.
OFF_PLACE, OFF_SIZE, OFF_ANGLE = 0.04, 0.07, 0.12

# Linear brightness that the meter of a camera aims at for a face, how much of the difference it closes, and
# how far photographers go off from that, natural logarithm.
METERED, METERING, EXPOSED = 0.28, 0.7, 0.25


@dataclass(frozen=True)
class Scene:
    """The truth of B triplets, before anything is drawn.

    Attributes
    ----------
    identity : (B, I) float64
        Standard deviations.
    expression : (B, N, E) float64
    albedo : (B, A) float64
        Standard deviations.
    painted : (B,) bool
        The head wears a painted look and nothing of this albedo.
    light : (B, N, 3, 9) float64
        Of model space, before the camera's exposure.
    key : (B, N, 8) float64
        The lamp that throws shadows, see :class:`Light`.
    exposure : (B, N, 3) float64
        Factors of the light, from the photographer and the white balance.
    R : (B, N, 3, 3) float64
    distance : (B, N) float64
        Metres to the plane of the reference point.
    off : (B, N, 4) float64
        How the crop is off: x, y in sides, logarithm of its size, radians.
    flags : (B,) int64
        See ``trainer/losses/flags.py``: one moment seen by three cameras, one sitting in which the face moves,
        or three days with other light.
    """

    identity: np.ndarray
    expression: np.ndarray
    albedo: np.ndarray
    painted: np.ndarray
    light: np.ndarray
    key: np.ndarray
    exposure: np.ndarray
    R: np.ndarray
    distance: np.ndarray
    off: np.ndarray
    flags: np.ndarray

    @property
    def moved(self) -> np.ndarray:
        """(B,) bool: the face moved between the views."""
        return self.flags != ONE_MOMENT


class People:
    """Draws scenes with people of one face model.

    Parameters
    ----------
    model : FaceModel
    seed : int
        Also tells sets apart: training and validation have different ones.
    one_moment, one_sitting : float
        Parts of the triplets that show one moment, and one sitting; the rest are of different days.
    skins : Albedo, optional
        The statistical albedo beside the model, which knows the usual skins of every tone.
    """

    def __init__(
        self, model: FaceModel, seed: int, one_moment: float, one_sitting: float, skins: Albedo | None = None
    ) -> None:
        self.skins = skins
        self.seed, self.one_moment, self.one_sitting = seed, one_moment, one_sitting
        self.modes = len(model.identity)
        self.albedo_modes = 0 if model.albedo_basis is None else len(model.albedo_basis)
        rng = np.random.default_rng([seed, 0])
        self.unit = model.expression_limits == "unit"
        if self.unit:
            self.expressions = np.stack([draw_expression(model, rng) for _ in range(EXPRESSIONS)])
            close_lips(self.expressions, model.expression_names, rng)
        else:
            self.expressions = rng.normal(0.0, 1.0, (EXPRESSIONS, len(model.expression)))

    def rng(self, batch: int) -> np.random.Generator:
        """The dice of one batch; whoever throws them first must always be the same."""
        return np.random.default_rng([self.seed, 1, batch])

    def draw(self, count: int, rng: np.random.Generator) -> Scene:
        """The truth of ``count`` triplets."""
        kind = rng.random(count)
        moment, sitting = kind < self.one_moment, kind < self.one_moment + self.one_sitting
        flags = np.where(moment, ONE_MOMENT, np.where(sitting, ONE_PERSON, ANYBODY))
        shape = (count, VIEWS)

        def same(values: np.ndarray, where: np.ndarray) -> np.ndarray:
            """The first view's for all views of the triplets ``where``."""
            return np.where(where.reshape(-1, *[1] * (values.ndim - 1)), values[:, :1], values)

        strength = np.where(rng.random(shape) < 0.7, 1.0, rng.uniform(0.0, 1.0, shape))[..., None]
        shown = self.expressions[rng.integers(len(self.expressions), size=shape)] * strength
        lights = [draw_light(rng) for _ in range(count * VIEWS)]
        light = np.stack([light.harmonics for light in lights]).reshape(*shape, 3, 9)
        key = np.stack([light.key for light in lights]).reshape(*shape, -1)
        exposure = np.exp(rng.normal(0.0, EXPOSED, (*shape, 1)) + rng.normal(0.0, 0.06, (*shape, 3)))
        yaw = rng.uniform(-MIDDLE_YAW, MIDDLE_YAW, (count, 1)) + rng.normal(0.0, YAW_SIGMA, shape)
        pitch, roll = rng.normal(0.0, PITCH_SIGMA, shape), rng.normal(0.0, ROLL_SIGMA, shape)
        angles = np.stack([yaw.clip(-LARGEST_YAW, LARGEST_YAW), pitch, roll], axis=-1).reshape(-1, 3)
        R = np.stack([rotation_from_head_euler(*angle) for angle in angles.tolist()]).reshape(*shape, 3, 3)
        distance = DISTANCE * np.exp(rng.normal(0.0, DISTANCE_SPREAD, shape))
        return Scene(
            identity=rng.normal(0.0, IDENTITY_SIGMA, (count, self.modes)),
            expression=same(shown, moment),
            albedo=self.skins.draw(rng, count) if self.skins else rng.normal(0.0, 1.0, (count, self.albedo_modes)),
            painted=rng.random(count) < (PAINTED if self.skins else float(not self.albedo_modes)),
            light=same(light, sitting),
            key=same(key, sitting),
            exposure=same(exposure, sitting),
            R=R,
            distance=distance.clip(*DISTANCE_RANGE),
            off=rng.normal(0.0, 1.0, (*shape, 4)) * [OFF_PLACE, OFF_PLACE, OFF_SIZE, OFF_ANGLE],
            flags=flags,
        )


def close_lips(expressions: np.ndarray, names: tuple[str, ...], rng: np.random.Generator) -> None:
    """Open some jaws (of the rows of (E', E)) behind lips that are closed over them, which chance hardly ever does."""
    if "jawOpen" in names and "mouthClose" in names:
        rows = np.flatnonzero(rng.random(len(expressions)) < CLOSED_LIPS)
        jaw = rng.beta(1.2, 2.0, len(rows))
        expressions[rows, names.index("jawOpen")] = jaw
        expressions[rows, names.index("mouthClose")] = jaw * rng.uniform(0.3, 1.0, len(rows))


def directional_light(direction: np.ndarray) -> np.ndarray:
    """(..., 3) unit vectors towards lamps -> (..., 9) light of unit strength.

    What a surface gets is ``max(0, n . d)``, whose bands are 1/4, n . d / 2 and 5/32 (3 (n . d)^2 - 1)
    (Ramamoorthi and Hanrahan 2001, "An Efficient Representation for Irradiance Environment Maps", with the
    cosine lobe), here in the constants of :func:`backend.rendering.shade.sh_basis`.
    """
    x, y, z = np.moveaxis(np.asarray(direction, np.float64), -1, 0)
    first, second = 0.5 / A1, 15.0 / 16.0 / A2
    root = 2.0 * 3.0**0.5
    values = [
        np.full_like(x, 0.25 / A0),
        -first * y,
        first * z,
        -first * x,
        second * x * y,
        -second * y * z,
        second / root * (3.0 * z * z - 1.0),
        -second * x * z,
        second / 2.0 * (x * x - y * y),
    ]
    return np.stack(values, axis=-1)


def area_light(direction: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """(..., 3) towards round lamps, (...,) angular radii -> (..., 9) light of unit strength.

    A cap of the sphere is the lamp in its middle with the bands l = 1, 2 smaller: by the integrals of the Legendre
    polynomials over the cap, (1 + cos a) / 2 and cos a (1 + cos a) / 2.
    """
    cos = np.cos(radius)[..., None]
    first, second = (1.0 + cos) / 2.0, cos * (1.0 + cos) / 2.0
    bands = np.concatenate([np.ones_like(cos), *[first] * 3, *[second] * 5], axis=-1)
    return bands * directional_light(direction)


@dataclass(frozen=True)
class Light:
    """Even light and lamps.

    Attributes
    ----------
    harmonics : (3, 9) float64
        All of it, of nobody's shadow.
    key : (8,) float64
        Towards the strongest lamp (3), its colour (3), its angular radius, and how much of it shadows take.
    """

    harmonics: np.ndarray
    key: np.ndarray


def draw_light(rng: np.random.Generator) -> Light:
    """Even light, plus one to three lamps, mostly before and above the face, each with a colour and a size."""
    ambient = np.zeros((3, 9))
    even = rng.uniform(0.1, 0.7) * (HARD_EVEN if rng.random() < HARD else 1.0)
    ambient[:, 0] = even / A0 * rng.normal(1.0, 0.05, 3)
    lamps = rng.integers(1, 4)
    strength = rng.uniform(0.2, 1.0, lamps) / lamps
    direction = rng.normal([0.0, 0.35, 0.6], [0.8, 0.5, 0.7], (lamps, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    colour = strength[:, None] * rng.normal(1.0, 0.08, (lamps, 3))
    radius = np.radians(LARGEST_LAMP) * rng.uniform(0.0, 1.0, lamps) ** 2
    first = int(strength.argmax())
    taken = rng.uniform(0.5, 1.0) if rng.random() < SHADOWED else 0.0
    return Light(
        ambient + np.einsum("lc,lk->ck", colour, area_light(direction, radius)),
        np.concatenate([direction[first], colour[first], [radius[first], taken]]),
    )


def roll(angle: np.ndarray) -> np.ndarray:
    """(...,) radians -> (..., 3, 3) turn about the camera's axis, clockwise in the picture."""
    return matrix_from_rotation_vector(angle[..., None] * np.array([0.0, 0.0, 1.0]))
