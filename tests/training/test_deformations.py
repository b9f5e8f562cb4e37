"""Elastic deformations and sections: image and labels alike, and no border in any window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from labelled_volumes import SHAPE, WINDOW, cells, examples, same, seeded, training, write
from scipy import ndimage

from stitchsafe.coordinates import Roi
from stitchsafe.errors import InputError
from stitchsafe.training import Elastic, Sections, TrainingWindow, open_examples
from stitchsafe.training._augmentation import Bending
from stitchsafe.training._turning import Turning

BOTH = Bending(Elastic((6, 9, 9), (0.4, 1.5, 1.5)), Sections(shifted=0.4, shift=3))


ALL = Bending(BOTH.elastic, BOTH.sections, Turning((1.0, 1.0, 1.0), 15, 0.2))


@pytest.mark.parametrize(
    "bending",
    [
        BOTH,
        Bending(Elastic(7, 1.0)),
        Bending(None, BOTH.sections),
        ALL,
        Bending(None, None, ALL.turning),
    ],
)
def test_a_view_shows_what_the_whole_volume_warped_would(bending):
    image = np.random.default_rng(0).normal(size=(2, 40, 50, 60)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 2**31 - 1, (40, 50, 60))
    box = Roi((11, 12, 13), (16, 18, 20))
    view = bending.draw(box, seeded())
    places = np.indices(image.shape[1:])[(slice(None), *box.slices)] + view.displacement
    assert np.abs(view.displacement).max() > 1
    shown = view.see(lambda roi: image[(slice(None), *roi.slices)], box, order=1)
    for channel, whole in zip(shown, image, strict=True):
        expected = ndimage.map_coordinates(whole, places, order=1)
        assert np.abs(channel - expected).max() < 1e-5
    nearest = tuple(np.floor(places + 0.5).astype(int))
    assert np.array_equal(view.see(lambda roi: labels[roi.slices], box, order=0), labels[nearest])
    part = Roi((13, 14, 20), (8, 9, 10))
    inside = part.relative_to(box).slices
    seen = view.see(lambda roi: image[(slice(None), *roi.slices)], part, order=1)
    assert np.abs(seen - shown[(slice(None), *inside)]).max() < 1e-5


def test_a_turn_keeps_distances_and_only_turns_planes_of_square_voxels():
    turning = Turning((3.0, 1.0, 1.0), 180)
    drawn = [turning.matrix(seeded(step)) for step in range(50)]
    for matrix in drawn:
        assert np.allclose(matrix @ matrix.T, np.eye(3))
        assert np.isclose(np.linalg.det(matrix), 1)
        assert np.array_equal(matrix[0], (1, 0, 0))
    assert np.std([matrix[1, 2] for matrix in drawn]) > 0.5
    cubes = [Turning((1.0, 1.0, 1.0), 180).matrix(seeded(step)) for step in range(50)]
    assert np.std([matrix[0, 1] for matrix in cubes]) > 0.3
    angles = [np.rad2deg(np.arcsin(Turning((1, 1), 20).matrix(seeded(i))[0, 1])) for i in range(50)]
    assert 15 < np.abs(angles).max() <= 20


def test_scale_shows_things_larger_and_smaller_about_the_middle():
    ball = (np.square(np.indices((41, 41)) - 20).sum(0) <= 64).astype(np.uint8)
    box = Roi((4, 4), (33, 33))
    sizes = []
    for step in range(30):
        turning = Turning((1.0, 1.0), 180, 0.5)
        view = Bending(None, None, turning).draw(box, seeded(step))
        shown = view.see(lambda roi: np.pad(ball, 30)[roi.shift((30, 30)).slices], box, order=0)
        assert np.allclose(np.argwhere(shown).mean(0), 16, atol=0.5)
        sizes.append(shown.sum() / ball.sum())
    assert 0.4 < min(sizes) < 0.6
    assert 1.8 < max(sizes) < 2.3


def test_what_is_read_for_a_view_is_no_more_than_it_shows():
    view = BOTH.draw(Roi((0, 0, 0), (16, 18, 20)), seeded())
    asked: list[Roi] = []
    view.see(lambda roi: asked.append(roi) or np.zeros(roi.shape, np.float32), view.box, order=1)
    grid = np.indices(view.box.shape) + view.displacement
    for axis, along in enumerate(grid):
        assert asked[0].offset[axis] == min(0, np.floor(along.min()))
        assert asked[0].end[axis] == max(view.box.shape[axis], np.ceil(along.max()) + 1)


def pattern(folder: Path, **augmentation) -> object:
    """Examples of a volume whose image is its labels, plane by plane."""
    labels = cells()[1]
    said = write(folder, "npy", labels.astype(np.uint8), labels)
    return examples(
        folder,
        training(
            said,
            input={"axes": "zyx"},
            augmentation={"symmetries": False} | augmentation,
            embedding={"background": "cluster"},
            foreground={},
        ),
    )


def inner(example):
    cut = Roi(WINDOW.offset, WINDOW.window).slices
    return example.image[0][cut]


@pytest.mark.parametrize(
    "change",
    [
        {"sections": {"shifted": 0.5, "shift": 4}},
        {"elastic": {"spacing": 8, "sigma": 1}},
        {"elastic": {"spacing": 8, "sigma": [0, 1, 1]}, "sections": {"shifted": 0.5, "shift": 2}},
        {"rotation": 40, "scale": 0.3},
    ],
)
def test_labels_follow_the_image(tmp_path, change):
    still, moved = pattern(tmp_path), pattern(tmp_path, **change)
    differ, sure = 0, []
    for step in range(8):
        example = moved.draw(seeded(step))
        shown = inner(example)
        surely = np.isclose(ndimage.generic_gradient_magnitude(shown, ndimage.sobel), 0)
        agrees = (shown > 0) == (example.instances > 0)
        assert agrees[surely].all()
        sure.append(surely.mean())
        for part in range(1, example.instances.max() + 1):
            assert len(np.unique(shown[(example.instances == part) & surely])) <= 1
        differ += not np.array_equal(shown, inner(still.draw(seeded(step))))
    assert differ >= 7
    assert np.sum(sure) * np.prod(WINDOW.window) > 500


def test_shifted_sections_are_whole_sections_of_the_volume(tmp_path):
    """Each section of an example is one of the still example, some voxels off and never beyond."""
    wide = TrainingWindow((8, 10, 12), (16, 26, 28), (4, 8, 8), (0, 0, 0))
    raw, labels = cells()
    said = write(tmp_path, "npy", raw, labels)

    def drawn(window, **augmentation):
        return examples(
            tmp_path,
            training(said, input={"axes": "zyx"},
                     augmentation={"symmetries": False} | augmentation),
            window,
        )  # fmt: skip

    shifted = drawn(WINDOW, sections={"shifted": 0.6, "shift": 2})
    still = drawn(wide)
    moves = []
    for step in range(6):
        a, b = shifted.draw(seeded(step)).image[0], still.draw(seeded(step)).image[0]
        for one, other in zip(a, b, strict=True):
            found = [
                (y - 2, x - 2)
                for y in range(5)
                for x in range(5)
                if np.array_equal(one, other[y : y + one.shape[0], x : x + one.shape[1]])
            ]
            assert len(found) == 1
            moves += found
    assert len(set(moves)) > 10
    assert np.abs(moves).max() == 2


def test_some_sections_carry_along_those_that_follow_and_some_do_not():
    shifts = Sections(shifted=0.05, shift=5).draw_shifts(4000, 2, seeded())
    moved = (np.diff(shifts, axis=0) != 0).any(1)
    back = [
        np.array_equal(shifts[i - 1], shifts[i + 1])
        for i in range(1, 3999)
        if moved[i - 1] and not np.array_equal(shifts[i - 1], shifts[i])
    ]
    assert 0.3 < np.mean(back) < 0.7
    assert np.abs(shifts).max() == 5
    assert not Sections().draw_shifts(50, 2, seeded()).any()


def test_missing_sections_show_nothing_and_keep_their_labels(tmp_path):
    still = pattern(tmp_path, brightness=0.5)
    lost = pattern(tmp_path, brightness=0.5, sections={"missing": 0.25})
    count = 0
    for step in range(20):
        example = lost.draw(seeded(step))
        blank = (example.image[0] == 0).all((1, 2))
        partly = (example.image[0] == 0).mean((1, 2))
        assert (blank | (partly < 0.9)).all()
        count += blank.sum()
        assert np.array_equal(example.instances, still.draw(seeded(step)).instances)
    assert 0.15 < count / (20 * WINDOW.input[0]) < 0.35


@pytest.mark.parametrize(
    "change",
    [
        {"elastic": {"spacing": 8, "sigma": 1}},
        {"sections": {"missing": 0.2, "shifted": 0.2, "shift": 2}},
        {"elastic": {"spacing": 8, "sigma": 1}, "contrast": 0.2, "gamma": 0.1, "noise": 0.1},
        {"rotation": 180, "scale": 0.5, "elastic": {"spacing": 8, "sigma": 1}},
    ],
)
def test_all_of_it_depends_on_the_seed_alone(tmp_path, change):
    said = write(tmp_path, "zarr", *cells())
    a, b = (examples(tmp_path, training(said, augmentation=change)) for _ in range(2))
    drawn = [a.draw(seeded(step)) for step in range(4)]
    assert all(same(b.draw(seeded(step)), drawn[step]) for step in (3, 1, 0, 2))
    assert not same(drawn[0], drawn[1])


def test_a_deformed_window_at_the_border_is_as_prediction_sees_it_reflected(tmp_path):
    """The window is the whole region, so all around it is reflected; no value is made up."""
    window = TrainingWindow(SHAPE, tuple(n + 12 for n in SHAPE), (6, 6, 6), (0, 0, 0))
    raw, labels = cells()
    config = training(
        write(tmp_path, "npy", raw, labels),
        input={"axes": "zyx"},
        augmentation={"symmetries": False, "sections": {"shifted": 0.5, "shift": 3}},
    )
    example = examples(tmp_path, config, window).draw(seeded())
    assert set(np.unique(example.image)) <= set(np.unique(raw).astype(np.float32))
    assert (example.image[0].std((1, 2)) > 5).all()


def test_images_are_deformed_too(tmp_path):
    raw, labels = cells((60, 70))
    np.savez(tmp_path / "a.npz", image=raw, labels=labels)
    window = TrainingWindow((16, 16), (28, 28), (6, 6), (0, 0))
    said = {"kind": "images", "path": ".", "keep_back": None}
    changes = ({}, {"elastic": {"spacing": 8, "sigma": 1.5}})
    still, bent = (
        examples(tmp_path, training(said, axes="yx", augmentation=change), window).draw(seeded())
        for change in changes
    )
    assert still.image.shape == bent.image.shape
    assert not np.array_equal(still.image, bent.image)


def test_what_does_not_fit_the_data_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.ones((40, 40)), labels=np.ones((40, 40), int))
    window = TrainingWindow((16, 16), (28, 28), (6, 6), (0, 0))
    said = {"kind": "images", "path": "."}
    for change, words in (
        ({"sections": {"missing": 0.1}}, "along z"),
        ({"elastic": {"spacing": [8, 8, 8], "sigma": 1}}, "augmentation.elastic.spacing"),
    ):
        config = training(said, axes="yx", augmentation=change)
        with pytest.raises(InputError, match=words):
            examples(tmp_path, config, window)
    disks = training({"kind": "disks"}, axes="yx",
                     augmentation={"elastic": {"spacing": 8, "sigma": 1}})  # fmt: skip
    with pytest.raises(InputError, match=r"data\.elastic"):
        open_examples(disks, window, folder=tmp_path)
    turned = training({"kind": "disks"}, axes="yx", augmentation={"rotation": 10})
    with pytest.raises(InputError, match=r"augmentation\.rotation"):
        open_examples(turned, window, folder=tmp_path)
    for wrong in ({"shifted": 0.1}, {"shift": 3}):
        with pytest.raises(ValueError, match="give both"):
            training({"path": "a"}, augmentation={"sections": wrong})
