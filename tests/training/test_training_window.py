from __future__ import annotations

import pytest

from stitchsafe.errors import PlanError
from stitchsafe.geometry import analyse_module
from stitchsafe.nn import UNet
from stitchsafe.training import fit_window


def geometry(**arguments):
    net = UNet(**{"ndim": 2, "levels": 2, "base_channels": 1, "growth": 1} | arguments)
    return analyse_module(net, ndim=net.ndim, channels=1)


@pytest.mark.parametrize(
    ("window", "nearest"), [((4, 4), "(5, 5)"), ((3, 9), "(5, 9)"), ((9, 4), "(9, 5)")]
)
def test_a_window_of_one_period_or_less_is_refused_with_both_numbers_and_the_nearest(
    window, nearest
):
    with pytest.raises(PlanError) as refused:
        fit_window(geometry(), window)
    message = str(refused.value)
    assert str(window) in message
    assert "(4, 4)" in message
    assert nearest in message


def test_the_least_window_that_the_message_names_would_do():
    fitted = fit_window(geometry(), (5, 5))
    assert fitted.window == (5, 5)
    assert fitted.input == (48, 48)


def test_the_period_of_each_axis_counts_by_itself():
    anisotropic = geometry(ndim=3, factors=[(1, 2, 2), (1, 2, 2)])
    assert fit_window(anisotropic, (2, 6, 8)).window == (2, 6, 8)
    with pytest.raises(PlanError, match=r"\(2, 6, 8\)"):
        fit_window(anisotropic, (1, 6, 8))


@pytest.mark.parametrize(("window", "crop", "centred"), [(8, 0, True), (6, 1, True), (7, 0, False)])
def test_the_window_is_cut_from_the_middle_of_a_valid_output(window, crop, centred):
    fitted = fit_window(geometry(), (window, window))
    assert fitted.input == (48, 48)
    assert fitted.offset == (20 + crop, 20 + crop)
    assert fitted.crop == (crop, crop)
    assert fitted.centred is centred


def test_same_padding_is_refused():
    with pytest.raises(PlanError, match="padding: valid"):
        fit_window(geometry(padding="same"), (16, 16))


def test_a_window_with_the_wrong_number_of_axes_is_refused():
    with pytest.raises(PlanError, match="2 axes"):
        fit_window(geometry(), (16, 16, 16))
