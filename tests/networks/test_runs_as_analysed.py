"""What runs is what was analysed: the same in another precision, and in another memory layout."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

import stitchsafe
from stitchsafe.errors import ModelError
from stitchsafe.networks import TorchNetwork, load_onnx

OPTIONS = {"save": "fields", "threads": 1, "max_memory": 10**10, "tile_shape": (16, 16)}
IMAGE = np.random.default_rng(0).standard_normal((40, 48)).astype(np.float32)


class AsksForTheType(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y if y.dtype == torch.float32 else y - y.mean()


class MixesTypes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 1, 3, padding=1).to(torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).double()).float()


class LaysRowsOut(nn.Module):
    """Its view holds for contiguous tensors alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        b, c, h, w = y.shape
        return y.view(b, c * h, w).view(b, c, h, w)


@pytest.mark.parametrize("precision", ["fp64", "bf16"])
def test_another_program_in_another_precision_is_refused(precision: str) -> None:
    assert TorchNetwork(AsksForTheType()).geometry.verdict == "safe"
    stitchsafe.predict(IMAGE, AsksForTheType(), **OPTIONS)
    with pytest.raises(ModelError, match=r"does not do in .* what was analysed"):
        stitchsafe.predict(IMAGE, AsksForTheType(), precision=precision, **OPTIONS)


def test_parts_of_several_types_are_refused_before_any_work() -> None:
    with pytest.raises(ModelError, match="neither ask for types nor mix them"):
        stitchsafe.predict(IMAGE, MixesTypes(), **OPTIONS)


def test_a_module_that_needs_contiguous_tensors_gets_them() -> None:
    module = LaysRowsOut().eval()
    made = stitchsafe.predict(IMAGE, module, **OPTIONS)
    assert made.plan.recipe.layout == "contiguous"
    with torch.no_grad():
        whole = module(torch.from_numpy(IMAGE)[None, None])[0].numpy()
    assert np.abs(made.fields["output"] - whole).max() <= 1e-5 * np.abs(whole).max()
    assert stitchsafe.plan(IMAGE, AsksForTheType(), save="fields").recipe.layout == "channels_last"


def test_axes_of_an_output_that_contradict_the_graph_are_refused(tmp_path) -> None:
    turned = helper.make_graph(
        [helper.make_node("Transpose", ["i"], ["o"], perm=[0, 1, 3, 2])],
        "turned",
        [helper.make_tensor_value_info("i", TensorProto.FLOAT, [1, 1, "h", "w"])],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, [1, 1, "w", "h"])],
    )
    model = helper.make_model(turned, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "turned.onnx")
    honest = load_onnx(tmp_path / "turned.onnx", axes={"i": "bcyx", "o": "bcxy"})
    assert honest.outputs[0].channels == 1
    contradicting = load_onnx(tmp_path / "turned.onnx", axes={"i": "bcyx", "o": "bcyx"})
    with pytest.raises(ModelError, match=r"stated as bcyx, and follow .* as bcxy"):
        stitchsafe.predict(IMAGE, contradicting, **OPTIONS)
