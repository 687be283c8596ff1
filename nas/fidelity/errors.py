"""What a measure raises when it has no value."""

from __future__ import annotations


class FidelityError(ArithmeticError):
    """A fidelity measure came out non-finite; the candidate fails, the sweep goes on.

    Attributes:
        measure: which one: `noise_error`, `latent_error` or `tafid`.
    """

    def __init__(self, measure: str, detail: str) -> None:
        super().__init__(f"{measure} is not finite: {detail}")
        self.measure = measure
        self.detail = detail

    def __reduce__(self) -> tuple[type[FidelityError], tuple[str, str]]:
        # The default rebuilds from the message alone and fails when the error crosses a process.
        return type(self), (self.measure, self.detail)
