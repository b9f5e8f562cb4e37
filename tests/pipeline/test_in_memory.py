"""Arrays and modules instead of paths: the same answers, and nothing left on the disk."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from heard import Heard
from stores import smooth_volume, tiny_model

import stitchsafe
from stitchsafe.errors import InputError, ModelError, PlanError, StoreError, UnsafeNetworkError
from stitchsafe.networks import load_network
from stitchsafe.nn import UNet

OPTIONS = {"threads": 1, "max_memory": 10**10}


@pytest.fixture(scope="module")
def module() -> UNet:
    torch.manual_seed(0)
    return UNet(ndim=2, levels=2, base_channels=3, heads={"classes": 3})


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return smooth_volume(45, 58).astype(np.float32) / 255


def test_fields_replace_a_sliding_window(module: UNet, image: np.ndarray) -> None:
    """What the network gives for the whole image, padded as the border rule says."""
    made = stitchsafe.predict(image, module, save="fields", tile_shape=(16, 8), **OPTIONS)
    (field,) = made.fields.values()
    assert (made.labels, made.out) == (None, None)
    geometry = stitchsafe.check(module).geometry
    shrink = geometry.axes[0].output_offset
    whole = np.pad(image, [(shrink, shrink + 4 + -size % 4) for size in image.shape], "reflect")
    whole = whole[: 44 + -(-(45 - 4) // 4) * 4, : 44 + -(-(58 - 4) // 4) * 4]
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(whole)[None, None])[0, :, :45, :58].numpy()
    assert field.shape == expected.shape == (3, 45, 58)
    np.testing.assert_allclose(field, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_threads_of_the_process_are_what_they_were(
    module: UNet, image: np.ndarray, tmp_path
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        stitchsafe.predict(image, module, tmp_path / "a.zarr", save="fields", **OPTIONS)
        assert torch.get_num_threads() == 3
        stitchsafe.verify(tmp_path / "a.zarr", model=module, volume=image)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_labels_of_an_array(module: UNet, image: np.ndarray, tmp_path: Path) -> None:
    tempfile.tempdir, before = str(tmp_path), tempfile.tempdir
    try:
        made = stitchsafe.predict(image, module, labels_from="argmax", **OPTIONS)
    finally:
        tempfile.tempdir = before
    assert list(tmp_path.iterdir()) == []
    assert made.labels.shape == image.shape
    assert made.labels.max() == made.progress.instances == len(np.unique(made.labels)) - 1 > 0
    assert made.fields == {}
    stored = stitchsafe.predict(image, module, tmp_path / "out.zarr", labels_from="argmax",
                                **OPTIONS)  # fmt: skip
    np.testing.assert_array_equal(
        made.labels, stitchsafe.open_volume(stored.out / "labels/instances").read(
            stitchsafe.Roi.whole(image.shape))[0],
    )  # fmt: skip
    assert stitchsafe.verify(stored.out, volume=image, model=module).ok
    with pytest.raises(StoreError, match="give it as volume="):
        stitchsafe.verify(stored.out, model=module)
    with pytest.raises(ModelError, match="give it as model="):
        stitchsafe.verify(stored.out, volume=image)


def test_a_region_has_its_own_shape(module: UNet, image: np.ndarray) -> None:
    whole = stitchsafe.predict(image, module, save="fields", **OPTIONS).fields["output"]
    roi = stitchsafe.Roi((3, 20), (30, 21))
    part = stitchsafe.predict(image, module, save="fields", roi=roi, **OPTIONS).fields["output"]
    np.testing.assert_array_equal(part, whole[:, 3:33, 20:41])


def test_the_callers_module_and_array_stay_as_they_are(module: UNet, image: np.ndarray) -> None:
    module.train()
    state = {key: value.clone() for key, value in module.state_dict().items()}
    original = image.copy()
    stitchsafe.predict(image, module, save="fields", precision="float64", **OPTIONS)
    assert module.training
    assert all(torch.equal(value, module.state_dict()[key]) for key, value in state.items())
    assert all(v.dtype == torch.float32 for v in module.state_dict().values())
    np.testing.assert_array_equal(image, original)


def test_a_network_serves_runs_of_several_precisions(image: np.ndarray) -> None:
    """Rounding for one run must not reach the next: weights in float64, one run in float32."""
    torch.manual_seed(0)
    network = load_network(UNet(ndim=2, levels=1, base_channels=2).double())
    run = lambda **more: stitchsafe.predict(  # noqa: E731
        image, network, save="fields", **OPTIONS, **more
    ).fields["output"]
    first = run()
    rounded = run(precision="float32")
    assert (first.dtype, rounded.dtype) == (np.float64, np.float32)
    stitchsafe.plan(image, network, save="fields", precision="float32", **OPTIONS)
    np.testing.assert_array_equal(run(), first)
    assert 0 < np.abs(first - rounded).max() < 1e-5 * np.abs(first).max()


def test_what_cannot_be_done_is_refused(module: UNet, image: np.ndarray) -> None:
    with pytest.raises(ModelError, match="--labels-from"):
        stitchsafe.predict(image, module, **OPTIONS)
    with pytest.raises(InputError, match="bandwidth"):
        stitchsafe.predict(image, module, labels_from="embeddings", **OPTIONS)
    with pytest.raises(InputError, match="save cannot be"):
        stitchsafe.predict(image, module, save=(), **OPTIONS)
    with pytest.raises(InputError, match="border cannot be"):
        stitchsafe.predict(image, module, save="fields", border="mirror", **OPTIONS)
    with pytest.raises(PlanError, match="nothing is left"):
        stitchsafe.predict(image[:20, :20], module, save="fields", border="crop", **OPTIONS)
    unsafe = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.InstanceNorm2d(2), torch.nn.Conv2d(2, 1, 1)
    )
    with pytest.raises(UnsafeNetworkError, match="1"):
        stitchsafe.predict(image, unsafe, save="fields", **OPTIONS)


def test_crop_keeps_what_has_full_context(module: UNet, image: np.ndarray) -> None:
    volume = np.pad(image, 20, mode="wrap")
    whole = stitchsafe.predict(volume, module, save="fields", **OPTIONS).fields["output"]
    made = stitchsafe.predict(volume, module, save="fields", border="crop", **OPTIONS)
    inside = made.plan.recipe.roi
    assert 0 < inside.size < volume.size
    (field,) = made.fields.values()
    np.testing.assert_array_equal(field, whole[(slice(None), *inside.slices)])


KEYS = {
    "check": {"verdict", "period", "context", "receptive_field", "input_size", "output_offset",
              "breaks", "axes"},
    "plan": {"recipe", "output_bytes", "scratch_bytes", "blocks", "tiles", "tile_shape",
             "block_shape", "halo", "executor", "redundancy", "peak_memory_bytes", "flops",
             "seconds"},
    "predict": {"out", "blocks_total", "blocks_done", "blocks_resumed", "instances", "seconds",
                "voxels_per_second", "peak_memory_bytes", "exact", "plan"},
    "verify": {"ok", "voxels", "max_abs_diff", "tolerance", "label_mismatches", "corrupt",
               "missing"},
}  # fmt: skip


def test_answers_have_the_keys_that_others_rely_on(tmp_path: Path, image: np.ndarray) -> None:
    model = tiny_model(tmp_path / "flat", ndim=2, window=(16, 16))
    np.save(tmp_path / "image.npy", image)
    answers = {
        "check": stitchsafe.check(model),
        "plan": stitchsafe.plan(image, model, **OPTIONS),
        "predict": stitchsafe.predict(
            tmp_path / "image.npy", model, tmp_path / "out.zarr", **OPTIONS
        ),
        "verify": stitchsafe.verify(tmp_path / "out.zarr"),
    }
    for name, answer in answers.items():
        content = json.loads(json.dumps(answer.to_json()))
        assert KEYS[name] <= content.keys(), name
    plan = answers["plan"]
    assert plan.seconds > 0
    assert plan.redundancy >= 1
    assert plan.to_json()["block_shape"] == list(plan.recipe.cell_shape)
    made = answers["predict"]
    assert made.plan.recipe == plan.recipe  # the plan is what is done
    assert made.to_json()["blocks_done"] == plan.blocks


def test_a_volume_that_is_extended_is_said_to_be() -> None:
    module = UNet(ndim=2, levels=1, base_channels=2, padding="same", heads={"classes": 2})
    heard = Heard()
    stitchsafe.plan(np.zeros((21, 30), np.float32), module, save="fields", events=heard, **OPTIONS)
    assert any("extended from 21 x 30 to 22 x 30" in line for line in heard.lines), heard.lines


def test_what_is_taken_instead_of_what_was_asked_for_is_said(image: np.ndarray, module) -> None:
    heard = Heard()
    stitchsafe.plan(image, module, save="fields", events=heard, tile_shape=(128, 16), **OPTIONS)
    assert any("128 x 16" in line and "48 x 16" in line for line in heard.lines), heard.lines


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_memory": "8GB"}, "max_memory cannot be '8GB'"),
        ({"tile_shape": "8,8"}, "tile_shape cannot be '8,8'"),
        ({"roi": (slice(0, 4), slice(0, 4))}, "roi cannot be"),
        ({"seed": -1}, "seed cannot be -1"),
        ({"foreground_threshold": 5.0}, "foreground_threshold cannot be 5.0"),
        ({"tile_shap": (8, 8)}, "there is no option 'tile_shap'; did you mean 'tile_shape'"),
    ],
)
def test_a_wrong_option_is_one_clear_line(options, words):
    module = stitchsafe.UNet(ndim=2, levels=1, base_channels=2)
    with pytest.raises(InputError, match=words):
        stitchsafe.predict(np.zeros((20, 20), np.float32), model=module, save="fields", **options)


def test_what_only_the_fields_can_refuse_leaves_nothing_behind(tmp_path):
    module = stitchsafe.UNet(ndim=2, levels=1, base_channels=2)
    for parameter in module.parameters():
        parameter.data.mul_(100)
    np.save(tmp_path / "image.npy", np.random.default_rng(0).normal(size=(20, 20)))
    with pytest.raises(InputError, match="bandwidth"):
        stitchsafe.predict(
            tmp_path / "image.npy",
            module,
            tmp_path / "out.zarr",
            labels_from="embeddings",
            bandwidth=1e-6,
        )
    assert not (tmp_path / "out.zarr").exists()
