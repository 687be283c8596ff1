"""A run: the whole loop from teacher to report in one directory, and questions to a run that exists."""

from nas.run.loop import RunResult, distill, resume, search
from nas.run.plan import distill_plan, plan
from nas.run.questions import calibrate, export, pareto, pick

__all__ = [
    "RunResult",
    "calibrate",
    "distill",
    "distill_plan",
    "export",
    "pareto",
    "pick",
    "plan",
    "resume",
    "search",
]
