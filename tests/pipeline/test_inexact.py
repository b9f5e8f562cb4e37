"""--accept-inexact: a network that cannot be stitched exactly runs, and everything says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from heard import Heard
from stores import smooth_volume
from torch import nn

import stitchsafe
from stitchsafe.cli import main
from stitchsafe.errors import InputError, UnsafeNetworkError

OPTIONS = {"save": "fields", "threads": 1}
PLENTY = 10**10


class InstanceNormUNet(nn.Module):
    """Two levels, with instance normalisation after each convolution."""

    def __init__(self) -> None:
        super().__init__()
        norm = lambda i, o: nn.Sequential(  # noqa: E731
            nn.Conv2d(i, o, 3, padding=1), nn.InstanceNorm2d(o), nn.ReLU()
        )
        self.down, self.deep = norm(1, 4), norm(4, 8)
        self.pool, self.up = nn.MaxPool2d(2), nn.ConvTranspose2d(8, 4, 2, 2)
        self.last = nn.Sequential(norm(8, 4), nn.Conv2d(4, 2, 1))

    def forward(self, x):
        skip = self.down(x)
        return self.last(torch.cat([skip, self.up(self.deep(self.pool(skip)))], 1))


class GlobalMean(nn.Module):
    """Nothing is derived behind a mean over space."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x):
        x = self.first(x).relu()
        return self.last(x - x.mean((2, 3), keepdim=True))


class Fourier(GlobalMean):
    """Nothing is derived behind a Fourier transform."""

    def forward(self, x):
        spectrum = torch.fft.rfft2(self.first(x).relu())
        return self.last(torch.fft.irfft2(spectrum / (1 + spectrum.abs()), x.shape[2:]))


class Untraceable(GlobalMean):
    """What leaves torch cannot be traced at all; sizes are multiples of 4, the output half."""

    def forward(self, x):
        if x.shape[2] % 4 or x.shape[3] % 4:
            raise ValueError("multiples of 4, please")
        x = torch.from_numpy(np.tanh(self.first(x).numpy()))
        return nn.functional.avg_pool2d(self.last(x), 2)


class OneSize(InstanceNormUNet):
    """An instance norm, and an input of 64 x 64 only."""

    def forward(self, x):
        if tuple(x.shape[2:]) != (64, 64):
            raise ValueError("64 x 64, please")
        return super().forward(x)


def made_of(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return smooth_volume(90, 75).astype(np.float32) / 255


def test_it_is_refused_unless_told(image) -> None:
    module = made_of(InstanceNormUNet)
    with pytest.raises(UnsafeNetworkError, match=r"instance normalisation.*--accept-inexact"):
        stitchsafe.predict(image, module, **OPTIONS)
    with pytest.raises(UnsafeNetworkError, match="--accept-inexact"):
        stitchsafe.plan(image, module, **OPTIONS)


def test_where_memory_holds_the_whole_there_is_one_pass(image) -> None:
    module, heard = made_of(InstanceNormUNet), Heard()
    made = stitchsafe.predict(
        image, module, accept_inexact=True, max_memory=PLENTY, events=heard, **OPTIONS
    )
    answer = made.to_json()
    assert answer["exact"] is False
    assert answer["plan"]["tiles"] == 1
    assert [each["layer"] for each in answer["breaks"]] == ["down.1", "deep.1", "last.0.1"]
    with torch.no_grad():
        padded = torch.from_numpy(np.pad(image, [(0, 0), (0, 1)], "reflect"))
        expected = module(padded[None, None])[0, :, :, :75].numpy()
    np.testing.assert_allclose(made.fields["output"], expected, rtol=0, atol=1e-5)
    assert answer["seams"]["max_abs_diff"] <= 1e-5
    assert "layer down.1" in heard


def test_the_halo_is_the_widest_that_memory_allows(image) -> None:
    module = made_of(InstanceNormUNet)
    run = lambda memory: stitchsafe.predict(  # noqa: E731
        image, module, accept_inexact=True, tile_shape=(16, 16), max_memory=memory, **OPTIONS
    )
    wide = run(PLENTY)
    assert wide.plan.recipe.exact is False
    # Every tile reads the whole, and is right.
    shapes = wide.plan.grid.input_shapes(wide.plan.recipe.roi)
    assert set(shapes) == {(90, 76)}
    least = stitchsafe.plan(
        image, module, accept_inexact=True, tile_shape=(16, 16), max_memory=PLENTY, **OPTIONS
    ).memory.peak
    tight = run(least - 400_000)
    assert tight.plan.memory.peak <= least - 400_000
    (before, _after), _ = tight.plan.recipe.halo
    (most, _), _ = wide.plan.recipe.halo
    # Tiles at the border slide inward: they read no less than those inside.
    for axis in tight.plan.grid.axes:
        whole = axis.domain[1] - axis.domain[0]
        assert min(axis.input_sizes()) >= min(whole, sum(axis.halo) + axis.tile)
    assert 0 < before < most
    assert before % 2 == 0
    assert wide.seams.max_abs_diff == wide.seams.elements == 0
    assert tight.seams.elements > 0
    assert tight.seams.max_abs_diff > 1e-3
    difference = np.abs(tight.fields["output"] - wide.fields["output"]).max()
    assert difference > 1e-3


@pytest.mark.parametrize("tile", [(45, 38), (16, 16), (2, 76)])
def test_few_tiles_are_measured_on_many_elements(image, tile) -> None:
    module, shape = made_of(InstanceNormUNet), tuple(2 * (size // 2) for size in tile)
    least = stitchsafe.plan(
        image, module, accept_inexact=True, tile_shape=shape, max_memory=PLENTY, **OPTIONS
    ).memory.peak
    heard = Heard()
    made = stitchsafe.predict(
        image, module, accept_inexact=True, tile_shape=shape, max_memory=least - 300_000,
        events=heard, **OPTIONS,
    )  # fmt: skip
    seams = made.seams
    across = [size > own for size, own in zip(image.shape, shape, strict=True)]
    assert seams.seams >= sum(across)
    # Whole faces: as many as a tile is wide, and on both sides.
    assert seams.elements >= seams.seams * min(shape) * max(shape) // 2
    assert f"{seams.elements:,} elements at {seams.seams} seams" in heard
    # What is measured is about what tiles do to this result.
    with torch.no_grad():
        padded = torch.from_numpy(np.pad(image, [(0, 0), (0, 1)], "reflect"))
        whole = module(padded[None, None])[0, :, :, :75].numpy()
    wrong = np.abs(made.fields["output"] - whole).max()
    assert wrong / 10 < seams.max_abs_diff < 10 * wrong


def test_a_safe_network_stays_exact(image) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3))
    plain = stitchsafe.predict(image, module, max_memory=PLENTY, **OPTIONS)
    made = stitchsafe.predict(image, module, accept_inexact=True, max_memory=PLENTY, **OPTIONS)
    assert made.to_json()["exact"] is True
    assert made.to_json()["seams"] is None
    assert made.to_json()["breaks"] == []
    assert made.plan.recipe == plain.plan.recipe
    np.testing.assert_array_equal(made.fields["output"], plain.fields["output"])


@pytest.mark.parametrize("kind", [InstanceNormUNet, GlobalMean, Fourier, Untraceable, OneSize])
def test_the_store_and_verify_say_so(tmp_path: Path, image, kind) -> None:
    from stitchsafe.networks import load_network

    network, heard = load_network(made_of(kind)), Heard()
    options = {"accept_inexact": True, "tile_shape": (32, 32), "max_memory": PLENTY, **OPTIONS}
    made = stitchsafe.predict(image, network, tmp_path / "out.zarr", events=heard, **options)
    recipe = json.loads((made.out / ".stitchsafe" / "recipe.json").read_text())
    assert recipe["recipe"]["exact"] is False
    record = json.loads((made.out / ".stitchsafe" / "inexact.json").read_text())
    assert record["exact"] is False
    assert record["breaks"] == made.to_json()["breaks"] != []
    assert record["seams"] == made.to_json()["seams"]
    # The others' tiles read it all.
    for each in ("seams", "elements", "max_abs_diff"):
        assert (record["seams"][each] > 0) is (kind is OneSize)
    found = stitchsafe.verify(made.out, volume=image, model=network)
    assert found.ok, found.describe()
    assert (found.exact, found.tolerance, found.bit_mismatches) == (False, None, 0)
    assert found.to_json()["exact"] is False
    assert "NOT exact" in found.describe()
    again = stitchsafe.predict(image, network, made.out, events=heard, **options)
    assert again.progress.blocks_resumed == again.progress.blocks_total
    assert ("period guessed" in heard) is (kind in (Fourier, Untraceable, OneSize))


def test_what_cannot_be_traced_is_tried(image) -> None:
    module, heard = made_of(Untraceable), Heard()
    made = stitchsafe.predict(
        image, module, accept_inexact=True, max_memory=PLENTY, events=heard, **OPTIONS
    )
    assert "taken from its parameters and from passes over 256 x 256 voxels (" in heard
    assert "and 512 x 512 voxels (" in heard
    assert "along y nothing is known" in heard
    with torch.no_grad():
        padded = torch.from_numpy(np.pad(image, [(0, 2), (0, 1)], "reflect"))
        expected = module(padded[None, None])[0, :, :45].numpy()
    assert made.fields["output"].shape == (2, 45, 38)
    np.testing.assert_allclose(made.fields["output"], expected, rtol=0, atol=1e-6)


def test_what_runs_on_no_size_is_refused(image) -> None:
    class Never(GlobalMean):
        def forward(self, x):
            return super().forward(torch.from_numpy(x.numpy())[:, :, :3, :3])[0, 0, 0]

    with pytest.raises(InputError, match="ran on no input of 64, 128, 256"):
        stitchsafe.predict(image, made_of(Never), accept_inexact=True, **OPTIONS)


def test_the_command_takes_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "image.npy", np.zeros((20, 20), np.float32))
    command = ["predict", str(tmp_path / "image.npy"), "-m", "disks-2d", "--accept-inexact"]
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--save", "fields", "--json", "--quiet"])
    answer = json.loads(capsys.readouterr().out)
    assert (answer["exact"], answer["seams"]) == (True, None)
