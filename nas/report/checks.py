"""The report's section on how close the finished models' images come to the teacher's: each figure with its meaning."""

from __future__ import annotations

from collections.abc import Callable

from nas import plots
from nas.fidelity.check_record import Checks, Interval, Likeness
from nas.plots.format import NONE, counted, duration, error
from nas.report import page
from nas.run_data import ClosingRow, RunData

_LIKENESS: tuple[tuple[str, Callable[[Likeness], str], str], ...] = (
    (
        "PSNR of images",
        lambda x: "equal" if x.psnr_db is None else f"{x.psnr_db:.1f} dB",
        "Pixel by pixel, higher is closer; 3 dB more is half the squared error.",
    ),
    (
        "SSIM of images",
        lambda x: f"{x.ssim:.3f}",
        "Whether light and dark lie in the same places; 1 is the teacher's very image.",
    ),
    (
        "perceptual distance",
        lambda x: error(x.perceptual),
        "Distance in the feature maps of the teacher's VAE encoder, like LPIPS; 0 is the same image.",
    ),
    (
        "embedding cosine",
        lambda x: f"{x.embedding_cosine:.3f}",
        "Whether image by image the same contents appear; 1 the same, 0 no more than two images of the teacher share.",
    ),
)


def fidelity(run: RunData) -> str:
    """Intervals, bias, images, interpolation, and the noise error by timestep."""
    title = "How close the images come"
    rows = [(row, row.checks) for row in run.closing if row.checks is not None]
    if not rows:
        reason = run.missing.get("closing", "closing.json has no checks: the run was finished by an earlier version")
        return page.section(
            "fidelity", title, "What the finished models make of the teacher's noise.", page.missing(reason)
        )
    first = rows[0][1]
    lead = (
        "What each finished model makes of the teacher's own noise and prompts, and what each figure means. "
        "Unrelated is the teacher against itself from other noise with the same prompts."
    )
    head = ("figure", *(page.text(row.name) for row, _ in rows), "unrelated", "what it means")
    numeric = [False, *[True] * (len(rows) + 1), False]
    table = page.table(head, _lines(rows), numeric, cards=True)
    chart = page.figure(plots.noise_error_by_timestep(run), "noise")
    notes = [
        f"{counted(first.num_samples, 'sample')} and {counted(first.num_images, 'image')} a model; in grey 95 % "
        "intervals over other noise and prompts. Models share theirs, so that their differences are surer than the "
        "intervals say.",
        f"taFID looks at {first.features}. It is too high by the spread of so few samples; "
        "KID and taFID without bias are not.",
        "Below: noise error by timestep. Low timesteps decide detail, high ones the layout of the image.",
        f"One evaluation took {duration(first.evaluation_seconds)}, the checks of a model {duration(first.seconds)}.",
    ]
    return page.section("fidelity", title, lead, table, page.notes(notes), chart)


def _lines(rows: list[tuple[ClosingRow, Checks]]) -> list[list[str]]:
    """One line a figure: its name, each model's value, the unrelated one's, its meaning."""

    def line(name: str, value: Callable[[ClosingRow, Checks], str], unrelated: str, meaning: str) -> list[str]:
        return [name, *(value(row, checks) for row, checks in rows), unrelated, f"<small>{meaning}</small>"]

    def scored(measure: str) -> Callable[[ClosingRow, Checks], str]:
        return lambda row, checks: _with(
            error(
                getattr(row.after, measure) if getattr(row.after, measure) is not None else getattr(row.before, measure)
            ),
            checks.intervals.get(measure),
        )

    floor = rows[0][0].tafid_floor
    found = [
        line(
            "latent error",
            scored("latent_error"),
            error(rows[0][1].unrelated_latent_error),
            "Share of the teacher's variance by which final latents differ.",
        ),
        line("noise error", scored("noise_error"), NONE, "The same of one noise prediction, at all timesteps."),
        line(
            "taFID",
            scored("tafid"),
            error(floor),
            "Distance between the distributions of images, whatever image belongs to which noise.",
        ),
        line(
            "taFID without bias",
            lambda _, checks: error(checks.tafid_infinity),
            "0",
            "taFID with endlessly many samples, by extrapolation; none where samples are too few for it.",
        ),
        line(
            "KID",
            lambda _, checks: _with(error(checks.kernel_distance), checks.kernel_interval),
            "0",
            "Another distance between distributions, without bias: an interval around 0 is no difference that shows.",
        ),
    ]
    unrelated = rows[0][1].unrelated
    for name, write, meaning in _LIKENESS:
        found.append(line(name, lambda _, checks, w=write: w(checks.images), write(unrelated), meaning))  # type: ignore[misc]
    found += [
        line(
            "interpolation, length",
            lambda _, checks: f"{checks.path_length_ratio:.2f}",
            "1",
            "Way of the images while the noise moves to another, over the teacher's: below 1 images vary less.",
        ),
        line(
            "interpolation, largest jump",
            lambda _, checks: f"{checks.largest_jump_ratio:.2f}",
            "1",
            "Largest step on that way, over the teacher's: far above 1 the model breaks off between images.",
        ),
    ]
    return found


def _with(value: str, interval: Interval | None) -> str:
    if interval is None:
        return f"<span>{value}</span>"
    return f"<span>{value}<small>{error(interval[0])} to {error(interval[1])}</small></span>"
