"""Measures of seams: how fields and labels differ at them from what they do elsewhere.

`measure_seams` streams over a field, labels, or both, and gives a :class:`SeamReport` with a row
per face. Nothing needs to be known of how the data were made but the grid, which :func:`guess_grid`
may find. :func:`write_html` shows a report to a browser. What seams look like, and whether they are
found, is tried with tilings that are wrong on purpose (:func:`snapped` and its like).
"""

from stitchsafe.discontinuity._faces import FaceTable
from stitchsafe.discontinuity._guess import Comb, Guess, guess_grid
from stitchsafe.discontinuity._html import write_html
from stitchsafe.discontinuity._judge import CHANCE, CONFIDENCE
from stitchsafe.discontinuity._measure import measure_seams
from stitchsafe.discontinuity._pictures import Views, colours_of_field
from stitchsafe.discontinuity._pieces import Dense
from stitchsafe.discontinuity._planted import (
    Forward,
    blended,
    cut_labels,
    misaligned,
    normalised,
    snapped,
)
from stitchsafe.discontinuity._report import TOLERANCE, SeamReport
from stitchsafe.discontinuity._statistics import Ratio

__all__ = [
    "CHANCE",
    "CONFIDENCE",
    "Comb",
    "Dense",
    "FaceTable",
    "Forward",
    "Guess",
    "Ratio",
    "SeamReport",
    "TOLERANCE",
    "Views",
    "blended",
    "colours_of_field",
    "cut_labels",
    "guess_grid",
    "measure_seams",
    "misaligned",
    "normalised",
    "snapped",
    "write_html",
]
