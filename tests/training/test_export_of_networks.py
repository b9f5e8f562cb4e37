"""Networks that are taken elsewhere: the same fields and labels, whatever runs them."""

from __future__ import annotations

import gc
import importlib.util
import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from heard import Heard

import stitchsafe
from stitchsafe.cli import main
from stitchsafe.errors import MissingExtraError, ModelError, StoreError
from stitchsafe.geometry import AxisGeometry
from stitchsafe.networks import (
    ModelConfig,
    TorchNetwork,
    load_network,
    load_onnx,
    quietly,
    save_folder,
)
from stitchsafe.training import NetworkExport, export_network, is_network
from stitchsafe.training import _elsewhere as elsewhere
from stitchsafe.training import _onnx as writing
from stitchsafe.training import _package as packing


def can_judge() -> bool:
    try:
        writing.require_exporters(packages=True)
    except MissingExtraError:
        return False
    return True


judged = pytest.mark.skipif(not can_judge(), reason="bioimageio.spec is absent, or too old")
SOME = writing.Parity(1e-7, ((44, 44),))
FORMS = ("onnx", *(["bioimageio"] if can_judge() else []))
ENDINGS = {"onnx": "tiny.onnx", "bioimageio": "tiny.bioimageio.zip"}


def model_folder(path: Path, **arguments: Any) -> Path:
    """A small network of random weights, in the folder of a model."""
    heads = {"embedding": 2, "foreground": 1}
    arguments = {"ndim": 2, "levels": 2, "base_channels": 4, "heads": heads, **arguments}
    torch.manual_seed(3)
    outputs = [{"name": name, "channels": count} for name, count in heads.items()]
    outputs[1]["activation"] = "sigmoid"
    config = {
        "format": "stitchsafe-model/1",
        "name": "tiny",
        "network": {"name": "unet", "arguments": arguments},
        "input": {
            "axes": "yx",
            "normalize": "percentile",
            "percentiles": (2, 99),
            "voxel_size": (0.5, 0.5),
            "unit": "micrometer",
        },
        "outputs": outputs,
        "labels": {
            "from": "foreground",
            "window": (64, 64),
            "foreground_threshold": 0.42,
            "min_size": 4,
        },
        "tiling": {"tile_shape": (32, 32)},
        "license": "CC0-1.0 (all of it)",
        "authors": ["A. Person", "B. Person"],
    }
    save_folder(path, stitchsafe.UNet(**arguments), ModelConfig.model_validate(config))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def exported(folder: Path) -> NetworkExport:
    (folder / "card.md").write_text("# tiny\n\nKnows nothing.\n\n![picture](picture.png)\n")
    made = stitchsafe.export(folder, FORMS)
    assert isinstance(made, NetworkExport)
    return made


def test_files_lie_beside_the_folder_and_say_how_they_were_compared(
    folder: Path, exported: NetworkExport
) -> None:
    assert exported.files == {form: folder.parent / ENDINGS[form] for form in FORMS}
    told = exported.to_json()["parity"]
    assert 0 < told["difference"] <= told["tolerance"] == 1e-5
    least, more = told["sizes"]
    assert least == [44, 44]
    assert len(set(more)) == 2
    assert "of the largest value" in exported.describe()
    # Nothing of the machine that it was made on.
    assert str(Path(stitchsafe.__file__).parent) not in str(onnx.load(exported.files["onnx"]))


@pytest.mark.parametrize("form", FORMS)
def test_fields_and_labels_are_those_of_the_folder(
    folder: Path, exported: NetworkExport, form: str, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).random((24, 22))
    image = (np.kron(noise, np.ones((5, 5)))[:113] * 200).astype(np.uint8)
    own, its = (
        stitchsafe.predict(image, model=model, save=("labels", "fields"), voxel_size="0.5,0.5um")
        for model in (folder, exported.files[form])
    )
    assert list(own.fields) == list(its.fields) == ["embedding", "foreground"]
    for name, field in own.fields.items():
        assert np.abs(its.fields[name] - field).max() <= 1e-5 * max(1, np.abs(field).max())
    assert own.labels.max() > 3
    assert np.count_nonzero(own.labels != its.labels) <= 3


def test_a_graph_is_the_network_for_any_size_and_batch(
    folder: Path, exported: NetworkExport
) -> None:
    graph = onnx.load(exported.files["onnx"]).graph
    sizes = [each.dim_param for each in graph.input[0].type.tensor_type.shape.dim]
    assert sizes == ["batch", "", "4*ny + 40", "4*nx + 40"]
    assert [each.name for each in graph.output] == ["embedding", "foreground"]
    own, its = load_network(folder), load_onnx(exported.files["onnx"])
    assert its.geometry.axes == own.geometry.axes
    assert its.config is not None
    assert own.config is not None
    assert its.config.input == own.config.input
    assert (its.config.labels, its.config.tiling) == (own.config.labels, own.config.tiling)


def test_another_network_is_not_taken_for_it(folder: Path, exported: NetworkExport) -> None:
    network, content = load_network(folder), exported.files["onnx"].read_bytes()
    assert isinstance(network, TorchNetwork)
    assert network.config is not None
    writing._compared(network, content)
    bare = tuple(o.model_copy(update={"activation": "none"}) for o in network.config.outputs)
    for change in (
        {"config": network.config.model_copy(update={"outputs": bare})},
        {"module": stitchsafe.UNet(ndim=2, levels=2, base_channels=4, heads={"a": 2, "b": 1})},
    ):
        other = TorchNetwork(**{"module": network.module, "config": network.config, **change})
        with pytest.raises(ModelError, match="onnxruntime gives values that differ by"):
            writing._compared(other, content)
    wide = TorchNetwork(stitchsafe.UNet(ndim=2, in_channels=2, levels=2), config=None)
    wide.config = network.config
    with pytest.raises(ModelError, match=r"onnxruntime gives an error \(.*invalid dimensions"):
        writing._compared(wide, content)
    axes = tuple(replace(axis, period=8) for axis in network.geometry.axes)
    vars(network)["geometry"] = replace(network.geometry, axes=axes)
    with pytest.raises(ModelError, match=r"safe with the period \(4, 4\).*safe with \(8, 8\)"):
        writing._refuse_other_geometry(network, content)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{", "Expecting property name"),
        ('{"format": "stitchsafe-model/1", "nam": "a"}', "under 'stitchsafe-model'"),
        (
            (('"name": "embedding"', '"name": "a", "postprocessing": [{"kind": "sigmoid"}]'),),
            "steps after an output",
        ),
        ((('"channels": 2', '"channels": 5'),), r"describes outputs of \[5, 1\] channels"),
    ],
)
def test_a_file_that_says_nonsense_of_itself_is_refused(
    exported: NetworkExport, tmp_path: Path, entry: Any, said: str
) -> None:
    model = onnx.load(exported.files["onnx"])
    (card,) = model.metadata_props
    card.value = entry if isinstance(entry, str) else card.value.replace(*entry[0])
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match=said):
        load_network(tmp_path / "other.onnx")


@judged
def test_a_package_states_what_was_traced(exported: NetworkExport) -> None:
    with zipfile.ZipFile(exported.files["bioimageio"]) as archive:
        told = yaml.safe_load(archive.read("bioimageio.yaml"))
        card = archive.read("README.md").decode()
        foreground = np.load(io.BytesIO(archive.read("test_foreground.npy")))
    (given,) = told["inputs"]
    # 44 voxels give 4, of which a halo of 0 leaves one period.
    assert given["axes"][2]["size"] == {"min": 44, "step": 4}
    assert (given["axes"][2]["unit"], given["axes"][2]["scale"]) == ("micrometer", 0.5)
    (step,) = given["preprocessing"]
    assert (step["id"], step["kwargs"]["axes"]) == ("scale_range", ["y", "x"])
    assert (step["kwargs"]["min_percentile"], step["kwargs"]["max_percentile"]) == (2, 99)
    axis = told["outputs"][1]["axes"][2]
    assert axis["size"] == {"tensor_id": "input", "axis_id": "y", "offset": -40}
    own = told["config"]["stitchsafe"]
    assert (own["period"], own["context"]) == ([4, 4], [[20, 20]] * 2)
    assert own["labels"]["from"] == "foreground"
    assert told["license"] == "CC0-1.0"
    assert [author["name"] for author in told["authors"]] == ["A. Person", "B. Person"]
    assert told["cite"][0]["doi"].endswith("2101.05846")
    assert "Knows nothing." in card
    assert "picture.png" not in card
    assert 0 <= foreground.min() < foreground.max() <= 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files left open
@judged
@pytest.mark.parametrize(("gain", "shift"), [(0.01, 0.0), (1e3, 0.0), (0.01, 0.5)])
def test_outputs_of_any_size_are_packaged_with_a_tolerance_of_their_size(
    folder: Path, exported: NetworkExport, tmp_path: Path, gain: float, shift: float
) -> None:
    """Small probabilities and embeddings too, of which 1e-3 would be too much, and large ones."""
    network = load_network(folder)
    assert isinstance(network, TorchNetwork)
    assert network.config is not None
    heads = network.module.heads
    with torch.no_grad():
        heads["embedding"].weight.mul_(gain)
        heads["embedding"].bias.mul_(gain).add_(shift)
        heads["foreground"].bias.sub_(6)  # probabilities of less than 0.01
    model = onnx.load(exported.files["onnx"])  # what is packed is not run here
    made = packing.pack(network, model, "# tiny", Heard())
    with zipfile.ZipFile(io.BytesIO(made)) as archive:
        told = yaml.safe_load(archive.read("bioimageio.yaml"))
        tests = {
            name: np.load(io.BytesIO(archive.read(f"test_{name}.npy")))
            for name in ("embedding", "foreground")
        }
    entries = told["config"]["bioimageio"]["reproducibility_tolerance"]
    assert [entry["output_ids"] for entry in entries] == [["embedding"], ["foreground"]]
    for entry, values in zip(entries, tests.values(), strict=True):
        assert 0 < entry["absolute_tolerance"] <= 1e-4 * np.abs(values).max() * 1.001
        assert entry["absolute_tolerance"] <= 0.01 * values.max()


def test_a_test_input_is_looked_for_that_gives_positive_values(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The format asks that what may be off is no more than a hundredth of the largest value."""
    network = load_network(folder)
    assert isinstance(network, TorchNetwork)
    assert network.config is not None
    seen = []

    def fake(*given: Any) -> dict[str, np.ndarray]:
        seen.append(given[-1])
        return {"embedding": np.full((1, 2, 4, 4), given[-1] - 2.5, np.float32)}

    monkeypatch.setattr(packing, "_tests", fake)
    tests = packing._positive_tests(network, network.config)
    assert (seen, tests["embedding"].max()) == ([0, 1, 2, 3], 0.5)


def test_a_halo_makes_tiles_of_whole_periods() -> None:
    valid = AxisGeometry(8, (44, 48), 100, 92, 8, 44, 88, padded=False)
    padded = AxisGeometry(8, (44, 44), 89, 8, 8, 0, 0, padded=True)
    for axis, expected in (
        (valid, (100, 8, -88, 2)),  # 100 voxels give 12, of which 8 are left
        (padded, (104, 8, 0, 48)),
    ):
        found = packing._Sizes.of(axis)
        assert (found.min, found.step, found.offset, found.halo) == expected
        assert axis.output_size(found.min) - 2 * found.halo == axis.period
    odd = replace(valid, shrinkage=87)
    assert packing._Sizes.of(odd).halo == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files left open
@judged
def test_another_implementation_reproduces_the_test_outputs(exported: NetworkExport) -> None:
    pytest.importorskip("bioimageio.core", reason="the other implementation is not installed")
    with quietly():
        from bioimageio.core import create_prediction_pipeline, test_model
        from bioimageio.core.digest_spec import get_test_input_sample, get_test_output_sample
        from bioimageio.spec import load_model_description

        summary = test_model(exported.files["bioimageio"])
        assert summary.status == "passed", summary.format()
        model = load_model_description(exported.files["bioimageio"])
        # The test input is one that the network takes as it is.
        found = create_prediction_pipeline(model).predict_sample_without_blocking(
            get_test_input_sample(model), skip_input_padding=True, skip_output_cropping=True
        )
        stated = get_test_output_sample(model)
        gc.collect()
    for name, tensor in stated.members.items():
        np.testing.assert_allclose(found.members[name].data, tensor.data, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tiny", "--to", "tiff"], "tiny is a trained network, which has no form 'tiff'"),
        (["tiny", "--to", "onnx", "--max-memory", "1GB"], "--max-memory is for a result of"),
        (["tiny", "--to", "onnx", "-o", "taken.onnx"], "taken.onnx exists; replace it with"),
        (["tiny", "--to", "onnx", "-o", "tiny/config.yaml", "--overwrite"], "ends in .onnx"),
        (["tiny", "--to", "onnx,bioimageio", "-o", "a.onnx"], "are 2 files"),
        (["begun", "--to", "onnx"], "begun is a training that has no weights yet"),
        (["damaged", "--to", "onnx"], "damaged/weights.safetensors does not hold weights"),
        (["images", "--to", "onnx"], "images is nothing that can be exported"),
        (["disks-3d", "--to", "onnx"], "there is no disks-3d"),
        (["stepped", "--to", "onnx"], "steps that follow its outputs"),
    ],
)
def test_what_cannot_be_exported_is_said_before_anything_is_written(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(folder)
    (tmp_path / "taken.onnx").write_text("mine")
    for name in ("begun", "images", "damaged", "stepped"):
        (tmp_path / name).mkdir()
    (tmp_path / "begun" / "train.yaml").touch()
    for name in ("damaged", "stepped"):
        text = (folder / "config.yaml").read_text()
        steps = "postprocessing: [{kind: sigmoid}]"
        text = text.replace("postprocessing: []", steps) if name == "stepped" else text
        (tmp_path / name / "config.yaml").write_text(text)
        weights = (folder / "weights.safetensors").read_bytes()
        place = tmp_path / name / "weights.safetensors"
        place.write_bytes(weights if name == "stepped" else weights[:100])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main(["export", *words])
    output, errors = capsys.readouterr()
    assert (ended.value.code, output) == (2, "")
    assert said in " ".join(errors.split())
    assert errors.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "taken.onnx").read_text() == "mine"


def failing(*_: Any, **__: Any) -> Any:
    try:
        raise RuntimeError("Could not guard\non this")
    except RuntimeError as error:
        raise ValueError("many lines of advice") from error


def test_a_network_that_the_exporter_does_not_know_gives_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.onnx, "export", failing)
    with pytest.raises(ModelError, match=r"tiny cannot be exported as ONNX \(RuntimeError: Could"):
        export_network(folder, ["onnx"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_named_with_its_extra(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_version", lambda name: (0, 5, 12))
    if importlib.util.find_spec("bioimageio"):
        with pytest.raises(MissingExtraError, match=r"from 0\.5\.14 on .*stitchsafe\[export\]"):
            export_network(folder, ["bioimageio"], tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"onnxscript .*stitchsafe\[export\]"):
        export_network(folder, ["onnx"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_network_that_cannot_be_tiled_becomes_no_package_and_is_said_to_be_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = model_folder(tmp_path / "ring", padding="circular")
    network, heard = load_network(ring), Heard()
    assert isinstance(network, TorchNetwork)
    with pytest.raises(ModelError, match=r"would get seams: it is unsafe, .*export it to onnx"):
        packing.refuse_unpackable(network)
    with pytest.raises(ModelError, match=r"would get seams: it is unsafe, .*export it to onnx"):
        export_network(ring, ["bioimageio"], events=heard)
    assert not any("NOT exact" in line for line in heard.lines)
    monkeypatch.setattr(elsewhere, "onnx_of", lambda network: (onnx.ModelProto(), SOME))
    made = export_network(ring, FORMS, events=heard)
    assert any("NOT exact" in line for line in heard.lines)
    assert list(made.files) == ["onnx"]
    assert made.files["onnx"].exists()
    assert not (tmp_path / "ring.bioimageio.zip").exists()
    if "bioimageio" in FORMS:
        (reason,) = made.to_json()["refused"].values()
        assert "would get seams" in reason
        assert "onnx alone" not in reason
        assert f"no bioimageio: {reason}" in made.describe().splitlines()
        with pytest.raises(SystemExit) as ended:
            main(["export", str(ring), "--to", ",".join(FORMS), "--overwrite"])
        assert ended.value.code == 1


def test_what_is_decided_for_the_whole_volume_is_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_folder(tmp_path / "lps", downsampling="lps", upsampling="lpu")
    with pytest.raises(SystemExit) as ended:
        main(["export", str(folder), "--to", "onnx"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "tiny cannot be exported: what its layer" in line
    assert "decided once for the whole volume" in line
    assert "give predict its folder" in line
    assert [path.name for path in tmp_path.iterdir()] == ["lps"]


def test_a_bundled_model_is_found_by_its_name_and_written_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not is_network("disks-3d")
    assert not is_network("s3://bucket/disks-2d")
    (tmp_path / "disks-2d.onnx").touch()
    with pytest.raises(StoreError, match=r"disks-2d\.onnx exists; replace it"):
        stitchsafe.export("disks-2d", "onnx")
