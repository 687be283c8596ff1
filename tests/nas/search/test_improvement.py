"""Boxes and the expected hypervolume improvement against moocore and numerical integration."""

import itertools

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from nas.search.acquisition import expected_improvement, nondominated_boxes
from nas.search.surrogate.model import Predicted
from nas.search.surrogate.transforms import Transform

FLOOR = -3.0  # stands for minus infinity where a volume is asked for


def volume_below(front, reference):
    """What `front` leaves open of the box between FLOOR and the reference, by moocore."""
    box = float(np.prod(reference - FLOOR))
    inside = front[(front < reference).all(axis=1)]
    return box - (moocore.hypervolume(inside, ref=reference) if len(inside) else 0.0)


@given(
    st.integers(1, 5).flatmap(
        lambda m: st.lists(st.lists(st.integers(0, 5), min_size=m, max_size=m), min_size=0, max_size=10).map(
            lambda rows: np.array(rows, dtype=float).reshape(-1, m)
        )
    )
)
@settings(max_examples=60, deadline=None)
def test_boxes_are_disjoint_and_fill_what_is_open(front):
    """Small integers: many ties and duplicates, some rows on the reference itself."""
    reference = np.full(front.shape[1], 5.0)
    boxes = nondominated_boxes(front, reference)
    lower = np.maximum(boxes.lower, FLOOR)
    assert (boxes.upper > boxes.lower).all() and (boxes.upper <= reference).all()
    assert np.prod(boxes.upper - lower, axis=1).sum() == pytest.approx(volume_below(front, reference), rel=1e-12)
    for a, b in itertools.combinations(range(len(boxes)), 2):
        overlap = np.minimum(boxes.upper[a], boxes.upper[b]) - np.maximum(lower[a], lower[b])
        assert (overlap <= 0).any(), "two boxes overlap"


def test_number_of_boxes_with_three_objectives_is_linear():
    rng = np.random.default_rng(0)
    points = rng.random((400, 3))
    points = points / np.linalg.norm(points, axis=1, keepdims=True)  # all non-dominated
    assert len(nondominated_boxes(points, np.full(3, 2.0))) <= 3 * 400 + 1


def brute_force(front, reference, costs, transforms, means, deviations):
    """E[hypervolume gained] by Gauss-Legendre quadrature over every piece between two levels of the front."""
    base = moocore.hypervolume(front, ref=reference)
    axes = []
    for axis, (transform, mean, deviation) in enumerate(zip(transforms, means, deviations, strict=True)):
        levels = np.unique(np.append(front[:, axis], reference[axis]))
        ends = transform.forward(levels)
        lowest = mean - 12 * deviation
        ends = np.unique(np.concatenate([[lowest], np.linspace(lowest, ends[-1], 40), ends]))
        ends = ends[(ends >= lowest) & (ends <= transform.forward(levels)[-1])]
        nodes, weights = np.polynomial.legendre.leggauss(20)
        z = np.concatenate([(b - a) / 2 * nodes + (a + b) / 2 for a, b in itertools.pairwise(ends)])
        w = np.concatenate([(b - a) / 2 * weights for a, b in itertools.pairwise(ends)])
        axes.append((transform.inverse(z), w * norm.pdf(z, mean, deviation)))
    total = 0.0
    for combination in itertools.product(*[list(zip(*axis, strict=True)) for axis in axes]):
        point = np.array([value for value, _ in combination] + list(costs))
        weight = float(np.prod([w for _, w in combination]))
        total += weight * (moocore.hypervolume(np.vstack([front, point]), ref=reference) - base)
    return total


@pytest.mark.parametrize("name", ["identity", "log"])
@pytest.mark.parametrize("num_costs", [1, 2, 3])
def test_one_unknown_objective(name, num_costs):
    rng = np.random.default_rng(num_costs)
    front = np.column_stack([rng.uniform(1, 5, 7), rng.uniform(0, 1, (7, num_costs))])
    reference = np.array([4.5, *[0.9] * num_costs])
    transform = Transform.of(front[:, 0], name)
    boxes = nondominated_boxes(front, reference)
    costs = rng.uniform(0, 1, (6, num_costs))
    mean, deviation = rng.normal(size=6), rng.uniform(0.05, 1.5, 6)
    found = expected_improvement(boxes, costs, range(1, 1 + num_costs), [Predicted(mean, deviation, transform)])
    inside = front[(front < reference).all(axis=1)]
    for i in range(6):
        truth = brute_force(inside, reference, costs[i], [transform], [mean[i]], [deviation[i]])
        assert found[i] == pytest.approx(truth, rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("num_costs", [0, 1])
def test_two_unknown_objectives(num_costs):
    rng = np.random.default_rng(5)
    front = np.column_stack([[1.0, 2.0, 3.5], [3.0, 2.2, 1.0], rng.uniform(0, 1, (3, num_costs))])
    reference = np.array([4.0, 3.5, *[0.9] * num_costs])
    transforms = [Transform.of(front[:, 0], "log"), Transform.of(front[:, 1], "identity")]
    mean, deviation = np.array([[0.2, -0.5]]), np.array([[0.7, 0.9]])
    costs = rng.uniform(0, 0.8, (1, num_costs))
    boxes = nondominated_boxes(front, reference)
    unknown = [Predicted(mean[:, u], deviation[:, u], transforms[u]) for u in range(2)]
    found = expected_improvement(boxes, costs, range(2, 2 + num_costs), unknown)
    inside = front[(front < reference).all(axis=1)]
    axes = [brute_axis(inside, reference, u, transforms[u], mean[0, u], deviation[0, u]) for u in range(2)]
    base, truth = moocore.hypervolume(inside, ref=reference), 0.0
    for a, wa in zip(*axes[0], strict=True):
        for b, wb in zip(*axes[1], strict=True):
            point = np.array([a, b, *costs[0]])
            truth += wa * wb * (moocore.hypervolume(np.vstack([inside, point]), ref=reference) - base)
    assert found[0] == pytest.approx(truth, rel=1e-9)


def brute_axis(front, reference, axis, transform, mean, deviation):
    """Values and weights of one unknown objective, piecewise Gauss-Legendre."""
    ends = transform.forward(np.unique(np.append(front[:, axis], reference[axis])))
    ends = np.unique(np.concatenate([[mean - 9 * deviation], ends[ends > mean - 9 * deviation]]))
    nodes, weights = np.polynomial.legendre.leggauss(24)
    z = np.concatenate([(b - a) / 2 * nodes + (a + b) / 2 for a, b in itertools.pairwise(ends)])
    w = np.concatenate([(b - a) / 2 * weights for a, b in itertools.pairwise(ends)])
    return transform.inverse(z), w * norm.pdf(z, mean, deviation)


def test_without_a_front_everything_below_the_reference_counts():
    transform = Transform("identity")
    boxes = nondominated_boxes(np.zeros((0, 2)), np.array([1.0, 2.0]))
    found = expected_improvement(
        boxes, np.array([[0.5], [3.0]]), [1], [Predicted(np.array([-5.0, -5.0]), np.array([1e-6, 1e-6]), transform)]
    )
    assert found == pytest.approx([6.0 * 1.5, 0.0])
