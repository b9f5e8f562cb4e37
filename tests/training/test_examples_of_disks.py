from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from stitchsafe.training import draw_disks


def test_the_papers_disk_has_69_pixels():
    image, labels = draw_disks((64, 64), np.random.default_rng(3), spacing=15)
    counts = np.bincount(labels.ravel())[1:]
    assert counts.max() == 69
    assert set(np.unique(image)) == {0.0, 1.0}
    assert (labels[image[0] > 0] > 0).all()


def test_disks_on_a_grid_lie_spacing_apart():
    _, labels = draw_disks((90, 90), np.random.default_rng(0), spacing=15)
    whole = [i for i in range(1, labels.max() + 1) if (labels == i).sum() == 69]
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, whole))
    assert np.ptp(centres % 15, axis=0).max() < 1e-9
    assert len(whole) >= 25


@pytest.mark.parametrize("shape", [(80, 90), (30, 32, 34)])
def test_disks_at_random_places_do_not_touch(shape):
    image, labels = draw_disks(
        shape, np.random.default_rng(1), spacing=None, radius=(3, 5), density=0.2, noise=0.1
    )
    _, parts = ndimage.label(labels > 0)
    assert parts == labels.max() > 3
    assert 0.08 < (labels > 0).mean() < 0.3
    assert image.dtype == np.float32
    assert image[0][labels == 0].std() == pytest.approx(0.1, rel=0.2)


def test_the_same_seed_draws_the_same_disks():
    a, b = (draw_disks((40, 40), np.random.default_rng(5), noise=0.1)[0] for _ in range(2))
    assert np.array_equal(a, b)
