"""What a spec sheet and a few measured networks say of one device: whether they agree, and how sure both make it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from latency_predictors.models import FittedEnsemble, kernel_cost_ms
from latency_predictors.models.base import UNKNOWN_FACTOR

if TYPE_CHECKING:
    from latency_predictors.kernel_tables import KernelTables
    from latency_predictors.networks import Networks
    from latency_predictors.spec_sheet import SpecSheet
    from search_spaces.space import SearchSpace

#: Rounding takes a network that is just as far off as the sheet may be beyond that.
_LARGEST_LOG_RATIO = float(np.log(UNKNOWN_FACTOR)) + 1e-9


def kernel_costs_ms(sheet: SpecSheet, kernel_names: tuple[str, ...]) -> NDArray[np.float64]:
    """What one unit of every kernel sum (K,) costs by the sheet, in ms."""
    return kernel_cost_ms(kernel_names, sheet.rates_per_ms(kernel_names))


def log_ratios(networks: Networks, sheet: SpecSheet, kernels: KernelTables, space: SearchSpace) -> NDArray[np.float64]:
    """log(measured / what the sheet says) of each network (N,)."""
    if not networks.ids:
        return np.zeros(0)
    sheet_ms = kernels.of_candidates(space, networks.matrix) @ kernel_costs_ms(sheet, kernels.kernel_names)
    ratios: NDArray[np.float64] = np.log(networks.latency_ms / sheet_ms)
    return ratios


def contradicts(ratios: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which networks (N,) lie outside of the sheet's interval, by their :func:`log_ratios`."""
    found: NDArray[np.bool_] = np.abs(ratios) > _LARGEST_LOG_RATIO
    return found


def bounded(model: FittedEnsemble, ratios: NDArray[np.float64]) -> FittedEnsemble:
    """The model of a few networks, its intervals no wider than the sheet's own unless one of them contradicts it.

    The networks set the speed and the sheet the shape: what remains open is no more than the sheet alone left open.
    From five networks on (`log_std`) the interval is that of their own errors, and no sheet narrows it.
    """
    if model.log_std is not None or contradicts(ratios).any():
        return model
    return model.model_copy(update={"widest_factor": UNKNOWN_FACTOR})
