"""The settings of Rumberger et al. (2021), as `draw_disks` and ``train.yaml`` say them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stitchsafe.errors import InputError
from stitchsafe.training import (
    Elastic,
    TrainingConfig,
    TrainingWindow,
    draw_disks,
    open_examples,
)


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def config(data: dict[str, object], *, axes: str = "yx") -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "format": "stitchsafe-training/1",
            "name": "paper",
            "data": {"kind": "disks"} | data,
            "input": {"axes": axes},
            "network": {"name": "unet", "arguments": {"ndim": len(axes), "levels": 1}},
            "window": [16] * len(axes),
            "optimiser": {"steps": 1},
        }
    )


def example(data: dict[str, object], *, axes: str = "yx", seed: int = 0):
    ndim = len(axes)
    window = TrainingWindow((16,) * ndim, (24,) * ndim, (4,) * ndim, (0,) * ndim)
    return open_examples(config(data, axes=axes), window, folder=Path()).draw(seeded(seed))


def test_old_settings_draw_what_they_always_drew():
    """The bundled network for disks was trained on these very images."""
    image, labels = draw_disks((40, 40), seeded(), radius=(4, 8), density=0.25, noise=0.1)
    assert labels.max() == 4
    assert int((labels * np.arange(1600).reshape(40, 40)).sum()) == 609555
    assert float(image.sum(dtype=float)) == pytest.approx(176.54957, abs=1e-4)
    _, labels = draw_disks((40, 40), seeded(), spacing=15, radius=(3, 5), jitter=0.5)
    assert int((labels * np.arange(1600).reshape(40, 40)).sum()) == 1643415


def test_one_disk_lies_at_the_origin_that_is_asked_for():
    _, labels = draw_disks((40, 40), seeded(), spacing=15, origin=(20, 7), radius=3)
    for y, x in ((20, 7), (5, 22), (35, 37)):
        y_all, x_all = np.nonzero(labels == labels[y, x])
        assert (y_all.mean(), x_all.mean()) == (y, x)


def test_balls_are_balls():
    image, labels = draw_disks((24, 24, 24), seeded(), spacing=12, origin=(6, 6, 6), radius=4)
    assert labels.max() == 8
    ball = sum(z * z + y * y + x * x < 16 for z in range(-4, 5) for y in range(-4, 5)
               for x in range(-4, 5))  # fmt: skip
    assert np.bincount(labels.ravel())[1:].tolist() == [ball] * 8
    assert np.array_equal(image[0] > 0, labels > 0)


def test_a_constant_image_of_which_every_pixel_is_its_own_label():
    image, labels = draw_disks((20, 30), seeded(), image="ones", labels="voxels")
    assert (image == 1).all()
    assert len(np.unique(labels)) == labels.size
    assert labels.min() == 1
    drawn = example({"image": "ones", "labels": "voxels"})
    assert (drawn.image == 1).all()
    assert len(np.unique(drawn.clusters)) == 256
    assert drawn.clusters.min() >= 1


def test_an_elastic_deformation_moves_image_and_labels_alike():
    still, _ = draw_disks((96, 96), seeded(), spacing=16, origin=(8, 8), radius=5)
    image, labels = draw_disks(
        (96, 96), seeded(3), spacing=16, origin=(8, 8), radius=5, elastic=Elastic(20, 2.0)
    )
    assert labels.max() == 36 == len(np.unique(labels)) - 1
    bright = image[0] > 0.5
    assert (bright == (labels > 0)).mean() > 0.98
    assert 0.01 < (bright != (still[0] > 0)).mean() < 0.3
    moved = [np.argwhere(labels == i).mean(0) for i in range(1, 37)]
    away = np.array([(c - 8 + 8) % 16 - 8 for c in moved])
    assert 0.5 < away.std() < 3


def test_a_slight_deformation_makes_all_disks_differ_though_no_label_moves_far():
    """Figure 6: spacing 20 of the control points, jitter .2 pixels."""
    image, labels = draw_disks(
        (96, 96), seeded(1), spacing=16, origin=(8, 8), radius=5, elastic=Elastic(20, 0.2)
    )
    disks = {image[0, y - 7 : y + 8, x - 7 : x + 8].tobytes()
             for y in range(8, 96, 16) for x in range(8, 96, 16)}  # fmt: skip
    assert len(disks) == 36
    _, still = draw_disks((96, 96), seeded(), spacing=16, origin=(8, 8), radius=5)
    assert ((labels > 0) != (still > 0)).mean() < 0.02


@pytest.mark.parametrize("shape", [(300, 310), (60, 70, 80)])
def test_control_points_are_displaced_by_sigma_and_smoothly(shape):
    u = Elastic(10, 2.0).draw(shape, seeded(2))
    assert u.shape == (len(shape), *shape)
    assert 1.2 < u.std() < 2.2
    for axis in range(len(shape)):
        slope, bend = (np.abs(np.diff(u[0], n, axis=axis)).max() for n in (1, 2))
        assert slope < 2.0
        assert bend < slope / 2  # where it were linear between the points, kinks as large as slopes
    assert abs(u.mean()) < 0.5


def test_each_axis_may_have_its_own_deformation():
    u = Elastic((4, 10, 10), (0.0, 1.0, 1.0)).draw((20, 30, 30), seeded())
    assert not u[0].any()
    assert u[1].std() > 0.5


@pytest.mark.parametrize(
    "data",
    [
        {"spacing": 16, "noise": 0.1},
        {"spacing": 16, "elastic": {"spacing": 20, "sigma": 0.2}},
        {"spacing": 16, "jitter": 1.0, "origin": [3, 4]},
        {"radius": [3, 4], "density": 0.2},
        {"image": "ones", "labels": "voxels"},
    ],
)
def test_every_setting_can_be_trained_on_and_depends_on_the_seed_alone(data):
    a, b, c = (example(data, seed=seed) for seed in (4, 4, 5))
    assert a.image.shape == (1, 24, 24)
    assert a.clusters.shape == (16, 16)
    assert np.array_equal(a.image, b.image)
    assert np.array_equal(a.clusters, b.clusters)
    if data.get("image") != "ones":
        assert not np.array_equal(a.image, c.image)


def test_balls_are_trained_on_in_three_dimensions():
    drawn = example({"spacing": 12, "elastic": {"spacing": 8, "sigma": [0, 1, 1]}}, axes="zyx")
    assert drawn.image.shape == (1, 24, 24, 24)
    assert drawn.instances.max() >= 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"spacing": 16, "origin": [1, 2, 3]}, "data.origin"),
        ({"elastic": {"spacing": [8, 8, 8], "sigma": 1}}, "data.elastic.spacing"),
    ],
)
def test_settings_for_another_number_of_axes_are_refused(data, words):
    with pytest.raises(InputError, match=words):
        example(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"radius": [8, 4]}, "least first"),
        ({"jitter": 1.0}, "give its spacing"),
        ({"elastic": {"spacing": 0, "sigma": 1}}, "greater than 0"),
        ({"labels": "pixels"}, "voxels"),
    ],
)
def test_settings_that_cannot_be_are_refused(data, words):
    with pytest.raises(ValueError, match=words):
        config(data)
