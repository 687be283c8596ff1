"""What `nanosd calibrate` prints of a profile: what it is, how good it is, what to do next."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.output import print_facts, print_json, say

if TYPE_CHECKING:
    from latency_predictors.judging import Verdict
    from latency_predictors.profile import DeviceProfile
    from nas.report.profile_facts import Fact


def show(profile: "DeviceProfile", out: Path, json: bool, extra: dict[str, Any] | None = None) -> None:
    """Print what a new profile is and how good: a table and the verdict, or one JSON document with `extra`."""
    from latency_predictors.evaluation import evaluate
    from nas.report.profile_facts import error_facts, profile_facts

    found = evaluate(profile)
    summary: dict[str, Any] = {
        "profile": out,
        "device": found.device,
        "runtime": found.runtime,
        "precision": found.precision,
        "threads": found.threads,
        "toolchain": found.toolchain,
        "space": found.space,
        "latent_size": found.latent_size,
        "information": found.information,
        "num_parts": found.num_parts,
        "num_networks": found.num_networks,
        "judgement": None if found.judgement is None else found.judgement.model_dump(mode="json"),
        "repeatability_pct": found.repeatability_pct,
        "tie_pct": found.tie_pct,
    }
    for line in found.warnings:
        say(f"warning: {line}")
    if json:
        print_json({**summary, "verdict": _verdict(found.verdict), "warnings": found.warnings, **(extra or {})})
        return
    _print(out, [*profile_facts(found), *error_facts(found)], found.verdict)


def evaluation_page(path: Path) -> Path:
    """Where the page of a profile goes if nothing is said: beside its file; of a shipped profile into this folder."""
    return path.with_suffix(".html") if path.is_file() else Path(f"{path.stem}.html")


def show_evaluation(path: Path, page: Path, json: bool) -> None:
    """Judge the profile of a file or a name, write its page, and print the verdict and where the page is."""
    from nas.quiet import quiet

    quiet()
    from latency_predictors.npu.profile import NpuProfile
    from latency_predictors.profile_file import load_profile

    loaded = load_profile(str(path))
    if isinstance(loaded, NpuProfile):
        from latency_predictors.judging import judge_npu
        from nas.report.profile_facts import npu_facts
        from nas.report.profile_page import write_npu_page

        verdict, facts = judge_npu(loaded.errors), npu_facts(loaded)
        write_npu_page(loaded, verdict, page)
        summary: dict[str, Any] = {"device": loaded.device, "precision": loaded.precision.value}
    else:
        from latency_predictors.evaluation import evaluate
        from nas.report.profile_facts import error_facts, profile_facts
        from nas.report.profile_page import write_profile_page

        found = evaluate(loaded)
        for line in found.warnings:
            say(f"warning: {line}")
        write_profile_page(found, page)
        verdict, facts = found.verdict, [*profile_facts(found), *error_facts(found)]
        summary = {**asdict(found), "judgement": found.judgement}
        if found.judgement is not None:
            summary["judgement"] = found.judgement.model_dump(mode="json")
    if json:
        print_json({**summary, "verdict": _verdict(verdict), "page": page})
        return
    _print(path, facts, verdict)
    print(f"page: {page}")


def _verdict(verdict: "Verdict") -> dict[str, Any]:
    return {**asdict(verdict), "words": verdict.words}


def _print(profile: Path, facts: Sequence["Fact"], verdict: "Verdict") -> None:
    print_facts([("profile", str(profile), ""), *facts])
    print(f"verdict: {verdict.words}")
    for sentence in verdict.reasons:
        print(f"  {sentence}")
    for sentence in verdict.next_steps:
        print(f"  next: {sentence}")
