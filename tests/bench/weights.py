"""Convert and export a model of 2 GB, beside a plain copy of the same bytes, taking turns.

Each side makes its files durable. A stage runs in a process of its own, whose time is that of the
stage's work: importing torch is not counted.
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
OUTPUTS = {"convert": "checkpoints", "export": "export-first"}
"""Folder that each stage writes."""
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
        self.peaks: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self.processor: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self.tasks: dict[str, int] = {}
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
            "export.max_shard_gb": 0.5,
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
            times = take_turns(rounds, copy=self.copy, stage=lambda stage=stage: self.work(stage))
            speeds = {side: self.bytes / statistics.median(times[side]) / 1e6 for side in times}
            minutes = BYTES_70B / speeds["stage"] / 1e6 / 60
            processor = statistics.median(self.processor[stage]) / self.bytes * 1e9
            note = (
                f"{speeds['stage']:.0f} MB/s, a copy {speeds['copy']:.0f}; 70B at this speed: "
                f"{minutes:.0f} min; {processor:.1f} processor seconds per GB"
            )
            found += [
                Figure(f"{stage}_over_copy", ratio(times["copy"], times["stage"]), "≥ 0.5", note),
                Figure(f"{stage}_peak_rss_mb", max(self.peaks[stage]), aim, "of one process"),
            ]
        return found

    def copy(self) -> float:
        """Copy the model's files; return the seconds."""
        target = self.folder / "copy"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        started = time.perf_counter()
        for file in self.model.glob("*.safetensors"):
            shutil.copyfile(file, target / file.name)
        fsync_tree(target)
        return time.perf_counter() - started

    def work(self, stage: str) -> float:
        """Run every task of a stage, one after the other; return their seconds."""
        shutil.rmtree(self.run.path(OUTPUTS[stage]), ignore_errors=True)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.bench.weights",
                stage,
                self.run.root,
                str(self.tasks[stage]),
            ],
            cwd=REPOSITORY,
            env=environment(PYTHONWARNINGS="ignore"),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        seconds, processor, peak = json.loads(done.stdout.splitlines()[-1])
        self.peaks[stage].append(peak)
        self.processor[stage].append(processor)
        return float(seconds)


def work(stage: str, root: Path, count: int) -> tuple[float, float, float]:
    """Run the tasks of a stage in this process; return the seconds, those of its processors, and
    the peak of its memory in MB.
    """
    import safetensors.torch  # noqa: F401 - imports torch too, before the clock starts

    from jobs.runtime.context import context_from

    module = importlib.import_module(STAGE_KINDS[stage].module)
    started, processor = time.perf_counter(), time.process_time()
    for index in range(count):
        module.run(context_from(root, stage, index, os.environ))
    seconds = time.perf_counter() - started
    return seconds, time.process_time() - processor, peak_bytes() / 1e6


def peak_bytes() -> int:
    """Return the largest resident size of this process (``VmHWM`` of proc(5)); ``ru_maxrss`` would
    begin with that of the process that started it.
    """
    (line,) = [
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    ]
    return int(line.split()[1]) * 1024


def main(words: Sequence[str]) -> None:
    stage, root, count = words
    print(json.dumps(work(stage, Path(root), int(count))))


if __name__ == "__main__":
    main(sys.argv[1:])
