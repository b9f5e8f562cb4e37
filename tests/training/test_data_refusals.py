"""What is wrong with data is said before any work, with the value and what to do."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from labelled_volumes import WINDOW, cells, examples, seeded, training, write

from stitchsafe.errors import InputError, InterruptedRunError, VolumeError, VoxelSizeError
from stitchsafe.training import TrainingWindow, _data_record, load_training, train
from stitchsafe.training import _sources as sources


def refused(folder, said, error=VolumeError, window=WINDOW, **changes) -> str:
    with pytest.raises(error) as caught:
        examples(folder, training(said, **changes), window)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_labels_of_another_shape_name_both_shapes(tmp_path):
    raw, labels = cells()
    message = refused(tmp_path, write(tmp_path, "npy", raw, labels[:, :-3]))
    assert "(24, 40, 36)" in message
    assert "(24, 37, 36)" in message


@pytest.mark.parametrize("ignored", [None, 7])
def test_labels_without_an_instance(tmp_path, ignored):
    raw, labels = cells()
    only = np.full_like(labels, 0 if ignored is None else ignored)
    message = refused(tmp_path, write(tmp_path, "zarr", raw, only) | {"ignore": ignored})
    assert "no instance" in message
    assert "labels.zarr" in message


def test_a_region_without_an_instance(tmp_path):
    raw, labels = cells()
    labels[12:] = 0
    said = write(tmp_path, "h5", raw, labels)
    assert "no instance" in refused(tmp_path, said | {"region": [[12, 24], [0, 40], [0, 36]]})


@pytest.mark.parametrize("dtype", [np.float32, np.bool_])
def test_labels_that_are_no_whole_numbers(tmp_path, dtype):
    raw, labels = cells()
    message = refused(tmp_path, write(tmp_path, "npy", raw, labels.astype(dtype)))
    assert np.dtype(dtype).name in message
    assert "whole numbers" in message


@pytest.mark.parametrize("kind", ["h5", "npz"])
def test_a_missing_array_is_named_beside_those_there_are(tmp_path, kind):
    said = write(tmp_path, kind, *cells()) | {"labels": "segmentation"}
    message = refused(tmp_path, said)
    assert "'segmentation'" in message
    assert "raw" in message


def test_a_missing_array_in_an_image_file_is_named_beside_those_there_are(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.zeros((30, 30)), truth=np.ones((30, 30), int))
    window = TrainingWindow((8, 8), (16, 16), (4, 4), (0, 0))
    said = {"kind": "images", "path": "."}
    message = refused(tmp_path, said, axes="yx", window=window)
    assert "'labels'" in message
    assert "image, truth" in message


def test_a_region_out_of_bounds_is_named_with_what_would_fit(tmp_path):
    said = write(tmp_path, "npy", *cells())
    message = refused(tmp_path, said | {"region": [[0, 20], [0, 41], [3, 36]]})
    assert "0:20,0:41,3:36" in message
    assert "(24, 40, 36)" in message
    assert "0:20,0:40,3:36 would fit" in message
    assert "outside" in refused(tmp_path, said | {"region": [[90, 99], [0, 9], [0, 9]]})
    assert "is empty" in refused(tmp_path, said | {"region": [[9, 3], [0, 9], [0, 9]]})
    assert "2 axes" in refused(tmp_path, said | {"region": [[0, 9], [0, 9]]})


def test_a_window_larger_than_the_volume_names_the_nearest_that_fits(tmp_path):
    said = write(tmp_path, "npy", *cells())
    window = TrainingWindow((30, 10, 50), (40, 20, 60), (5, 5, 5), (0, 0, 0))
    message = refused(tmp_path, said, window=window)
    assert "(30, 10, 50)" in message
    assert "(24, 10, 36)" in message


def test_channels_and_axes_that_the_network_does_not_take(tmp_path):
    raw, labels = cells()
    np.save(tmp_path / "two.npy", np.stack([raw, raw]))
    np.save(tmp_path / "labels.npy", labels)
    said = {"image": "two.npy", "labels": "labels.npy"}
    assert "2 channels" in refused(tmp_path, said)
    assert examples(tmp_path, training(said | {"channel": 1})).draw(seeded()).image.shape[0] == 1
    np.save(tmp_path / "flat.npy", raw[0])
    assert "axes yx" in refused(tmp_path, said | {"image": "flat.npy"})
    window = TrainingWindow((8, 8), (16, 16), (4, 4), (0, 0))
    assert "24 slices" in refused(tmp_path, write(tmp_path, "npy", raw, labels), axes="yx",
                                  window=window)  # fmt: skip


def test_every_source_is_looked_at_before_any_is_read(tmp_path, monkeypatch):
    """Reading a large volume for its statistics takes a while."""
    said = write(tmp_path, "npy", *cells())
    monkeypatch.setattr(_data_record, "measured", None)
    refused(tmp_path, {"sources": [said, said | {"labels": "nowhere.npy"}]})
    refused(tmp_path, said, InputError, augmentation={"elastic": {"spacing": [3, 3], "sigma": 1}})


def test_an_image_without_any_contrast(tmp_path):
    raw, labels = cells()
    message = refused(tmp_path, write(tmp_path, "zarr", raw * 0, labels))
    assert "no contrast in 0:24,0:40,0:36 between percentiles 1 and 99" in message


def test_an_ignored_id_that_cannot_occur(tmp_path):
    message = refused(tmp_path, write(tmp_path, "npy", *cells()) | {"ignore": -1})
    assert "-1" in message
    assert "uint16" in message


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("sampling", [{}, {"instances": 0.5}])
def test_a_negative_id_is_found_at_the_start_unless_it_is_ignored(
    tmp_path, monkeypatch, held, sampling
):
    if not held:
        monkeypatch.setattr(sources, "_HELD_BYTES", 0)
    raw, labels = cells()
    signed = labels.astype(np.int32)
    signed[12:, 31:, 20:] = -3  # behind the first instances
    said = write(tmp_path, "npy", raw, signed)
    region = {"region": [[2, 24], [0, 40], [0, 36]], "sampling": sampling}
    message = refused(tmp_path, said | region)
    assert "labels.npy at voxel 12,31,20 hold the negative id -3" in message
    assert "say ignore: -3" in message
    assert "-3" in refused(tmp_path, said | {"ignore": 7})
    drawn = examples(tmp_path, training(said | region | {"ignore": -3}))
    assert any((drawn.draw(seeded(step)).instances == -1).any() for step in range(9))
    examples(tmp_path, training(said | {"region": [[0, 12], [0, 40], [0, 36]]}))


def test_a_negative_id_in_an_image_file(tmp_path):
    labels = np.ones((30, 30), int)
    labels[4, 7] = -1
    np.savez(tmp_path / "a.npz", image=np.eye(30), labels=labels)
    window = TrainingWindow((8, 8), (16, 16), (4, 4), (0, 0))
    said = {"kind": "images", "path": "."}
    message = refused(tmp_path, said, axes="yx", window=window)
    assert "a.npz at voxel 4,7 hold the negative id -1" in message
    examples(tmp_path, training(said | {"ignore": -1}, axes="yx"), window)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize(("value", "word"), [(np.nan, "nan"), (-np.inf, "inf")])
@pytest.mark.parametrize("normalize", ["none", "percentile", "zscore"])
def test_voxels_that_are_no_numbers_are_named(tmp_path, monkeypatch, value, word, normalize, held):
    if not held:
        monkeypatch.setattr(sources, "_HELD_BYTES", 0)
    raw, labels = cells()
    broken = raw.astype(np.float32)
    broken[21, 5, 6] = broken[22, 1, 1] = value
    said = write(tmp_path, "npy", broken, labels)
    rule = {"input": {"axes": "zyx", "normalize": normalize}}
    message = refused(tmp_path, said, **rule)
    assert f"image.npy at voxel 21,5,6 is {word}, and 1 others are" in message
    region = {"region": [[0, 21], [0, 40], [0, 36]]}
    examples(tmp_path, training(said | region, **rule)).draw(seeded())


def test_intensities_beyond_the_networks_numbers_are_named_where_they_are_met(tmp_path):
    raw, labels = cells()
    large = raw.astype(np.float64)
    large[3:, 5:] = 1e300
    said = write(tmp_path, "npy", large, labels)
    region = {"region": [[2, 24], [0, 40], [0, 36]]}
    drawn = examples(tmp_path, training(said | region, input={"axes": "zyx"}))
    with np.errstate(over="ignore"), pytest.raises(InterruptedRunError) as stopped:
        drawn.draw(seeded())
    assert "is 1e+300" in str(stopped.value)
    place = [int(i) for i in str(stopped.value).split("at voxel ")[1].split(" ")[0].split(",")]
    assert large[tuple(place)] == 1e300


def test_voxels_of_another_size_than_the_network_is_for(tmp_path):
    import h5py

    said = write(tmp_path, "h5", *cells())
    with h5py.File(tmp_path / "cells.h5", "a") as file:
        file["raw"].attrs["voxel_size"], file["raw"].attrs["voxel_unit"] = (40, 10, 10), "nm"
    wanted = {"axes": "zyx", "voxel_size": [10, 10, 10]}
    assert "40" in refused(tmp_path, said, VoxelSizeError, input=wanted)
    examples(tmp_path, training(said, input=wanted | {"voxel_size": [40, 10, 10]}))


def test_a_volume_that_is_not_named(tmp_path):
    with pytest.raises(ValueError, match="give path, or image and labels"):
        training({"image": "a.tif"})
    with pytest.raises(ValueError, match="said of each"):
        training({"region": [[0, 1]], "sources": [{"path": "a.h5"}]})
    assert "there is no file" in refused(tmp_path, {"path": "nowhere.h5"})


def test_an_unknown_key_of_a_source_is_named_with_the_nearest(tmp_path):
    values = training({"sources": [{"path": "a.h5"}]}).model_dump(mode="json", by_alias=True)
    values["data"]["sources"][0]["regoin"] = 1
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=r"sources\.0\.regoin.*did you mean 'region'"):
        load_training(tmp_path / "train.yaml")


def test_nothing_is_written_where_data_are_refused(tmp_path):
    raw, labels = cells()
    config = training(write(tmp_path, "npy", raw, labels * 0))
    with pytest.raises(VolumeError, match="no instance"):
        train(config, tmp_path / "run", data=tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_chunk_that_is_damaged_while_training_stops_it_part_way(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_HELD_BYTES", 0)
    drawn = examples(tmp_path, training(write(tmp_path, "zarr", *cells())))
    drawn.draw(seeded())
    for chunk in (tmp_path / "image.zarr" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"damaged")
    with pytest.raises(InterruptedRunError, match=r"could not be read.*the same command again"):
        drawn.draw(seeded(1))


def test_data_are_looked_for_in_the_folder_that_is_given_instead(tmp_path):
    said = write(tmp_path, "npy", *cells())
    assert train(training({"sources": [said]}), tmp_path / "run", data=tmp_path).steps == 1
