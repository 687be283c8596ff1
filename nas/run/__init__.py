"""A run: the whole loop from teacher to report in one directory, and questions to a run that exists."""

from nas.run.loop import RunResult, resume, search
from nas.run.plan import plan
from nas.run.questions import calibrate, export, pareto, pick

__all__ = ["RunResult", "calibrate", "export", "pareto", "pick", "plan", "resume", "search"]
