"""Networks whose outputs are finer or coarser than the volume, through predict and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from stores import smooth_volume
from torch import nn

import stitchsafe
from stitchsafe.errors import ModelError

OPTIONS = {"threads": 1, "max_memory": 10**10}


class Mixed(nn.Module):
    """Three outputs: half as fine, as fine as, and twice as fine as the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.coarse = nn.Conv2d(4, 2, 3, stride=2, padding=1)
        self.same = nn.Conv2d(4, 3, 3, padding=1)
        self.fine = nn.ConvTranspose2d(4, 1, 2, 2)

    def forward(self, x):
        x = self.first(x).relu()
        return self.coarse(x), self.same(x), self.fine(x)


SHAPES = {"output0": (2, 23, 18), "output1": (3, 45, 36), "output2": (1, 90, 72)}


@pytest.fixture(scope="module")
def module() -> Mixed:
    torch.manual_seed(0)
    return Mixed().eval()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return smooth_volume(45, 36).astype(np.float32) / 255


@pytest.fixture(scope="module")
def expected(module: Mixed, image: np.ndarray) -> dict[str, np.ndarray]:
    """One pass over the image as it is; the network takes odd sizes too."""
    with torch.no_grad():
        found = module(torch.from_numpy(image)[None, None])
    return {
        name: each[0].numpy()[:, : shape[1], : shape[2]]
        for (name, shape), each in zip(SHAPES.items(), found, strict=True)
    }


def agree(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_each_field_has_its_own_shape_and_values(module, image, expected) -> None:
    made = stitchsafe.predict(image, module, save="fields", tile_shape=(8, 16), **OPTIONS)
    assert {name: field.shape for name, field in made.fields.items()} == SHAPES
    for name, field in made.fields.items():
        agree(field, expected[name])
    listed = made.to_json()["plan"]["fields"]
    assert [tuple(each["shape"]) for each in listed] == [shape[1:] for shape in SHAPES.values()]
    assert [each["scale"] for each in listed] == [["1/2", "1/2"], ["1", "1"], ["2", "2"]]
    assert made.plan.output_bytes == 4 * sum(field.size for field in made.fields.values())


def test_a_region_gives_the_elements_that_cover_it(module, image, expected) -> None:
    roi = stitchsafe.Roi((3, 10), (30, 21))
    made = stitchsafe.predict(image, module, save="fields", tile_shape=(8, 8), roi=roi, **OPTIONS)
    agree(made.fields["output0"], expected["output0"][:, 1:17, 5:16])
    agree(made.fields["output1"], expected["output1"][:, 3:33, 10:31])
    agree(made.fields["output2"], expected["output2"][:, 6:66, 20:62])


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_the_store_says_where_each_field_lies(
    tmp_path: Path, module, image, expected, ngff
) -> None:
    made = stitchsafe.predict(
        image, module, tmp_path / "out.zarr", save="fields", tile_shape=(8, 8), ngff=ngff,
        voxel_size="4,2 um", **OPTIONS,
    )  # fmt: skip
    scales = {"output0": (8.0, 4.0), "output1": (4.0, 2.0), "output2": (2.0, 1.0)}
    shifts = {"output0": (2.0, 1.0), "output1": (0.0, 0.0), "output2": (-1.0, -0.5)}
    for name, field in expected.items():
        group = zarr.open_group(made.out / "fields" / name, mode="r")
        agree(group["0"][:], field)
        attributes = group.attrs["ome"] if ngff == "0.5" else group.attrs
        (dataset,) = attributes["multiscales"][0]["datasets"]
        placed = {each["type"]: each for each in dataset["coordinateTransformations"]}
        assert tuple(placed["scale"]["scale"]) == (1.0, *scales[name])
        shift = placed.get("translation", {"translation": (0.0, 0.0, 0.0)})["translation"]
        assert tuple(shift) == (0.0, *shifts[name])
        # The centre of the first element, and the far corner, lie where the volume's do.
        for axis in (0, 1):
            near = shift[axis + 1] - scales[name][axis] / 2
            assert near == pytest.approx(-(4.0, 2.0)[axis] / 2)
    found = stitchsafe.verify(made.out, volume=image, model=module)
    assert found.ok, found.describe()
    assert found.voxels == 3 * 64 * len(list(made.plan.recipe.cells.cells()))


def test_a_damaged_coarse_field_is_found(tmp_path: Path, module, image) -> None:
    made = stitchsafe.predict(image, module, tmp_path / "out.zarr", save="fields", **OPTIONS)
    array = zarr.open_group(made.out / "fields" / "output0", mode="r+")["0"]
    array[1, 22, 17] += 1
    found = stitchsafe.verify(made.out, volume=image, model=module)
    assert not found.ok
    assert "fields/output0/0" in "".join(found.corrupt)


def test_labels_need_an_element_per_voxel(module, image) -> None:
    torch.manual_seed(0)
    coarse = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2)).eval()
    with pytest.raises(ModelError, match="'output' of Sequential has 1/2 x 1/2; keep it with"):
        stitchsafe.predict(image, coarse, labels_from="argmax", **OPTIONS)
    assert stitchsafe.predict(image, coarse, save="fields", **OPTIONS).fields["output"].shape == (
        2, 23, 18,
    )  # fmt: skip


def test_resumed_where_one_cell_is_missing(tmp_path: Path, module, image) -> None:
    options = {"save": "fields", "tile_shape": (8, 8), **OPTIONS}
    np.save(tmp_path / "image.npy", image)
    from stitchsafe.networks import load_network

    network = load_network(module)
    made = stitchsafe.predict(tmp_path / "image.npy", network, tmp_path / "out.zarr", **options)
    entry = sorted((made.out / ".stitchsafe/ledger/predict").glob("*.json"))[-1]
    before = {n: zarr.open_group(made.out / "fields" / n, mode="r")["0"][:] for n in SHAPES}
    assert json.loads(entry.read_text())["cells"]
    entry.unlink()
    again = stitchsafe.predict(tmp_path / "image.npy", network, tmp_path / "out.zarr", **options)
    assert again.progress.blocks_resumed == again.progress.blocks_total - 1
    for name, field in before.items():
        np.testing.assert_array_equal(
            zarr.open_group(made.out / "fields" / name, mode="r")["0"][:], field
        )
