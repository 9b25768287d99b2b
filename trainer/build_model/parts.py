"""Eyeballs, teeth, gums and tongue: grids of quads laid on the source by casting rays.

Each part is made for the subject's left half, or symmetric by itself, and mirrored, so that the pairs
of :attr:`FaceModel.mirror` are known and not searched for.

Symbols: V vertices, F quads, S source vertices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_matrix, diags, vstack
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from backend.geometry.mesh import boundary_edges, triangulate
from trainer.build_model.atlas import packed_charts
from trainer.build_model.remesh import remesh
from trainer.build_model.shrinkwrap import cast_rays, closest_on_surface, rows_on_surface
from trainer.build_model.source import CENTIMETRE, GUMS_AND_TONGUE, LEFT_EYE_SHELL, MOUTH_SOCKET, TEETH, Source

# Eyeball: quads round the optical axis and the angles of its rings from the front pole, degrees. The
# third ring is the rim of the iris. It is open at the back, deep in the skull.
EYE_SEGMENTS = 32
EYE_CAP = 11.0
EYE_RINGS = (15.5, 20.0, 24.0, 28.5, 34.0, 41.0, 49.0, 58.0, 68.0, 79.0, 91.0, 104.0, 118.0, 133.0)
IRIS_ANGLE = 20.0

TOOTH_GRID = 4
# Instant Meshes is asked for this many vertices in half the gums; its last step makes about four times as
# many. Gum nearer to the tongue than the clearance is the source's tongue. Border vertices within reach
# of the mid-plane are laid onto it. Metres.
GUM_VERTICES = 120
TONGUE_CLEARANCE, MID_REACH, MID_SLACK = 0.0012, 0.0012, 1e-6
TONGUE_SEGMENTS, TONGUE_STEPS = 20, 14
# The tip of the tongue is as wide in the texture as this many rings.
TONGUE_TIP = 3


@dataclass(frozen=True)
class Part:
    """A piece of the head that hangs on nothing else.

    faces (F, 4), weights (V, S), mirror (V,), uv (U, 2) in the unit square, face_uv (F, 4); ``along``
    (V,) runs from 0 at the root of the tongue to 1 at its tip and is None elsewhere.
    """

    name: str
    faces: np.ndarray
    weights: csr_matrix
    mirror: np.ndarray
    uv: np.ndarray
    face_uv: np.ndarray
    along: np.ndarray | None = None


def full_mirror(source: Source) -> np.ndarray:
    """(S,) nearest vertex on the other side within the whole source."""
    return cKDTree(source.mean).query(source.mean * [-1.0, 1.0, 1.0])[1]


def both_sides(
    name: str,
    faces: np.ndarray,
    weights: csr_matrix,
    uvs: tuple[np.ndarray, np.ndarray],
    face_uv: np.ndarray,
    mirror: np.ndarray,
) -> Part:
    """A left piece and its mirror image as one part, each with its own texture coordinates."""
    count = weights.shape[0]
    pairs = np.concatenate([np.arange(count) + count, np.arange(count)])
    # Mirroring turns the faces inside out; the order 0 3 2 1 turns them back and keeps the diagonal.
    turn = [0, 3, 2, 1]
    return Part(
        name,
        np.concatenate([faces, faces[:, turn] + count]),
        vstack([weights, weights[:, mirror]]).tocsr(),
        pairs,
        np.concatenate(uvs),
        np.concatenate([face_uv, face_uv[:, turn] + len(uvs[0])]),
    )


def side_by_side(uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two copies of a chart, the second mirrored: the left and the right half of the unit square."""
    half = uv * [0.5, 1.0]
    middle = np.array([0.5, 0.0])
    return middle + half, middle + half * [-1.0, 1.0]


def disc_grid(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A square grid of quads bent into the unit disc (Shirley and Chiu 1997).

    Returns points ((size + 1)^2, 2), quads (size^2, 4) and the rim (4 size,) counter-clockwise from
    the corner at 225 degrees.
    """
    line = np.linspace(-1.0, 1.0, size + 1)
    x, y = np.meshgrid(line, line)
    wide = np.abs(x) > np.abs(y)
    radius = np.where(wide, x, y)
    with np.errstate(divide="ignore", invalid="ignore"):
        angle = np.where(wide, np.pi / 4 * y / x, np.pi / 2 - np.pi / 4 * x / y)
    angle = np.where(radius == 0, 0.0, angle)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(-1, 2)
    index = np.arange((size + 1) ** 2).reshape(size + 1, size + 1)
    quads = np.stack([index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]], axis=-1).reshape(-1, 4)
    rim = np.concatenate([index[0, :-1], index[:-1, -1], index[-1, :0:-1], index[:0:-1, 0]])
    return points, quads, rim


def dome_grid(size: int, rings: int) -> tuple[np.ndarray, np.ndarray]:
    """A disc grid with ``rings`` more rings of quads round its rim.

    Returns (V, 3) with x, y the direction from the centre times the radius in the disc (0 to 1) and z
    the ring (0 in the disc, 1 ... outside), and the quads.
    """
    disc, quads, rim = disc_grid(size)
    direction = disc[rim] / np.linalg.norm(disc[rim], axis=1, keepdims=True)
    points = [np.column_stack([disc, np.zeros(len(disc))])]
    inner, faces = rim, [quads]
    for ring in range(1, rings + 1):
        outer = len(disc) + (ring - 1) * len(rim) + np.arange(len(rim))
        points.append(np.column_stack([direction, np.full(len(rim), ring)]))
        faces.append(np.stack([inner, outer, np.roll(outer, -1), np.roll(inner, -1)], axis=1))
        inner = outer
    return np.concatenate(points), np.concatenate(faces)


def fit_sphere(points: np.ndarray) -> np.ndarray:
    """(3,) centre of the sphere nearest to points in the algebraic sense."""
    return np.linalg.lstsq(np.column_stack([2 * points, np.ones(len(points))]), (points**2).sum(1), rcond=None)[0][:3]


def left_eye_frame(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Centre (3,) of the left eyeball and its axis (3,) through the front of the cornea."""
    shell = source.mean[LEFT_EYE_SHELL]
    centre = fit_sphere(shell[shell[:, 2] < fit_sphere(shell)[2]])
    axis = shell[shell[:, 2].argmax()] - centre
    return centre, axis / np.linalg.norm(axis)


def eyeballs(source: Source, mirror: np.ndarray) -> Part:
    """Both eyeballs, cornea included; ``uv`` is Lambert's azimuthal equal-area map round the axis."""
    centre, axis = left_eye_frame(source)
    grid, faces = dome_grid(EYE_SEGMENTS // 4, len(EYE_RINGS))
    ring = grid[:, 2].astype(int)
    radius = np.linalg.norm(grid[:, :2], axis=1)
    angle = np.radians(np.where(ring == 0, EYE_CAP * radius, np.array((0.0, *EYE_RINGS))[ring]))
    around = np.arctan2(grid[:, 1], grid[:, 0])
    right = np.cross([0.0, 1.0, 0.0], axis)
    right /= np.linalg.norm(right)
    up = np.cross(axis, right)
    plane = np.cos(around)[:, None] * right + np.sin(around)[:, None] * up
    directions = np.cos(angle)[:, None] * axis + np.sin(angle)[:, None] * plane
    triangles = source.part_triangles(LEFT_EYE_SHELL)
    hit, barycentric, _ = cast_rays(np.broadcast_to(centre, directions.shape), directions, source.mean, triangles)
    weights = rows_on_surface(triangles[hit], barycentric, len(source.mean))
    reach = 0.5 * np.sin(angle / 2)
    uv = np.stack([0.5 + reach * np.cos(around), 0.5 + reach * np.sin(around)], axis=1)
    return both_sides("eyes", faces, weights, (uv, [1.0, 0.0] + uv * [-1.0, 1.0]), faces, mirror)


def tooth_components(source: Source) -> list[np.ndarray]:
    """Vertices of every tooth on the subject's left, front to back, upper teeth first."""
    faces = source.part_faces(TEETH)
    triangles = triangulate(faces)
    size = len(source.mean)
    graph = csr_matrix(
        (np.ones(len(triangles) * 2), (triangles[:, [0, 1]].T.ravel(), triangles[:, [1, 2]].T.ravel())), (size, size)
    )
    label = connected_components(graph, directed=False)[1][TEETH]
    teeth = [TEETH.start + np.flatnonzero(label == key) for key in np.unique(label)]
    left = [tooth for tooth in teeth if source.mean[tooth, 0].mean() > 0]
    middle = np.mean([source.mean[tooth, 1].mean() for tooth in left])
    return sorted(left, key=lambda tooth: (source.mean[tooth, 1].mean() < middle, -source.mean[tooth, 2].mean()))


def cube_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The surface of the cube [-1, 1]^3 as quads, (V, 3) and (F, 4), outward."""
    line = np.linspace(-1.0, 1.0, size + 1)
    u, v = np.meshgrid(line, line, indexing="ij")
    index = np.arange((size + 1) ** 2).reshape(size + 1, size + 1)
    quads = np.stack([index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]], axis=-1).reshape(-1, 4)
    points, faces = [], []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            side = np.empty((index.size, 3))
            side[:, axis], side[:, (axis + 1) % 3], side[:, (axis + 2) % 3] = sign, u.ravel(), v.ravel()
            faces.append((quads if sign > 0 else quads[:, ::-1]) + len(points) * index.size)
            points.append(side)
    merged, inverse = np.unique(np.concatenate(points).round(9), axis=0, return_inverse=True)
    return merged, inverse.ravel()[np.concatenate(faces)]


def teeth(source: Source, mirror: np.ndarray) -> Part:
    """All teeth: a cube of quads shrunk onto each; the open root is closed inside the gum."""
    cube, cube_faces = cube_grid(TOOTH_GRID)
    all_triangles = source.part_triangles(TEETH)
    faces, weights = [], []
    for tooth in tooth_components(source):
        triangles = all_triangles[np.isin(all_triangles[:, 0], tooth)]
        ring, closed = close_root(triangles, len(source.mean))
        share = np.full(len(ring), 1.0 / max(len(ring), 1))
        cap = csr_matrix((share, (np.zeros(len(ring), int), ring)), (1, len(source.mean)))
        points = np.vstack([source.mean, cap @ source.mean])
        low, high = points[tooth].min(axis=0), points[tooth].max(axis=0)
        centre = 0.5 * (low + high)
        directions = cube / np.linalg.norm(cube, axis=1, keepdims=True) ** 0.5 * (high - low)
        hit, barycentric, _ = cast_rays(np.broadcast_to(centre, cube.shape), directions, points, closed)
        rows = rows_on_surface(closed[hit], barycentric, len(points)).tocsc()
        faces.append(cube_faces + len(weights) * len(cube))
        weights.append((rows[:, :-1] + rows[:, -1:] @ cap).tocsr())
    uv, face_uv = cube_nets(len(weights))
    return both_sides("teeth", np.concatenate(faces), vstack(weights).tocsr(), side_by_side(uv), face_uv, mirror)


def cube_nets(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Texture coordinates of ``count`` cubes: a row each, its six sides next to each other."""
    line = np.linspace(0.04, 0.96, TOOTH_GRID + 1)
    square = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    index = np.arange(len(square)).reshape(TOOTH_GRID + 1, TOOTH_GRID + 1)
    quads = np.stack([index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]], axis=-1).reshape(-1, 4)
    mirrored = square * [-1.0, 1.0] + [1.0, 0.0]
    uv, face_uv = [], []
    for tooth in range(count):
        for side in range(6):
            # Every second side of the cube is listed inside out, see cube_grid; mirrored, its texture is not.
            corner = np.array([side, tooth])
            face_uv.append((quads if side % 2 else quads[:, ::-1]) + len(uv) * len(square))
            uv.append(((square if side % 2 else mirrored) + corner) / [6, count])
    return np.concatenate(uv), np.concatenate(face_uv)


def close_root(triangles: np.ndarray, apex: int) -> tuple[np.ndarray, np.ndarray]:
    """Fan the open boundary of a tooth to one more vertex: boundary vertices and closed triangles."""
    loops = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    keys = {(int(a), int(b)) for a, b in loops}
    open_edges = np.array([(b, a) for a, b in sorted(keys) if (b, a) not in keys], int).reshape(-1, 2)
    fan = np.column_stack([open_edges, np.full(len(open_edges), apex)])
    return np.unique(open_edges), np.concatenate([triangles, fan])


def gums(source: Source, mirror: np.ndarray, tongue_part: Part) -> Part:
    """Gums and palate: the source's, without its tongue, remeshed to quads by Instant Meshes (Jakob et al. 2015).

    The left half is remeshed, its cut laid onto the mid-plane, and mirrored; both halves share the
    vertices of the cut.
    """
    triangles = gum_triangles(source, tongue_part)
    left = triangles[(source.mean[triangles][:, :, 0] > -MID_SLACK).all(axis=1)]
    used, local = np.unique(left, return_inverse=True)
    vertices, quads = remesh(source.mean[used] / CENTIMETRE, local.reshape(-1, 3), GUM_VERTICES)
    index, barycentric, _ = closest_on_surface(vertices * CENTIMETRE, source.mean, left)
    weights = rows_on_surface(left[index], barycentric, len(source.mean))
    points = weights @ source.mean
    border = np.zeros(len(points), bool)
    border[boundary_edges(triangulate(quads))] = True
    middle = border & (points[:, 0] < MID_REACH)
    side = diags(np.where(middle, 0.5, 1.0))
    weights = (side @ weights + diags(np.where(middle, 0.5, 0.0)) @ weights[:, mirror]).tocsr()
    part = share_middle(weights, quads, middle, mirror)
    # The texture is cut along the mid-plane: each half of the mouth's gums has its own half of the square.
    uv, face_uv = packed_charts(quads, part.weights[: len(points)] @ source.mean, height=2.0)
    right = face_uv[:, [0, 3, 2, 1]] + len(uv)
    return replace(part, uv=np.concatenate(side_by_side(uv)), face_uv=np.concatenate([face_uv, right]))


def gum_triangles(source: Source, tongue_part: Part) -> np.ndarray:
    """Triangles of the source's gums and palate: what does not lie on the tongue and hangs together."""
    triangles = source.part_triangles(GUMS_AND_TONGUE)
    centre = source.mean[triangles].mean(axis=1)
    tongue_points = tongue_part.weights @ source.mean
    off = closest_on_surface(centre, tongue_points, triangulate(tongue_part.faces))[2] > TONGUE_CLEARANCE
    triangles = triangles[off]
    size = len(source.mean)
    pairs = (triangles[:, [0, 1]].T.ravel(), triangles[:, [1, 2]].T.ravel())
    label = connected_components(csr_matrix((np.ones(len(pairs[0])), pairs), (size, size)), directed=False)[1]
    counts = np.bincount(label[triangles[:, 0]])
    return triangles[label[triangles[:, 0]] == counts.argmax()].astype(np.int64)


def share_middle(weights: csr_matrix, quads: np.ndarray, middle: np.ndarray, mirror: np.ndarray) -> Part:
    """A left half and its mirror image, welded at the vertices of the cut."""
    count = len(middle)
    other = np.where(middle, np.arange(count), 0)
    other[~middle] = count + np.arange((~middle).sum())
    back = np.concatenate([other, np.flatnonzero(~middle)])
    right = other[quads][:, [0, 3, 2, 1]]
    faces = np.concatenate([quads, right])
    return Part("gums", faces, vstack([weights, weights[~middle][:, mirror]]).tocsr(), back, np.zeros((0, 2)), faces)


def tongue(source: Source, mirror: np.ndarray) -> Part:
    """The tongue: a dome of quads round a spine in the mid-plane, its tip in front, open at the root."""
    gum_triangles = source.part_triangles(GUMS_AND_TONGUE)
    triangles = np.concatenate([gum_triangles, source.part_triangles(MOUTH_SOCKET)])
    spine = np.array([[0, -0.0440, 0.075], [0, -0.0450, 0.060], [0, -0.0465, 0.045], [0, -0.0500, 0.031]])
    grid, faces = dome_grid(TONGUE_SEGMENTS // 4, TONGUE_STEPS)
    ring = grid[:, 2].astype(int)
    around = np.arctan2(grid[:, 1], grid[:, 0])
    spread = np.linalg.norm(grid[:, :2], axis=1)
    at = np.where(ring == 0, 0.0, (ring - 1) / (TONGUE_STEPS - 1))
    origins = np.stack([np.interp(at, np.linspace(0, 1, len(spine)), spine[:, k]) for k in range(3)], axis=1)
    # The disc and the first ring bend round the tip: from straight ahead to straight sideways.
    tilt = np.where(ring == 0, spread * np.radians(65.0), np.pi / 2)
    side = np.stack([np.cos(around), np.sin(around), np.zeros(len(around))], axis=1)
    directions = np.cos(tilt)[:, None] * [0.0, 0.0, 1.0] + np.sin(tilt)[:, None] * side
    hit, barycentric, _ = cast_rays(origins, directions, source.mean, triangles, last=False)
    weights = rows_on_surface(triangles[hit], barycentric, len(source.mean))
    partner = cKDTree(grid * [1, 1, 10]).query(grid * [-1, 1, 10])[1]
    length = np.where(ring == 0, 1.0 + 0.05 * (1 - spread), 1.0 - at)
    along = length / length.max()
    reach = 0.5 * np.where(ring == 0, TONGUE_TIP * spread, TONGUE_TIP + ring) / (TONGUE_TIP + TONGUE_STEPS)
    uv = np.stack([0.5 + reach * np.cos(around), 0.5 + reach * np.sin(around)], axis=1)
    # Averaging with the mirrored rows removes what little the source lacks in symmetry.
    weights = 0.5 * (weights + weights[partner][:, mirror])
    return Part("tongue", faces, weights.tocsr(), partner, uv, faces, along)
