"""Heads that are drawn wear the statistical albedo, and what they wear is what the network is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.face_model.albedo_file import get_albedo
from trainer.data.skin_albedo import read_at, skin_places
from trainer.data.synthetic import Head, SyntheticFaces


def test_vertices_wear_what_the_texture_holds_where_they_lie(model, head):
    albedo = get_albedo("open-head")
    coefficients = albedo.draw(np.random.default_rng(3), 2)
    worn = head.albedo(torch.from_numpy(coefficients)).numpy()
    uv, on = skin_places(model)
    texture = albedo.albedo(coefficients)
    size = albedo.size
    for vertex in np.flatnonzero(on)[::997]:
        # A texel apart at most: bilinear reading of the logarithm against the nearest texel.
        row, column = int((1.0 - uv[vertex, 1]) * size), int(uv[vertex, 0] * size)
        near = texture[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].reshape(2, -1, 3)
        assert (worn[:, vertex] >= near.min(axis=1) - 1e-3).all() and (worn[:, vertex] <= near.max(axis=1) + 1e-3).all()
    lids = model.regions["eyes"]
    assert on[model.regions["face"] & ~lids].mean() > 0.99 and not on[model.regions["teeth"]].any()


def test_reading_knows_where_the_top_is():
    texture = np.zeros((1, 4, 4, 1), np.float32)
    texture[0, 0, 3] = 1.0
    places = np.array([[0.875, 0.875], [0.875, 0.125], [0.75, 0.875]])
    assert read_at(texture, places)[0, :, 0].tolist() == pytest.approx([1.0, 0.0, 0.5])


def test_the_picture_shows_the_skin_that_is_told(model, monkeypatch):
    """Skins of the darkest and of the lightest tone, in the same light, and nobody in a painted look."""
    monkeypatch.setattr("trainer.data.triplets.PAINTED", 0.0)
    # Else the camera's meter makes all skins alike.
    monkeypatch.setattr("trainer.data.synthetic.METERING", 0.0)
    source = get_albedo("open-head")
    brightness = []
    for tone in (source.tones[0], source.tones[-1]):
        head = Head(model, torch.device("cpu"), source)
        faces = SyntheticFaces(head, 64, 3, looks=2, supersampling=1)
        faces.people.skins = type(
            "Fixed", (), {"draw": lambda self, rng, count, tone=tone: source.draw(rng, count, np.full(count, tone))}
        )()
        batch = faces.batch(0, 4)
        assert bool((batch.trust["albedo"] == 1).all()) and batch.truth.albedo.shape == (12, 50)
        brightness.append(float(batch.photos.float()[batch.skin > 0.9].mean()))
    assert brightness[1] > 1.8 * brightness[0]


def test_painted_people_have_no_albedo_to_learn(head, monkeypatch):
    monkeypatch.setattr("trainer.data.triplets.PAINTED", 1.0)
    painted = SyntheticFaces(head, 64, 3, looks=2, supersampling=1).batch(0, 2)
    assert bool((painted.trust["albedo"] == 0).all())
    monkeypatch.setattr("trainer.data.triplets.PAINTED", 0.0)
    worn = SyntheticFaces(head, 64, 3, looks=2, supersampling=1).batch(0, 2)
    assert bool((worn.trust["albedo"] == 1).all()) and not torch.equal(worn.photos, painted.photos)


def test_teeth_are_light_and_the_tongue_is_red(model, head):
    bank = SyntheticFaces(head, 64, 3, looks=8, supersampling=1).bank
    albedo = bank.albedo.float()
    front = model.regions["teeth"] & (model.mean[:, 2] > np.quantile(model.mean[model.regions["teeth"], 2], 0.8))
    teeth, tongue = albedo[:, front].mean(dim=1), albedo[:, model.regions["tongue"]].mean(dim=1)
    assert float(teeth.min()) > 0.12 and float(teeth.mean()) > 2 * float(tongue.mean())
    assert bool((tongue[:, 0] > 1.5 * tongue[:, 1]).all())
    assert len(torch.unique(teeth[:, 0])) == 8
