"""The hash that tells runs of different recipes apart; fields that a later version adds do not change it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.config import Recipe

#: Sections and fields that may change while a run goes on: what is finished stays comparable.
FREE = frozenset(
    [
        "name",
        "picks",
        "export",
        "vae",
        "reuse",
        "search.num_candidates",
        "search.workers",
        "search.max_failures",
        "search.cpus_per_trial",
        "search.gpus_per_trial",
        "search.trial_timeout_s",
        "search.worker_memory_gb",
        "distill.min_gain",
        "distill.device",
        "distill.channels_last",
        "distill.compile",
        "distill.checkpointing",
        "distill.workers",
        "distill.cpus_per_worker",
        "distill.gpus_per_worker",
        "search.early_stopping",
        "search.stopping_risk",
        "search.stopping_after",
        "search.reduction_factor",
    ]
)

#: Fields that are hashed whatever their value is. Never added to: a field that is not here is hashed only where it
#: differs from its default, so that recipes from before there was that field keep their hash.
_ALWAYS = frozenset(
    [
        "seed",
        "teacher",
        "space",
        "data.source",
        "data.folder",
        "data.num_images",
        "calibration.profile",
        "calibration.threads",
        "calibration.precision",
        "calibration.warm_up",
        "calibration.min_repeats",
        "calibration.max_seconds",
        "calibration.num_fit",
        "calibration.num_check",
        "distill.steps",
        "distill.batch_size",
        "distill.learning_rate",
        "distill.weight_decay",
        "distill.clip",
        "distill.checkpoint_every",
        "distill.max_parallel",
        "fidelity.num_samples",
        "fidelity.num_noise_samples",
        "fidelity.ddim_steps",
        "fidelity.batch_size",
        "fidelity.guidance",
        "search.sampler",
        "finalize.steps",
        "finalize.batch_size",
        "finalize.learning_rate",
    ]
)
#: Where the default of a field that is not in _ALWAYS has changed: the one that it was added with.
_FIRST_DEFAULT: dict[str, Any] = {}

Tree = dict[str, Any]


def recipe_hash(recipe: Recipe) -> str:
    """Return 16 hex digits of SHA-256 over everything that can change what a candidate is found to be.

    The name, the budgets, what is exported and how many candidates are evaluated by how many workers are left out, and
    so is a field that was added later and has its default.
    """
    usual = dict(_leaves(type(recipe)().model_dump(mode="json"))) | _FIRST_DEFAULT
    return _digest(_kept(recipe.model_dump(mode="json"), lambda key, value: key in _ALWAYS or value != usual[key]))


def is_hash_of(known: str, recipe: Recipe, named: Mapping[str, Any]) -> bool:
    """Whether a run's hash, by whichever version, is of this recipe, read from a file that names these fields.

    Versions before :data:`_ALWAYS` hashed every field that they had, the very first ones :data:`FREE` fields too, and
    spelt each out in the run's file; what that does not name has its default in ``recipe``.
    """
    return known in (recipe_hash(recipe), *_earlier_hashes(recipe, named))


def _earlier_hashes(recipe: Recipe, named: Mapping[str, Any]) -> tuple[str, str]:
    spelt_out, tree = dict(_leaves(named)), recipe.model_dump(mode="json")
    return (
        _digest(_kept(tree, lambda key, _: key in spelt_out)),
        _digest(_pruned(tree, lambda key, _: key in spelt_out and key != "name")),
    )


def with_free_fields(recipe: Recipe, named: Mapping[str, Any]) -> Tree:
    """A run's recipe with other budgets, as its file has it: of the hashed fields those only that it names already."""
    spelt_out = dict(_leaves(named))
    return _pruned(recipe.model_dump(mode="json"), lambda key, _: _is_free(key) or key in spelt_out)


def difference(old: Recipe, new: Recipe) -> list[str]:
    """The hashed fields in which two recipes differ, each as ``key: old -> new``."""
    before, after = (dict(_leaves(recipe.model_dump(mode="json"))) for recipe in (old, new))
    return [
        f"{key}: {json.dumps(before[key])} -> {json.dumps(value)}"
        for key, value in after.items()
        if not _is_free(key) and before[key] != value
    ]


def _is_free(key: str) -> bool:
    return key in FREE or key.partition(".")[0] in FREE


def _kept(tree: Tree, keep: Callable[[str, Any], bool]) -> Tree:
    """The hashed fields that `keep` says."""
    return _pruned(tree, lambda key, value: not _is_free(key) and keep(key, value))


def _pruned(tree: Tree, keep: Callable[[str, Any], bool], prefix: str = "") -> Tree:
    """The tree with the fields that `keep(dotted key, value)` says; no section is empty."""
    found: Tree = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            if inner := _pruned(value, keep, f"{prefix}{name}."):
                found[name] = inner
        elif keep(prefix + name, value):
            found[name] = value
    return found


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted key, value) of every field."""
    pairs: list[tuple[str, Any]] = []
    for name, value in tree.items():
        pairs += _leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(prefix + name, value)]
    return pairs


def _digest(fields: Tree) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
