"""Measures of seams: how fields and labels differ at them from what they do elsewhere.

`measure_seams` streams over a field, labels, or both, and gives a :class:`SeamReport` with a row
per face. Nothing needs to be known of how the data were made but the grid.
"""

from stitchsafe.discontinuity._faces import FaceTable
from stitchsafe.discontinuity._guess import Comb, Guess, guess_grid
from stitchsafe.discontinuity._html import write_html
from stitchsafe.discontinuity._judge import CONFIDENCE
from stitchsafe.discontinuity._measure import measure_seams
from stitchsafe.discontinuity._pictures import Views, colours_of_field
from stitchsafe.discontinuity._pieces import Dense
from stitchsafe.discontinuity._report import CHANCE, TOLERANCE, SeamReport
from stitchsafe.discontinuity._statistics import Ratio

__all__ = [
    "CHANCE",
    "CONFIDENCE",
    "Comb",
    "Dense",
    "FaceTable",
    "Guess",
    "Ratio",
    "SeamReport",
    "TOLERANCE",
    "Views",
    "colours_of_field",
    "guess_grid",
    "measure_seams",
    "write_html",
]
