"""Mean shift as a scikit-learn estimator. The only module here that imports scikit-learn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from stitchsafe.errors import ClusteringError
from stitchsafe.instances._backends import Backend, make_backend
from stitchsafe.instances._bandwidth import estimate_bandwidth
from stitchsafe.instances._meanshift import (
    Kernel,
    Modes,
    exact_mean_shift,
    find_modes,
    nearest_center,
)
from stitchsafe.instances._sketch import LARGEST_DIMENSION, LARGEST_VALUE, UNITS, Sketch

__all__ = ["MeanShift"]

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class _Clusters:
    """What the points so far amount to."""

    bandwidth: float
    centers: Float64
    modes: Modes | None  # of a sketch; without one, centres are what there is


class MeanShift(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Mean shift clustering on a sketch that any order and any partition of points yields alike.

    Points are binned on a lattice that is anchored at 0 and finer than the bandwidth; cells keep
    whole numbers only. So `fit` on all points, `partial_fit` on any parts in any order, and `merge`
    of estimators that saw a part each find the same centres, bit for bit, and the same label for
    every point. The time to find centres depends on the number of occupied cells, not of points.

    The lattice pays in up to about 8 dimensions. In 9 to 64 nearly every point has a cell of its
    own, and the same code runs on what is in effect the list of points; in more, only ``exact``
    serves. The lattice reaches 2048 bandwidths from 0: points further away are refused.

    Parameters
    ----------
    bandwidth
        Radius of the flat kernel, or standard deviation of the Gaussian one. If None, it is
        estimated from all points; see :func:`stitchsafe.instances.estimate_bandwidth`.
    kernel
        ``flat``: scikit-learn's. ``gaussian``: weights exp(-d²/2h²), cut at six bandwidths h.
    exact
        Take every point for a seed and for itself, without a lattice: the centres and labels of
        ``sklearn.cluster.MeanShift``, in quadratic time. For the flat kernel and NumPy.
    min_support
        Centres whose kernel holds fewer points are dropped, unless none would remain; their points
        join the nearest of the others. Not with `exact`.
    backend
        ``numpy``, or ``torch``; with the flat kernel they agree bit for bit.
    device
        Where torch computes: ``cpu``, ``cuda``, ``cuda:1``. No test of the project runs on CUDA.

    Attributes
    ----------
    cluster_centers_ : ndarray of shape (n_clusters, n_features)
        From the most to the least supported.
    labels_ : ndarray of shape (n_samples,)
        Index of the nearest centre of each point given to `fit`. Not there after `partial_fit` and
        `merge`, which keep no points: `predict` gives the label of any point.
    bandwidth_ : float
        The bandwidth used.
    sketch_ : Sketch
        The points as cells. Not there where points themselves are kept: with `exact`, or with
        `partial_fit` from the start without a bandwidth.
    n_features_in_ : int
        Number of dimensions.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where all are strings.

    Examples
    --------
    >>> from stitchsafe import MeanShift
    >>> points = [[1, 1], [2, 1], [1, 0], [4, 7], [3, 5], [3, 6]]
    >>> MeanShift(bandwidth=2).fit(points).labels_
    array([1, 1, 1, 0, 0, 0], dtype=int32)
    """

    sketch_: Sketch
    labels_: NDArray[np.int32]
    n_features_in_: int
    _points: list[NDArray[Any]] | None  # where they are kept, and there is no sketch
    _bandwidth: float  # of the sketch
    _result: _Clusters | None  # None where points came since

    def __init__(
        self,
        bandwidth: float | None = None,
        *,
        kernel: Kernel = "flat",
        exact: bool = False,
        min_support: int = 1,
        backend: str = "numpy",
        device: str = "cpu",
    ) -> None:
        self.bandwidth = bandwidth
        self.kernel = kernel
        self.exact = exact
        self.min_support = min_support
        self.backend = backend
        self.device = device

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Cluster points; what the estimator saw before is forgotten.

        Parameters
        ----------
        X
            ``(points, dimensions)``, finite.
        y
            Not used.

        Raises
        ------
        ClusteringError
            For parameters that contradict each other, and points that the lattice does not serve.
        """
        backend = self._backend()
        points = self._validated(X, reset=True)
        self._forget()
        if self.exact:
            self._points = [points.copy()]
        else:
            bandwidth = self.bandwidth
            if bandwidth is None:
                bandwidth = estimate_bandwidth(points)
            self.sketch_ = _sketch(backend, points, float(bandwidth))
            self._bandwidth = float(bandwidth)
            self._points = None
        self.labels_ = self._labels(points)
        return self

    def partial_fit(self, X: ArrayLike, y: object = None) -> Self:
        """Add points. Centres are found when they are next asked for.

        After `fit` the bandwidth stays the one used there. From the start and without a bandwidth,
        the points are kept, as only all of them tell it: then memory grows with them.

        Parameters and errors are those of `fit`.
        """
        backend = self._backend()
        first = not hasattr(self, "_points")
        points = self._validated(X, reset=first)
        if first and (self.exact or self.bandwidth is None):
            self._points = [points.copy()]
        elif first:
            assert self.bandwidth is not None
            self.sketch_ = _sketch(backend, points, float(self.bandwidth))
            self._bandwidth = float(self.bandwidth)
            self._points = None
        elif self._points is None:
            self._refuse_other_lattice()
            added = _sketch(backend, points, self._bandwidth)
            self.sketch_ = Sketch.union([self.sketch_, added])
        else:
            self._points = [*self._points, points.copy()]
        self._outdate()
        return self

    def _refuse_other_lattice(self) -> None:
        """Refuse parameters that were set since, and that the sketch cannot follow."""
        if self.exact or self.bandwidth not in (None, self._bandwidth):
            asked = "exact" if self.exact else f"bandwidth={self.bandwidth}"
            raise ClusteringError(
                f"{asked} was set after points came into a sketch of bandwidth {self._bandwidth}; "
                "call fit, which forgets them"
            )

    def merge(self, other: MeanShift) -> Self:
        """Add the points that another estimator saw.

        Parameters
        ----------
        other
            Fitted on points of as many dimensions, with the same bandwidth; it stays as it is. Its
            points are added, and nothing of its kernel: a sketch is the same for both.

        Raises
        ------
        ClusteringError
            If the two do not fit together.
        """
        if not isinstance(other, MeanShift):
            raise ClusteringError(
                f"a {type(other).__name__} cannot be merged into a MeanShift of stitchsafe; fit "
                "another one of these"
            )
        check_is_fitted(self)
        check_is_fitted(other)
        mine, theirs = self._points, other._points
        if self.n_features_in_ != other.n_features_in_ or (mine is None) != (theirs is None):
            raise ClusteringError(
                f"an estimator of {other.n_features_in_} dimensions {_keeps(theirs)} cannot be "
                f"merged into one of {self.n_features_in_} {_keeps(mine)}; fit both alike"
            )
        if mine is not None and theirs is not None:
            self._points = [*mine, *theirs]
        elif self._bandwidth != other._bandwidth:
            raise ClusteringError(
                f"sketches of bandwidths {self._bandwidth} and {other._bandwidth} have different "
                "lattices and cannot be merged; fit both with the same bandwidth"
            )
        else:
            self.sketch_ = Sketch.union([self.sketch_, other.sketch_])
        self._outdate()
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.int32]:
        """Index of the nearest centre of each point; of equally near ones the first.

        Parameters
        ----------
        X
            ``(points, dimensions)``, finite.
        """
        check_is_fitted(self)
        return self._labels(self._validated(X, reset=False))

    @property
    def cluster_centers_(self) -> Float64:
        return self._clusters().centers

    @property
    def bandwidth_(self) -> float:
        return self._clusters().bandwidth

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_points")

    def _clusters(self) -> _Clusters:
        """Centres of all points so far; found once."""
        if not self.__sklearn_is_fitted__():
            raise AttributeError("this MeanShift knows no points yet; call fit or partial_fit")
        if self._result is None:
            self._result = self._find()
        return self._result

    def _find(self) -> _Clusters:
        if self._points is None:
            return self._of_sketch(self.sketch_, self._bandwidth)
        points = np.concatenate(self._points)
        bandwidth = estimate_bandwidth(points) if self.bandwidth is None else float(self.bandwidth)
        if self.exact:
            # In canonical order, on which sums of floats depend.
            points = points[np.lexsort(points.T[::-1])]
            return _Clusters(bandwidth, exact_mean_shift(points, bandwidth)[0], None)
        return self._of_sketch(_sketch(self._backend(), points, bandwidth), bandwidth)

    def _of_sketch(self, sketch: Sketch, bandwidth: float) -> _Clusters:
        modes = find_modes(
            sketch,
            bandwidth,
            min_support=self.min_support,
            kernel=self.kernel,
            sums=self._backend().sums,
        )
        return _Clusters(bandwidth, modes.units * (bandwidth / UNITS), modes)

    def _labels(self, points: NDArray[Any]) -> NDArray[np.int32]:
        clusters = self._clusters()
        if clusters.modes is None:
            return nearest_center(points, clusters.centers)
        _check_served(points, clusters.bandwidth)
        return self._backend().nearest(points, clusters.modes)

    def _forget(self) -> None:
        for name in ("sketch_", "_points", "_bandwidth"):
            if hasattr(self, name):
                delattr(self, name)
        self._outdate()

    def _outdate(self) -> None:
        self._result = None
        if hasattr(self, "labels_"):
            del self.labels_

    def _validated(self, X: ArrayLike, *, reset: bool) -> NDArray[Any]:
        points: NDArray[Any] = validate_data(self, X, reset=reset, dtype=[np.float64, np.float32])
        return points

    def _backend(self) -> Backend:
        """The backend, once the parameters make sense."""
        if self.bandwidth is not None and not _is_length(self.bandwidth):
            raise ClusteringError(
                f"the bandwidth {self.bandwidth!r} is no length that a lattice can have; give a "
                "positive number, or None to estimate"
            )
        if self.kernel not in get_args(Kernel):
            raise ClusteringError(
                f"the kernel {self.kernel!r} is unknown; it is one of {', '.join(get_args(Kernel))}"
            )
        if not isinstance(self.min_support, Integral) or self.min_support < 1:
            raise ClusteringError(
                f"min_support is {self.min_support!r}, but counts points; give a whole number ≥ 1"
            )
        others = (self.kernel, self.min_support, self.backend)
        if self.exact and others != ("flat", 1, "numpy"):
            raise ClusteringError(
                f"exact is the flat kernel in NumPy without min_support, not {others}; leave "
                "kernel, min_support and backend out, or exact"
            )
        return make_backend(self.backend, self.device)


def _is_length(value: object) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool | np.bool_):
        return False
    return math.isfinite(float(value)) and float(value) > 0 and math.isfinite(UNITS / float(value))


def _sketch(backend: Backend, points: NDArray[Any], bandwidth: float) -> Sketch:
    _check_served(points, bandwidth)
    return backend.sketch(points, bandwidth)


def _check_served(points: NDArray[Any], bandwidth: float) -> None:
    """Refuse what the lattice does not serve."""
    if points.shape[1] > LARGEST_DIMENSION:
        raise ClusteringError(
            f"points of {points.shape[1]} dimensions are more than the {LARGEST_DIMENSION} that "
            "the lattice serves; set exact=True"
        )
    reach = max(-float(points.min()), float(points.max()))
    if reach * (UNITS / bandwidth) > LARGEST_VALUE * UNITS:
        raise ClusteringError(
            f"points hold a value {reach / bandwidth:.4g} bandwidths from 0, and the lattice "
            f"reaches {LARGEST_VALUE}; subtract an offset from all points, or set exact=True"
        )


def _keeps(points: list[NDArray[Any]] | None) -> str:
    return "that has a sketch" if points is None else "that keeps its points"
