"""Time and memory of distilling all surrogate blocks together, against each in a run of its own.

    python -m experiments.bench.distill [--json]
    python -m experiments.bench.distill --throughput 1,2,4,8,16,32,64 --device cuda --precision bfloat16 [--teacher DIR]
    python -m experiments.bench.distill --throughput 1 --teacher DIR --latent-size 8 --steps 2

Without `--throughput`: one run with every surrogate of `nanosd` and one run for each of them alone, with the same
batches, in turns of a few steps. Seconds are from one step's start to the next's, so that loading, held-out losses and
files are in neither; the losses of every block at every step are compared. Memory is the peak resident size
(VmHWM) of a process of its own, once as it is and once above what was resident before the training: teacher,
data and libraries loaded, one teacher pass made. Exit code 0: every bar is met; 1: one is missed, and named.

With `--throughput`: seconds a step, images a second, peak memory (the CUDA allocator's where there is a GPU) and share
of the chip's peak at each batch size; multiplications are counted as teacher forward + 3 x every block's forward.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.data import Batch
    from nas.distill.results import BlockResult
    from nas.distill.settings import DistillSettings

#: The bars: key, relation, figure.
BARS = (("ratio_wall", "at least", 4.5), ("largest_loss_difference", "at most", 1e-4), ("ratio_peak", "at most", 1.3))
#: Dense bf16/fp16 tensor-core peaks in TFLOP/s by the name that torch gives (NVIDIA's data sheets).
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.0}
NUM_IMAGES = 64


class Subject:
    """A teacher with its search space, and batches that note when a step began."""

    def __init__(self, args: argparse.Namespace) -> None:
        from nas.data import photo_latents
        from nas.distill.blocks import surrogate_blocks
        from nas.teacher import load_teacher
        from search_spaces.space_file import load_space

        self.device, self.size = args.device, args.latent_size
        self.teacher, self.space = load_teacher(args.teacher), load_space("nanosd")
        self.blocks = surrogate_blocks(self.teacher.unet, self.space)
        self.data = photo_latents(self.teacher, NUM_IMAGES, 0) if self.size is None else None
        self.starts: list[float] = []

    def batches(self, batch_size: int) -> Any:
        """A batch source as the trainings take it."""
        from nas.data import batches
        from nas.distill.trainer import HELD_OUT_STEP

        def source(step: int) -> Iterator[Batch]:
            inner = (
                random_batches(self.teacher, self.size, batch_size, step)
                if self.data is None
                else batches(self.data, self.teacher, batch_size, 0, step)
            )
            for batch in inner:
                if step < HELD_OUT_STEP:
                    self.starts.append(self._now())
                yield batch

        return source

    def _now(self) -> float:
        import torch

        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def train(self, blocks: Any, settings: DistillSettings) -> tuple[float, dict[Any, BlockResult]]:
        """Seconds a step, the first left out as warm-up where there are more, and the results."""
        from nas.block_bank import BlockBank
        from nas.distill.blocks import distill_blocks

        self.starts.clear()
        # One more step than asked for: only its start counts.
        settings = settings.model_copy(update={"steps": settings.steps + 1, "checkpoint_every": 10**9})
        with tempfile.TemporaryDirectory() as folder:
            results = distill_blocks(
                self.teacher, self.space, self.batches(settings.batch_size), settings,
                BlockBank(Path(folder) / "bank"), Path(folder), "bench", blocks=blocks,
            )  # fmt: skip
        # Blocks in groups (max_parallel) make that many passes over the steps.
        passes = [self.starts[i : i + settings.steps] for i in range(0, len(self.starts), settings.steps)]
        seconds = 0.0
        for starts in passes:
            steps = [b - a for a, b in pairwise(starts)]
            steps = steps[1:] if len(steps) > 2 else steps
            seconds += sum(steps) / len(steps)
        return seconds, results


def random_batches(teacher: Any, size: int, batch_size: int, step: int) -> Iterator[Batch]:
    """Noise in place of images, for teachers whose own size or text encoder would cost too much."""
    import torch

    from nas.data import Batch, step_generator
    from search_spaces.conditioning import text_width

    shape, width = (batch_size, teacher.latent_channels, size, size), text_width(teacher.unet.config)
    while True:
        g = step_generator(0, step)
        yield Batch(
            torch.randn(shape, generator=g),
            torch.randn(shape, generator=g),
            torch.randint(1000, (batch_size,), generator=g),
            torch.randn((batch_size, teacher.num_tokens, width), generator=g),
        )
        step += 1


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """All together against each alone."""
    import torch

    torch.set_num_threads(1)
    subject, settings = Subject(args), settings_of(args, args.batch_size)
    subject.train(subject.blocks[:1], settings)  # warm-up
    together: list[float] = []
    alone: list[float] = []
    cpu = [0.0, 0.0]
    differences = [0.0]
    for _ in range(args.rounds):
        clock = time.process_time()
        seconds, results = subject.train(subject.blocks, settings)
        together.append(seconds)
        cpu[0] += time.process_time() - clock
        clock, total = time.process_time(), 0.0
        for block in subject.blocks:
            seconds, single = subject.train([block], settings)
            total += seconds
            pairs = zip(results[block].losses, single[block].losses, strict=True)
            differences += [abs(a - b) for a, b in pairs]
        alone.append(total)
        cpu[1] += time.process_time() - clock
    figures: dict[str, Any] = {
        "blocks": len(subject.blocks),
        "batch_size": args.batch_size,
        "steps": args.steps,
        "rounds": args.rounds,
        "seconds_a_step_together": min(together),
        "seconds_a_step_alone": min(alone),
        "ratio_wall": sum(alone) / sum(together),
        "ratio_wall_of_rounds": [a / t for a, t in zip(alone, together, strict=True)],
        "ratio_cpu_time_whole_calls": cpu[1] / cpu[0],
        "largest_loss_difference": max(differences),
    }
    names = [f"{stage}/{option}" for stage, option in subject.blocks]
    firsts = list({name.split("/")[0]: name for name in reversed(names)}.values())
    all_of = peak(args, "*")
    singles = {name: peak(args, name) for name in (names if args.all_singles else firsts)}
    for key in ("peak", "above"):
        figures[f"{key}_mb_together"] = all_of[f"{key}_mb"]
        figures[f"{key}_mb_alone"] = {name: found[f"{key}_mb"] for name, found in singles.items()}
        largest = max(found[f"{key}_mb"] for found in singles.values())
        figures[f"ratio_{key}"] = all_of[f"{key}_mb"] / largest
        figures[f"ratio_{key}_to_smallest"] = all_of[f"{key}_mb"] / min(f[f"{key}_mb"] for f in singles.values())
    return figures


def peak(args: argparse.Namespace, patterns: str) -> dict[str, float]:
    """Peak memory of these blocks' training in a process of its own."""
    command = [sys.executable, "-m", "experiments.bench.distill", "--child", patterns, "--steps", "3"]
    for name in ("batch_size", "teacher", "device", "precision", "latent_size", "max_parallel"):
        if getattr(args, name) is not None:
            command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def child(args: argparse.Namespace) -> dict[str, float]:
    """Train the blocks that `args.child` names and say the peak."""
    import torch

    from nas.distill.blocks import select_blocks

    torch.set_num_threads(1)
    subject = Subject(args)
    blocks = select_blocks(subject.blocks, "*/*" if args.child == "*" else args.child)
    batch = next(subject.batches(args.batch_size)(0))
    with torch.no_grad():
        subject.teacher.unet(batch.latents, batch.timesteps, batch.context)
    before = reset_peak()
    subject.train(blocks, settings_of(args, args.batch_size))
    highest = memory_mb("VmHWM")
    return {"peak_mb": highest, "above_mb": highest - before}


def reset_peak() -> float:
    """Resident MB now; the kernel's peak counts from here."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_mb("VmRSS")


def memory_mb(field: str) -> float:
    """A field of /proc/self/status in MB (1e6 bytes)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024 / 1e6


def throughput(args: argparse.Namespace) -> dict[str, Any]:
    """Images a second, memory and share of peak at each batch size."""
    import torch

    from search_spaces.costs import CostTable

    cuda = torch.device(args.device).type == "cuda"
    if not cuda:
        torch.set_num_threads(args.threads)
    subject = Subject(args)
    size = subject.size or subject.teacher.latent_size
    costs = CostTable.from_unet(subject.teacher.unet, subject.space, size, subject.teacher.num_tokens)
    macs = costs.teacher.num_macs
    for stage, option in subject.blocks:
        macs += 3 * int(costs.num_macs[stage][list(subject.space.options[stage]).index(option)])
    name = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    limit = next((value for key, value in PEAK_TFLOPS.items() if key in name), None) if cuda else None
    rows = []
    for batch_size in map(int, args.throughput.split(",")):
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            reset_peak()
        row: dict[str, Any] = {"batch_size": batch_size}
        try:
            seconds, results = subject.train(subject.blocks, settings_of(args, batch_size))
        except torch.OutOfMemoryError:
            rows.append(row | {"out_of_memory": True})
            break
        memory = torch.cuda.max_memory_allocated() / 1e6 if cuda else memory_mb("VmHWM")
        flops = 2 * macs * batch_size / seconds
        row |= {
            "seconds_a_step": seconds,
            "images_per_s": batch_size / seconds,
            "peak_mb": memory,
            "tflops_per_s": flops / 1e12,
            "share_of_peak": None if limit is None or args.precision == "float32" else flops / 1e12 / limit,
            "stopped_blocks": sum(result.status == "stopped" for result in results.values()),
        }
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    return {
        "device": name,
        "precision": args.precision,
        "latent_size": size,
        "blocks": len(subject.blocks),
        "max_parallel": args.max_parallel,
        "teacher_params": costs.teacher.num_params,
        "rows": rows,
        "torch": torch.__version__,
    }


def settings_of(args: argparse.Namespace, batch_size: int) -> DistillSettings:
    """The recipe's defaults at the asked-for cost settings."""
    from nas.distill.settings import DistillSettings

    return DistillSettings(
        steps=args.steps,
        batch_size=batch_size,
        device=args.device,
        precision=args.precision,
        max_parallel=args.max_parallel,
        channels_last=args.channels_last,
        compile=args.compile,
        checkpointing=args.checkpointing,
    )


def missed(figures: dict[str, Any]) -> list[str]:
    """The bars that these figures miss, in words."""
    found = []
    for key, relation, bar in BARS:
        met = figures[key] >= bar if relation == "at least" else figures[key] <= bar
        if not met:
            found.append(f"{key} is {figures[key]:.3g}, the bar is {relation} {bar:g}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.distill", description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="toy")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--latent-size", type=int, help="noise of this size in place of images")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--max-parallel", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--all-singles", action="store_true", help="memory of every block alone, not of one a stage")
    parser.add_argument("--throughput", metavar="B,B", help="batch sizes, instead of the comparison")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    if args.child:
        print(json.dumps(child(args)))
        return 0
    if args.throughput:
        print(json.dumps(throughput(args), indent=None if args.json else 1))
        return 0
    figures = compare(args)
    problems = missed(figures)
    print(json.dumps({**figures, "missed": problems}, indent=None if args.json else 1))
    for line in problems:
        print(line, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
