"""What `nanosd proxy` found: errors of candidates before, after brief and after long distillation, and their ranks."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MEASURES = ("latent_error", "noise_error", "tafid")
#: Below this Kendall's tau a brief score does not stand for the long one.
TRUSTED = 0.7
FILE = "proxy.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Measured(_Record):
    """One candidate after one distillation of `steps` steps with a schedule of its own; 0: as it is assembled.

    The measures are None where it failed, with a `reason`. `seconds` are those of the student's steps, without teacher
    passes and measuring; `evaluation_seconds` those of measuring.
    """

    steps: int = Field(ge=0)
    latent_error: float | None = None
    noise_error: float | None = None
    tafid: float | None = None
    reason: str | None = None
    seconds: float = 0.0
    evaluation_seconds: float = 0.0


class ProxyCandidate(_Record):
    """One candidate of the sample."""

    candidate: str
    num_params: int
    latency_ms: float
    measured: tuple[Measured, ...] = ()

    def at(self, steps: int) -> Measured | None:
        """What was measured after so many steps."""
        return next((each for each in self.measured if each.steps == steps), None)


class Proxy(_Record):
    """The file.

    Attributes:
        key: names blocks, teacher, data and settings that the measures follow from.
        steps: brief distillations, growing, each with a schedule of its own.
        long_steps: the distillation that they are compared with.
        search_steps: `search.distill_steps` of the run: what its front is made of.
        num_samples: of an evaluation.
        teacher_passes, teacher_seconds: made once for all candidates.
    """

    format_version: Literal[1] = 1
    key: str
    steps: tuple[int, ...]
    long_steps: int
    search_steps: int
    batch_size: int
    learning_rate: float
    num_samples: int
    teacher_passes: int = 0
    teacher_seconds: float = 0.0
    candidates: tuple[ProxyCandidate, ...] = ()

    @property
    def complete(self) -> tuple[ProxyCandidate, ...]:
        """Candidates with a measure after every distillation, or the reason why there is none."""
        wanted = (0, *self.steps, self.long_steps)
        return tuple(c for c in self.candidates if all(c.at(n) is not None for n in wanted))


@dataclass(frozen=True)
class Agreement:
    """How alike the ranks by `measure` after `steps` steps and by `against` after the long distillation are."""

    steps: int
    measure: str
    against: str
    num: int
    kendall: float | None
    """Tau-b; None below three candidates, or where all are equal."""
    low: float | None
    high: float | None
    """95 % interval of tau (Fieller et al. 1957: atanh tau has variance 0.437 / (n - 4)); None below five and at 1."""
    spearman: float | None

    @property
    def is_trusted(self) -> bool:
        """Whether tau is at least :data:`TRUSTED`."""
        return self.kendall is not None and self.kendall >= TRUSTED


def agreement(proxy: Proxy, steps: int, measure: str = "latent_error", against: str | None = None) -> Agreement:
    """Rank agreement over the complete candidates that have both figures; `against` is `measure` where not given."""
    against = measure if against is None else against
    pairs = []
    for candidate in proxy.complete:
        brief, long = candidate.at(steps), candidate.at(proxy.long_steps)
        x, y = getattr(brief, measure, None), getattr(long, against, None)
        if x is not None and y is not None:
            pairs.append((x, y))
    kendall, spearman = _ranks(pairs)
    low, high = _interval(kendall, len(pairs))
    return Agreement(steps, measure, against, len(pairs), kendall, low, high, spearman)


def _ranks(pairs: Sequence[tuple[float, float]]) -> tuple[float | None, float | None]:
    if len(pairs) < 3 or any(len(set(column)) == 1 for column in zip(*pairs, strict=True)):
        return None, None
    from scipy.stats import kendalltau, spearmanr

    x, y = zip(*pairs, strict=True)
    return float(kendalltau(x, y).statistic), float(spearmanr(x, y).statistic)


def _interval(kendall: float | None, num: int) -> tuple[float | None, float | None]:
    if kendall is None or num < 5 or abs(kendall) > 1 - 1e-9:
        return None, None
    half = 1.96 * math.sqrt(0.437 / (num - 4))
    return math.tanh(math.atanh(kendall) - half), math.tanh(math.atanh(kendall) + half)


def warnings(proxy: Proxy) -> list[str]:
    """One sentence for each score that does not rank candidates as the long distillation does."""
    found = []
    for steps in (0, *proxy.steps):
        each = agreement(proxy, steps)
        if each.is_trusted or not each.num:
            continue
        value = "cannot be told" if each.kendall is None else f"is {each.kendall:.2f}, below {TRUSTED:g}"
        what = f"errors after {steps:,} steps" if steps else "errors of candidates as they are assembled"
        made = " The front of this run is made of them." if steps == proxy.search_steps else ""
        found.append(
            f"Kendall's tau of {what} and after {proxy.long_steps:,} steps {value}: they do not say which finished "
            f"model is best.{made}"
        )
    return found


def advice(proxy: Proxy) -> str:
    """What to do about it, in one sentence."""
    good = next((n for n in (0, *proxy.steps) if agreement(proxy, n).is_trusted), None)
    if good is None:
        return "None of the scores ranks finished models; distil longer (--steps), and choose among finalists only."
    if good <= proxy.search_steps:
        what = f"Errors after {proxy.search_steps:,} steps" if proxy.search_steps else "Errors of assembled candidates"
        return f"{what}, which the front is made of, rank finished models."
    return (
        f"The fewest steps that rank finished models are {good:,}: set search.distill_steps={good}, or compare "
        "finalists after as many."
    )


def read_proxy(folder: Path) -> Proxy | None:
    """The record in a run's folder; None where there is none.

    Raises:
        ValueError: it is damaged, or of another version.
    """
    try:
        return Proxy.model_validate(json.loads((Path(folder) / FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
