"""The Gaussian process against scikit-learn, closed forms and finite differences."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.stats import multivariate_normal, norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

from nas.search.decisions import GridSpace
from nas.search.surrogate.features import Features, Group
from nas.search.surrogate.fitting import Fit
from nas.search.surrogate.kernel import Kernel
from nas.search.surrogate.model import Surrogate, SurrogateSettings
from nas.search.surrogate.process import Process, View
from nas.search.surrogate.transforms import Transform

RNG = np.random.default_rng(0)
TWO = np.array([[0.3, 0.1], [0.0, 0.6]])
GROUPS = (Group("category", slice(0, 3)), Group("cost0", slice(3, 4)))
X = RNG.normal(size=(25, 4))
Z = np.sin(X[:, 0]) + 0.5 * X[:, 3] + 0.1 * RNG.normal(size=25)
C = RNG.normal(size=(40, 4))


@pytest.mark.filterwarnings("ignore:divide by zero")  # scikit-learn takes the logarithm of DotProduct's 0
def test_posterior_equals_scikit_learns():
    """exp(-r d^2) is scikit-learn's RBF with length 1/sqrt(2 r); the linear term its DotProduct."""
    kernel = Kernel.of(GROUPS, np.full(2, 0.4), np.full((1, 2), 0.3), np.array([0.7]), noise=0.05, constant=1.0)
    view = View(Process(kernel, X), C)
    theirs = (
        ConstantKernel(0.7) * RBF(1 / np.sqrt(0.6))
        + ConstantKernel(0.4) * DotProduct(0.0)
        + ConstantKernel(1.0)
        + WhiteKernel(0.05 + 1e-9)
    )
    model = GaussianProcessRegressor(theirs, optimizer=None, alpha=0).fit(X, Z)
    mean, deviation = model.predict(C, return_std=True)
    assert view.mean(Z) == pytest.approx(mean, abs=1e-9)
    assert view.variance + 0.05 + 1e-9 == pytest.approx(deviation**2, abs=1e-9)


def test_adding_observations_one_by_one_changes_nothing():
    kernel = Kernel.of(GROUPS, np.array([0.2, 0.0]), TWO, np.array([0.7, 0.4]), 0.05)
    whole = View(Process(kernel, X), C)
    process = Process(kernel, X[:10])
    grown = View(process, C)
    for row in X[10:]:
        process.add(row)
    assert grown.mean(Z) == pytest.approx(whole.mean(Z), abs=1e-9)
    assert grown.variance == pytest.approx(whole.variance, abs=1e-9)


def test_believed_values_change_no_mean_but_the_variance():
    kernel = Kernel.of(GROUPS, np.array([0.2, 0.0]), TWO, np.array([0.7, 0.4]), 0.05)
    missing = [3, 11, 24]
    rest = [i for i in range(25) if i not in missing]
    known = View(Process(kernel, X[rest]), C)
    process = Process(kernel, X)
    z = Z.copy()
    z[missing] = np.nan
    filled = process.believe(z)
    assert filled[missing] == pytest.approx(View(Process(kernel, X[rest]), X[missing]).mean(Z[rest]), abs=1e-8)
    believing = View(process, C)
    assert believing.mean(filled) == pytest.approx(known.mean(Z[rest]), abs=1e-8)
    assert (believing.variance <= known.variance + 1e-12).all()


def test_likelihood_and_its_gradient():
    fit = Fit(X, Z, GROUPS, linear=[0, 1], components=[[0, 1], [1]])
    theta = fit.center + 0.3 * RNG.normal(size=len(fit.center))
    value, gradient = fit(theta)
    kernel = fit.kernel(theta)
    covariance = kernel(X, X) + kernel.noise * np.eye(25)
    prior = norm.logpdf(theta, fit.center, fit.spread) + np.log(fit.spread) + 0.5 * np.log(2 * np.pi)
    truth = multivariate_normal(np.zeros(25), covariance).logpdf(Z) + prior.sum()
    assert -value == pytest.approx(truth, abs=1e-9)
    assert gradient == pytest.approx(approx_fprime(theta, lambda t: fit(t)[0], 1e-6), abs=1e-3)


def test_the_fit_finds_what_made_the_data():
    kernel = Kernel.of(GROUPS, np.zeros(2), np.array([[0.5, 0.02]]), np.ones(1), 0.01, constant=0.5)
    rng = np.random.default_rng(3)
    x = rng.normal(size=(150, 4))
    covariance = kernel(x, x) + kernel.noise * np.eye(150)
    z = np.linalg.cholesky(covariance) @ rng.normal(size=150)
    fitted = Fit(x, z, GROUPS, linear=[], components=[[0, 1]]).maximise().kernel
    assert fitted.rates[0, 0] == pytest.approx(0.5, rel=0.5) and fitted.noise == pytest.approx(0.01, rel=0.6)
    assert fitted.rates[0, 3] < 0.1


def test_a_scale_far_behind_in_evidence_is_tried_again_later():
    """Values that turn from exponentials of a straight trend into the trend: the scale follows, not at once."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(120, 4))
    smooth = x @ np.array([0.8, 0.1, -0.3, 0.5])
    skewed, plain = np.exp(smooth), 5 + smooth

    def scale_of(surrogate: Surrogate, values: np.ndarray) -> str:
        surrogate.update(range(len(values)), x[: len(values)], values)
        return surrogate.transform.name

    grown = Surrogate(GROUPS, SurrogateSettings())
    assert scale_of(grown, skewed[:40]) == "log"
    assert scale_of(grown, plain[:50]) == "log", "too early to look again"
    assert scale_of(grown, plain) == scale_of(Surrogate(GROUPS, SurrogateSettings()), plain) == "identity"


@pytest.mark.parametrize(("name", "offset"), [("identity", 0.0), ("log", 0.0), ("log", -2.0)])
def test_expected_amount_below_a_level(name, offset):
    """Against the average over quantiles of the distribution."""
    transform = Transform.of(np.array([1.0, 2.0, 5.0, 3.0]), name, offset)
    mean, deviation = np.array([0.3, -1.0]), np.array([0.8, 0.2])
    quantiles = norm.ppf((np.arange(400_000) + 0.5) / 400_000)
    values = transform.inverse(mean[:, None] + deviation[:, None] * quantiles)
    for level in (-5.0, 0.5, 2.5, 8.0):
        truth = np.maximum(level - values, 0).mean(axis=1)
        assert transform.expected_below(np.array(level), mean, deviation) == pytest.approx(truth, abs=2e-5)
    assert (transform.expected_below(np.array(-np.inf), mean, deviation) == 0).all()


def test_transforms_invert_and_their_densities_integrate_to_one():
    values = np.array([1.0, 2.0, 5.0, 3.0])
    for transform in (Transform.of(values, "log"), Transform.of(values, "identity")):
        assert transform.inverse(transform.forward(values)) == pytest.approx(values)
        assert transform.forward(values).mean() == pytest.approx(0, abs=1e-12)
        if transform.name == "identity":
            grid = np.linspace(-200, 200, 400_001)
            density = norm.pdf(transform.forward(grid)) * np.exp(transform.log_density_change(grid[:1]))
        else:
            grid = np.linspace(1e-4, 200, 400_001)
            density = norm.pdf(transform.forward(grid)) / (grid * transform.scale)
            assert np.log(1 / (2.5 * transform.scale)) == pytest.approx(transform.log_density_change(np.array([2.5])))
        assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-3)


def test_groups_have_unit_mean_squared_distance():
    space = GridSpace({"a": (0, 1, 2), "b": (0, 1), "c": tuple(range(6))})
    matrix = space.enumerate()
    costs = np.column_stack([10.0 ** matrix[:, 0], matrix.sum(axis=1) - 3.0])
    features = Features(space, matrix, costs)
    x = features(matrix, costs)
    assert [group.name for group in features.groups] == ["category", "order", "cost0", "cost1"]
    for group in features.groups:
        part = x[:, group.columns]
        distance = ((part[:, None] - part[None]) ** 2).sum(axis=2)
        assert distance.mean() == pytest.approx(1.0)
    # One-hot distances count differing decisions, thermometer ones steps, a positive wide cost is taken as logarithm.
    category, order, cost = (x[:, features.groups[i].columns] for i in (0, 1, 2))
    hamming = (matrix[:, None] != matrix[None]).sum(axis=2)
    steps = np.abs(matrix[:, None] - matrix[None])[:, :, [0, 2]].sum(axis=2)
    for part, truth in ((category, hamming), (order, steps)):
        distance = ((part[:, None] - part[None]) ** 2).sum(axis=2)
        assert distance == pytest.approx(truth * (distance[0, -1] / truth[0, -1]), abs=1e-9)
    assert np.ptp(cost[matrix[:, 0] == 1]) < 1e-12 and np.unique(cost.round(9)).size == 3


def test_noise_of_an_observation_of_its_own():
    """What is known with more noise counts less: the closed form, and the limits of none and of very much."""
    own = np.zeros(len(X))
    own[[3, 8]] = 0.7, 1e12
    kernel = Kernel.of(GROUPS, np.full(2, 0.4), np.full((1, 2), 0.3), np.array([0.7]), noise=0.05, constant=1.0)
    process = Process(kernel, X[:6], own[:6])
    for row, variance in zip(X[6:], own[6:], strict=True):
        process.add(row, variance)
    grown = View(process, C)
    covariance = kernel(X, X) + np.diag(kernel.noise + own)
    across = kernel(X, C)
    assert grown.mean(Z) == pytest.approx(across.T @ np.linalg.solve(covariance, Z), abs=1e-6)
    reduction = np.einsum("ij,ij->j", across, np.linalg.solve(covariance, across))
    assert grown.variance == pytest.approx(kernel.diagonal(C) - reduction, abs=1e-6)
    rest = np.delete(np.arange(len(X)), 8)
    without = View(Process(kernel, X[rest], own[rest]), C)
    assert grown.mean(Z) == pytest.approx(without.mean(Z[rest]), abs=1e-6)
