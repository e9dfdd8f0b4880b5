"""Convert and export a model of 2 GB, beside a plain copy of the same bytes, taking turns.

Each side makes its files durable, and runs in a process of its own that has imported torch before
its clock starts. A copy too: a virtual machine may return free memory to its host within seconds
(free page reporting, Linux's mm/page_reporting.c), and writing to memory that has to be requested
again takes several times as long, so that only sides that start alike can be compared. Stages do
not verify what they have written.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from jobs.contract import rundir, specs
from jobs.contract.files import fsync_tree, write_json
from jobs.contract.stage_specs import STAGE_KINDS, ModelSpec
from meditron_cli.config.load import load
from meditron_cli.runs.prepare import plan_of
from tests.bench import REPOSITORY, Figure, _starts, environment, ratio, take_turns
from tests.bench._models import BASE_TOKENS, LARGE, write_model, write_tokenizer

STAGES = ("convert", "export")
COPY = "copy"
OUTPUTS = {"convert": "checkpoints", "export": "export-first", COPY: COPY}
"""Folder in the run that each side writes."""
ROUNDS = 3
BYTES_70B = 2 * 68_976_648_192
"""Of Llama-2-70B in bf16."""


def figures(
    rounds: int = ROUNDS,
    spec: ModelSpec = LARGE,
    layouts: Sequence[tuple[int, int]] = _starts.LAYOUTS,
) -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = Measurement(folder / "model", spec).figures(rounds)
        return found + _starts.figures(folder / "start", rounds, layouts)


class Measurement:
    """A model, and a run that converts and exports it."""

    def __init__(self, folder: Path, spec: ModelSpec) -> None:
        self.folder, self.spec = folder, spec
        self.model = folder / "model"
        self.bytes = write_model(self.model, spec)
        write_tokenizer(self.model / "tokenizer.json")
        self.run = rundir.RunDir(folder / "run")
        self.run.root.mkdir()
        self.peaks: dict[str, list[float]] = {side: [] for side in OUTPUTS}
        self.processor: dict[str, list[float]] = {side: [] for side in OUTPUTS}
        self.tasks = {COPY: 1}
        self.plan()

    def plan(self) -> None:
        """Write the specs of the stages."""
        model = {
            name: getattr(self.spec, name)
            for name in (
                "layers",
                "hidden_size",
                "ffn_hidden_size",
                "attention_heads",
                "kv_heads",
                "head_dim",
            )
        }
        settings = {
            **{f"model.{name}": value for name, value in model.items()},
            "model.seq_length": self.spec.seq_length,
            "model.vocab_size": BASE_TOKENS,
            "model.vocab_multiple": 512,
            "model.weights": self.model,
            "tokenize.tokenizer": self.model / "tokenizer.json",
            "pretrain.precision": "bf16",
            "export.step": "first",
            "export.max_shard_gb": 0.08,
            "verify.enabled": "false",
        }
        overrides = [f"{key}={value}" for key, value in settings.items()]
        plan = plan_of(load("local", "tiny", None, overrides), STAGES)
        for stage in plan.stages:
            self.tasks[stage.stage] = len(stage.tasks)
            for task in stage.tasks:
                write_json(self.run.spec(stage.stage, task.index), specs.to_json(task))

    def figures(self, rounds: int) -> list[Figure]:
        largest = 2 * self.spec.padded_vocab_size * self.spec.hidden_size
        aim = f"≤ {round((largest + 1e9) / 1e6)}"
        found: list[Figure] = []
        for stage in STAGES:
            sides = {side: lambda side=side: self.work(side) for side in (COPY, stage)}
            times = take_turns(rounds, **sides)
            speeds = {side: self.bytes / statistics.median(times[side]) / 1e6 for side in times}
            minutes = BYTES_70B / speeds[stage] / 1e6 / 60
            processor = statistics.median(self.processor[stage]) / self.bytes * 1e9
            note = (
                f"{speeds[stage]:.0f} MB/s, a copy {speeds[COPY]:.0f}; 70B at this speed: "
                f"{minutes:.0f} min; {processor:.1f} processor seconds per GB; load average "
                f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
            )
            found += [
                Figure(f"{stage}_over_copy", ratio(times[COPY], times[stage]), "≥ 0.5", note),
                Figure(f"{stage}_peak_rss_mb", max(self.peaks[stage]), aim, "of one process"),
            ]
        return found

    def work(self, side: str) -> float:
        """Copy the model, or run every task of a stage, one after the other; return the seconds."""
        shutil.rmtree(self.run.path(OUTPUTS[side]), ignore_errors=True)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.bench.weights",
                side,
                self.run.root,
                str(self.tasks[side]),
                self.model,
            ],
            cwd=REPOSITORY,
            env=environment(PYTHONWARNINGS="ignore"),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        seconds, processor, peak = json.loads(done.stdout.splitlines()[-1])
        self.peaks[side].append(peak)
        self.processor[side].append(processor)
        return float(seconds)


def work(side: str, root: Path, count: int, model: Path) -> tuple[float, float, float]:
    """Run the tasks of a side in this process; return the seconds, those of its processors, and the
    peak of its memory in MB.
    """
    import safetensors.torch  # noqa: F401 - imports torch too, before the clock starts
    import torch.distributed.checkpoint  # noqa: F401

    from jobs.runtime.context import context_from

    module = importlib.import_module(STAGE_KINDS[side].module) if side in STAGES else None
    started, processor = time.perf_counter(), time.process_time()
    for index in range(count):
        if module is None:
            copy(model, root / OUTPUTS[side])
        else:
            module.run(context_from(root, side, index, os.environ))
    seconds = time.perf_counter() - started
    return seconds, time.process_time() - processor, peak_bytes() / 1e6


def copy(model: Path, target: Path) -> None:
    """Copy the files of weights."""
    target.mkdir()
    for file in model.glob("*.safetensors"):
        shutil.copyfile(file, target / file.name)
    fsync_tree(target)


def peak_bytes() -> int:
    """Return the largest resident size of this process (``VmHWM`` of proc(5)); ``ru_maxrss`` would
    begin with that of the process that started it.
    """
    (line,) = [
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    ]
    return int(line.split()[1]) * 1024


def main(words: Sequence[str]) -> None:
    side, root, count, model = words
    print(json.dumps(work(side, Path(root), int(count), Path(model))))


if __name__ == "__main__":
    main(sys.argv[1:])
