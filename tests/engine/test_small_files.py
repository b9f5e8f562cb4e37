"""Arrays in small files: read as they were written, whatever they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, scalar_dtypes

from stitchsafe.engine import load_arrays, save_arrays
from stitchsafe.errors import IntegrityError


@given(st.data())
def test_arrays_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    dtypes = scalar_dtypes()
    given_arrays = data.draw(
        st.dictionaries(
            st.sampled_from(["a", "b b", "some.npy"]),
            dtypes.flatmap(lambda of: arrays(of, array_shapes(min_dims=0, min_side=0, max_side=4))),
        )
    )
    if data.draw(st.booleans()):
        given_arrays = {name: np.asfortranarray(each) for name, each in given_arrays.items()}
    path = tmp_path_factory.getbasetemp() / "arrays.npz"
    save_arrays(path, given_arrays)
    found = load_arrays(path)
    assert found.keys() == given_arrays.keys()
    for name, each in found.items():
        assert each.dtype == given_arrays[name].dtype
        assert each.shape == given_arrays[name].shape
        assert each.tobytes() == given_arrays[name].tobytes()
        assert each.flags.writeable


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.array([{}], dtype=object))
    with pytest.raises(IntegrityError, match="damaged"):
        load_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize("begin", range(0, 130, 13))  # in the header of the array
def test_a_header_that_lies_is_damage(tmp_path: Path, begin: int) -> None:
    path = tmp_path / "a.npz"
    save_arrays(path, {"a": np.arange(12.0).reshape(3, 4)})
    content = bytearray(path.read_bytes())
    content[60 + begin] ^= 8
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="damaged"):
        load_arrays(path)
