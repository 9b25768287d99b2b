"""Photometric refinement: the identity that explains the brightness of the skin in all photos of a person.

The landmark fit stays as what is known before. Then, for F points of bare skin and N photos (analysis by synthesis,
after Blanz and Vetter 1999; light by spherical harmonics after Ramamoorthi and Hanrahan 2001), brightness in
logarithms, where light and skin add up:

    r_nf = log I_n(p_n(X_f)) - log A_f - log(b(n_f) . gamma_n) - a_f

``I_n`` is the photo, blurred to the size of what a vertex can tell, ``p_n`` its camera, ``X_f`` and ``n_f`` point and
normal of the head under identity and the photo's expression, ``A_f`` the albedo of statistics (50 coefficients),
``gamma_n`` the photo's light, and ``a_f`` what this person's skin has that the statistics have not: the same in all
photos, so it is known better with each of them. It is eliminated in closed form. Unknowns are, for each photo, those of
the landmark fit and its light, and for all photos identity and albedo; steps are Gauss-Newton, dense, with Cauchy
weights: gloss, cast shadows, strands of hair and glasses do not pull. Skin is judged as for the texture, so hair, hands
and glasses that it finds do not count at all.

Landmarks keep pose, lens and expression where they are (the curvature of their cost at the start, without its
gradient); the identity is held as the regression's errors allow.

Symbols: N photos, F points, I identity modes, E expressions, K albedo modes, L = 7 + E + 9 unknowns of a photo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np

from backend.errors import PhotoError
from backend.face_model.model import FaceModel
from backend.geometry.camera import Camera, intrinsics
from backend.reconstruction.fit import FitResult, Fitter
from backend.reconstruction.joint import JointFit, JointProblem, fit_to_identity
from backend.reconstruction.landmark_cost import Observation
from backend.reconstruction.photometric_face import face_of
from backend.reconstruction.photometric_offset import offsets
from backend.reconstruction.photometric_solve import Shot, Solve, Unknowns
from backend.reconstruction.skin_statistics import LUMINANCE
from backend.reconstruction.texture import judge
from backend.reconstruction.texture_view import look
from backend.reconstruction.texture_views import most_telling
from backend.rendering.tone import srgb_to_linear
from backend.vision.photo import Photo

# Standard deviation of the blur of the photos in each step, millimetres on the face: from the size of a landmark fit's
# errors to the distance between vertices.
BLURS_MM = (3.0, 3.0, 1.5, 1.5)
# Points seen less than this well do not count; with fewer than so many points in a photo it says nothing.
LEAST_SEEN, LEAST_POINTS = 0.15, 300
# More photos would say little more; the rest follows.
MOST_PHOTOS = 12
# Linear brightness added before logarithms: noise of dark pixels.
DARK = 0.005
# The refined head is not taken where landmarks lie this many times as far off as before.
WORSE_LANDMARKS = 2.0


def refine_photos(
    fitter: Fitter,
    observations: Sequence[Observation],
    fit: JointFit,
    photo: Callable[[int], Photo | None],
    hear: Callable[[float], None] | None = None,
) -> JointFit:
    """The fit of N photos of one person, refined by those that show enough skin.

    Parameters
    ----------
    fitter : Fitter
        Of a head with statistics of skin.
    observations : sequence of N Observation
        What ``fit`` was solved from.
    fit : JointFit
    photo : callable
        The pixels of each photo, asked for one after the other; at most :data:`MOST_PHOTOS` of them.
    hear : callable, optional
        Hears the finished part and may raise to stop.

    Returns
    -------
    JointFit
        ``fit`` itself where no photo shows enough skin, or where landmarks fit much worse after it.
    """
    hear = hear or (lambda _: None)
    shots: dict[int, Shot] = {}
    chosen = best_shown(fit.photos)
    for count, place in enumerate(chosen):
        hear(0.5 * count / len(chosen))
        pixels = photo(place)
        shot = None if pixels is None else shoot(fitter.lm.model, pixels.pixels, fit.photos[place])
        if shot is not None:
            shots[place] = shot
    if not shots:
        return fit
    seen = [observations[place] for place in shots]
    # Those of one photo hold its own errors, too.
    places = fit.places if len(fit.photos) > 1 else None
    before = JointFit(fit.identity, fit.sigma_identity, [fit.photos[place] for place in shots], places=places)
    after = refine(fitter, seen, before, list(shots.values()), lambda part: hear(0.5 + 0.5 * part))
    if after is before:
        return fit
    photos = dict(zip(shots, after.photos))
    # The others keep to the identity that these brought.
    rest = [place for place in range(len(fit.photos)) if place not in photos]
    if rest:
        follow = fit_to_identity(fitter, [observations[place] for place in rest], after.identity, places)
        photos |= {place: replace(one, sigma_identity=after.sigma_identity) for place, one in zip(rest, follow)}
    every = [photos[place] for place in range(len(fit.photos))]
    return JointFit(after.identity, after.sigma_identity, every, after.offset, fit.places)


def best_shown(fits: Sequence[FitResult]) -> list[int]:
    """The photos to refine by: all, or of many those that add most, as for the texture."""
    toward = np.array([-fit.R[2] for fit in fits])
    return most_telling(toward, np.array([fit.focal_px / fit.t[2] for fit in fits]), MOST_PHOTOS)


def shoot(model: FaceModel, pixels: np.ndarray, fit: FitResult) -> Shot | None:
    """Judge one photo (H, W, 3) uint8 with the head where the landmarks put it; None where it shows too little skin."""
    face = face_of(model)
    assert face is not None
    height, width = pixels.shape[:2]
    camera = Camera(intrinsics(fit.focal_px, width, height), fit.R, fit.t, width, height)
    try:
        view = look(pixels, camera, model, face.surface, model.vertices(fit.identity, fit.expression), None)
    except PhotoError:
        return None
    # Where a beard may grow, dark things are taken for one: fingers over a mouth. Neither shows the form of the skin.
    shaven = replace(face.surface, beard=np.zeros_like(face.surface.beard))
    shown = judge(view, camera, model, shaven)[2]
    seen = (shown * np.clip(view.facing, 0.0, 1.0))[face.vertices] * face.weight
    seen = np.where(seen < LEAST_SEEN, 0.0, seen)
    if (seen > 0).sum() < LEAST_POINTS:
        return None
    log = np.log(srgb_to_linear(view.image) @ LUMINANCE.astype(np.float32) + DARK)
    pixel_mm = 1e3 * float(np.median(view.depth)) / (camera.focal_px * view.scale)
    levels = {blur: _level(log, blur / pixel_mm) for blur in set(BLURS_MM)}
    scale = np.array(view.image.shape[1::-1]) / view.pixels.shape[1::-1]
    to_analysis = np.column_stack([np.diag(scale), -scale * [view.left, view.top] - 0.5])
    return Shot(width, height, levels, seen, to_analysis)


def _level(log: np.ndarray, sigma_px: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    smooth = cv2.GaussianBlur(log, (0, 0), max(sigma_px, 0.6))
    across, down = (cv2.Sobel(smooth, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1)))
    return smooth, across, down


def refine(
    fitter: Fitter,
    observations: Sequence[Observation],
    fit: JointFit,
    shots: Sequence[Shot],
    step_done: Callable[[float], None] | None = None,
) -> JointFit:
    """The fit of N photos, refined.

    Parameters
    ----------
    fitter : Fitter
    observations : sequence of N Observation
        What ``fit`` was solved from.
    fit : JointFit
    shots : sequence of N Shot
    step_done : callable, optional
        Hears the finished part after each step and may raise to stop.

    Returns
    -------
    JointFit
        ``fit`` itself where landmarks fit much worse after it.
    """
    face = face_of(fitter.lm.model)
    assert face is not None
    problem = JointProblem(fitter, observations)
    problem.believe()
    problem.take_places(fit.places)
    unknowns = Unknowns.of(fit, face)
    held = problem.equations(unknowns.state(fitter)).local.cpu().numpy()
    done = [0.0]
    alive = (lambda: step_done(done[0])) if step_done else (lambda: None)
    solve = Solve(fitter, face, list(shots), unknowns, held, problem.prior.covariance.cpu().numpy(), alive)
    for count, blur in enumerate(BLURS_MM):
        solve.step(blur)
        done[0] = (count + 1) / len(BLURS_MM)
        alive()
    if not np.isfinite(solve.now.identity).all():
        return fit
    found = problem.joint_result(solve.now.state(fitter), fit.photos[0].iterations, fit.photos[0].converged)
    before, after = (_away(observations, each) for each in (fit, found))
    if after > WORSE_LANDMARKS * before:
        return fit
    sigma = np.minimum(fit.sigma_identity, solve.sigma).astype(np.float32)
    offset = offsets(fitter.lm.model, face, solve.now.identity, solve.rows(BLURS_MM[-1])).astype(np.float32)
    photos = [replace(photo, sigma_identity=sigma) for photo in found.photos]
    return JointFit(found.identity, sigma, photos, offset, fit.places)


def _away(observations: Sequence[Observation], fit: JointFit) -> float:
    """Median distance of landmarks over all photos, in heights of their faces."""
    apart = [
        np.linalg.norm(photo.projected - seen.landmarks, axis=1) / np.ptp(seen.landmarks[:, 1])
        for seen, photo in zip(observations, fit.photos)
    ]
    return float(np.median(np.concatenate(apart)))
