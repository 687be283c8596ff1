"""What a profile is made for: a search space on a teacher's shapes, with its kernel sums."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

from nas.teacher_shapes import TeacherShapes, teacher_shapes

if TYPE_CHECKING:
    from latency_predictors.kernel_tables import KernelTables
    from latency_predictors.subjects import Subjects
    from search_spaces.space import SearchSpace


@dataclass(frozen=True)
class Target:
    """A search space of U-Nets on a teacher's shapes."""

    space: SearchSpace
    shapes: TeacherShapes

    @classmethod
    def of(cls, space: str, teacher: str, latent_size: int | None = None, num_tokens: int | None = None) -> Self:
        """By the names that the command line takes.

        Raises:
            UserError: no such space or teacher, a space of pipelines, or one that the teacher does not fit.
        """
        from nas.run.context import check_unet_space
        from search_spaces.space_file import load_space

        loaded = load_space(space)
        check_unet_space(loaded)
        return cls(loaded, teacher_shapes(teacher, latent_size, num_tokens))

    @cached_property
    def kernels(self) -> KernelTables:
        """Analytic kernel sums of the base and of every option."""
        from latency_predictors.kernel_tables import KernelTables
        from search_spaces.costs import CostTable

        shapes = self.shapes
        return KernelTables.of(CostTable.from_unet(shapes.unet, self.space, shapes.latent_size, shapes.num_tokens))

    @property
    def subjects(self) -> Subjects:
        """Builds the graphs to measure, with random weights."""
        from latency_predictors.subjects import Subjects

        shapes = self.shapes
        return Subjects(shapes.unet, self.space, shapes.latent_size, shapes.num_tokens, shapes.context_dim)

    @property
    def largest(self) -> str:
        """Id of the candidate with most MACs: the one most like the teacher."""
        import numpy as np

        kernels = self.kernels
        macs = [i for i, name in enumerate(kernels.kernel_names) if "_macs@" in name]
        row = [[int(np.argmax(kernels.stages[stage][:, macs].sum(1))) for stage in self.space.stages]]
        return self.space.decode(self.space.from_stage_rows(np.array(row))[0]).id
