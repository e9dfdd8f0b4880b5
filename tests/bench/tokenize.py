"""Tokenize one shard, beside the scripts of Megatron-LM, datatrove and the bare engines, taking
turns over the same documents with the same tokenizer; every output is compared with ours.

Nothing of others is part of the project. These variables name what there is, and a side without
its variable is left out with a line. A worker of ours is a task with one core, as in an array; the
threads of the bare engines and the workers of Megatron-LM's script are as many:

- ``BENCH_TOKENIZER``: a tokenizer.model, such as tokenizer.model.v1 of mistral-common, or a
  tokenizer.json; without it, the sample's;
- ``BENCH_CORPUS``: a JSONL file; without it, the sample's documents are repeated;
- ``BENCH_MEGATRON`` and ``BENCH_MEGATRON_PYTHON``: a checkout of Megatron-LM with
  tools/preprocess_data_fast.py, and a Python >= 3.12 with torch, transformers and gigatoken;
- ``BENCH_DATATROVE_PYTHON``: a Python with datatrove;
- ``BENCH_ROUNDS``: rounds of the slow sides (1).
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy

from jobs.contract import done_markers, rundir, specs
from jobs.contract.atomic_file import AtomicFile
from jobs.contract.files import sha256, write_json
from jobs.data import sentencepiece_model
from jobs.data.indexed_dataset import index_dtype, read_index, write_index
from jobs.data.tokenizer_file import read_tokens
from jobs.tokenization.stretches import BYTES_PER_TOKEN
from meditron_cli.config.load import load
from meditron_cli.runs.prepare import plan_of
from meditron_cli.sample import generate
from tests.bench import Figure, environment, ratios, take_turns

END = "</s>"
SAMPLE_END = "<EOD>"
NAMES = ("<s>", END, "<unk>", SAMPLE_END)
"""Documents that contain one are left out: here they are text, for the others tokens."""
SAMPLE_BYTES = 20_000_000
AIMS = {
    ("megatron", "gigatoken"): "≥ 12",
    ("megatron_fast", "gigatoken"): "≥ 2",
    ("datatrove", "gigatoken"): "≥ 9",
    ("bare_gigatoken", "gigatoken"): "≥ 0.9",
    ("megatron", "tokenizers"): "≥ 1.7",
    ("bare_tokenizers", "tokenizers"): "≥ 0.95",
}
WORKERS = (1, 2)
FAST_ROUNDS = 4
"""More rounds of the sides that take a second or two."""

BARE = """
import os, sys, time
engine, path, threads, tokenizer = sys.argv[1:]
os.environ["RAYON_NUM_THREADS"] = threads
os.environ["TOKENIZERS_PARALLELISM"] = "true"
import orjson
texts = [orjson.loads(line)["text"] for line in open(path, "rb")]
size = 1 << 21 if engine == "gigatoken" else 1 << 20
batches, held = [[]], 0
for text in texts:
    batches[-1].append(text)
    held += len(text)
    if held >= size:
        batches.append([])
        held = 0
if engine == "gigatoken":
    import gigatoken
    made = gigatoken.Tokenizer(tokenizer)
    encode = lambda batch: made.encode_batch(batch, parallel=threads != "1")
else:
    from tokenizers import Tokenizer
    made = Tokenizer.from_file(tokenizer)
    encode = lambda batch: made.encode_batch_fast(batch, add_special_tokens=False)
encode(["warm up"])
started = time.perf_counter()
for batch in batches:
    encode(batch)
print(time.perf_counter() - started)
"""
"""Encode documents that are in memory, and nothing else."""

DATATROVE = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens.megatron_tokenizer import MegatronDocumentTokenizer
source, output, tokenizer, end = sys.argv[1:]
folder, _, name = source.rpartition("/")
step = MegatronDocumentTokenizer(output, tokenizer_name_or_path=tokenizer, eos_token=end)
reader = JsonlReader(folder, glob_pattern=name)
LocalPipelineExecutor(pipeline=[reader, step], tasks=1, logging_dir=output + "/logs").run()
"""


def figures() -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        bench = Measurement(Path(name))
        return [*bench.start_up(), *(item for n in WORKERS for item in bench.figures(n))]


class Measurement:
    """A corpus, a tokenizer, and a run that tokenizes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.end = END
        self.corpus, self.tokenizer = folder / "corpus.jsonl", folder / "tokenizer.json"
        generate.write(folder / "sample", seed=7)
        self._write_tokenizer(os.environ.get("BENCH_TOKENIZER"))
        self._write_corpus(os.environ.get("BENCH_CORPUS"))
        self.size = self.corpus.stat().st_size
        self.peaks: dict[str, int] = {}
        self.processor: dict[str, float] = {}
        """Processor seconds of the last run of each side, which depend little on other work."""
        self.digests: dict[str, list[str]] = {}
        self.work: dict[str, list[float]] = {}
        """Seconds of our tasks, without their start."""

    def _write_tokenizer(self, source: str | None) -> None:
        if source is None:
            self.end = SAMPLE_END
            shutil.copy(self.folder / "sample" / "tokenizer.json", self.tokenizer)
        elif source.endswith(".json"):
            shutil.copy(source, self.tokenizer)
        else:
            model = sentencepiece_model.read_model(Path(source).read_bytes())
            self.tokenizer.write_text(json.dumps(sentencepiece_model.tokenizer_json(model)))
        facts = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": self.end}
        beside = {**facts, "clean_up_tokenization_spaces": False, "model_max_length": 10**12}
        self.tokenizer.with_name("tokenizer_config.json").write_text(json.dumps(beside))

    def _write_corpus(self, source: str | None) -> None:
        paths = [Path(source)] if source else [*(self.folder / "sample" / "corpus").glob("*.jsonl")]
        names = [name.encode() for name in NAMES]
        with self.corpus.open("wb") as file:  # line by line: a process begins with our memory
            while True:
                for path in paths:
                    with path.open("rb") as lines:
                        file.writelines(
                            line for line in lines if not any(name in line for name in names)
                        )
                if source or file.tell() >= SAMPLE_BYTES:
                    return

    def run_of(self, corpus: Path, engine: str, workers: int) -> rundir.RunDir:
        """Return a new run with its shard and the specs of tasks, each of which takes a part."""
        run = rundir.RunDir(self.folder / f"run-{engine}-{workers}")
        shutil.rmtree(run.root, ignore_errors=True)
        run.root.mkdir()
        tokens = read_tokens(self.tokenizer).size
        settings: dict[str, Any] = {
            "curate.shards": 1,
            "tokenize.tokenizer": self.tokenizer,
            "tokenize.engine": engine,
            "tokenize.cpus": 1,
            "tokenize.tasks": 2 * workers,  # every second one is for the validation documents
            "tokenize.shard_tokens": self.size // (workers * BYTES_PER_TOKEN) + 1,
            "model.vocab_size": tokens,
            "vocabulary.added_tokens": "[]",
            "vocabulary.control_tokens": "[]",
            "vocabulary.eod_token": self.end,
            "vocabulary.eos_token": self.end,
        }
        overrides = [f"{key}={value}" for key, value in settings.items()]
        tasks = plan_of(load("local", "tiny", None, overrides), ("tokenize",)).stages[0].tasks
        for number, task in enumerate(tasks):
            write_json(run.spec("tokenize", number), specs.to_json(task))
        shard = run.path("corpus/train/00000.jsonl")
        shard.parent.mkdir(parents=True)
        os.link(corpus, shard)
        return run

    def start_up(self) -> list[Figure]:
        """Return the seconds of a task whose shard is empty."""
        empty = self.folder / "empty.jsonl"
        empty.touch()
        seconds = [self.tasks(self.run_of(empty, "auto", 1), "start", 1) for _ in range(5)]
        value = statistics.median(seconds)
        return [Figure("tokenize_start_seconds", value, "< 1", "a task with an empty shard")]

    def tasks(self, run: rundir.RunDir, side: str, workers: int) -> float:
        """Run the tasks at once, as Slurm would; return their seconds."""
        words = [sys.executable, "-m", "jobs", "tokenize", str(run.root)]
        numbers = range(0, 2 * workers, 2)
        return self.processes(side, [[*words, str(n)] for n in numbers], environment())[0]

    def process(self, side: str, words: Sequence[str], env: dict[str, str]) -> tuple[float, str]:
        """Return the seconds and the output of a process; keep the peak of its largest one."""
        return self.processes(side, [words], env)

    def processes(
        self, side: str, commands: Sequence[Sequence[str]], env: dict[str, str]
    ) -> tuple[float, str]:
        """Return the seconds and the output of processes that run at once, as ``process``."""
        started, output = time.perf_counter(), ""
        self.processor[side] = 0.0
        with (self.folder / f"{side}.log").open("w+") as log:
            children = [
                subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True, env=env)
                for words in commands
            ]
            for child in children:
                assert child.stdout is not None
                output += child.stdout.read()
                _, status, used = os.wait4(child.pid, 0)
                child.returncode = os.waitstatus_to_exitcode(status)
                if child.returncode:
                    log.seek(0)
                    raise RuntimeError(f"{side}: {log.read()[-2000:]}")
                self.peaks[side] = max(self.peaks.get(side, 0), used.ru_maxrss)
                self.processor[side] += used.ru_utime + used.ru_stime
        return time.perf_counter() - started, output

    def figures(self, workers: int) -> list[Figure]:
        """Return the figures for a number of workers."""
        sides = {
            **{
                f"{name}": partial(self.ours, name, workers) for name in ("gigatoken", "tokenizers")
            },
            "bare_gigatoken": partial(self.bare, "gigatoken", workers),
            "bare_tokenizers": partial(self.bare, "tokenizers", workers),
            **self.others(workers),
        }
        seconds = take_turns(int(os.environ.get("BENCH_ROUNDS", "1")), **sides)
        fast = {name: side for name, side in sides.items() if name.endswith("gigatoken")}
        for name, more in take_turns(FAST_ROUNDS, **fast).items():
            seconds[name] += more
        return [*self.rates(seconds, workers), *self.ratios(seconds, workers), self.same(workers)]

    def rates(self, seconds: dict[str, list[float]], workers: int) -> list[Figure]:
        """Return MB/s and the peak memory of our engines."""
        found = []
        for side, values in seconds.items():
            middle = statistics.median(values)
            note = (
                f"MB/s; {middle:.1f} s, {self.processor[side]:.1f} of a processor, "
                f"{self.peaks[side] / 1024:.0f} MB at most"
            )
            speed = self.size / middle / 1e6
            found.append(Figure(f"tokenize_{side}_{workers}_mb_s", speed, "", note))
        peak = self.peaks["gigatoken"] / 1024
        return [*found, Figure(f"tokenize_peak_mb_{workers}", peak, "≤ 300", "of one process")]

    def ratios(self, seconds: dict[str, list[float]], workers: int) -> list[Figure]:
        """Return how many times as fast as others we are."""
        found = []
        for (other, engine), aim in AIMS.items():
            if other in seconds:
                bare = other.startswith("bare")  # these have no start either
                ours = self.work[engine][-len(seconds[other]) :] if bare else seconds[engine]
                values = ratios(seconds[other], ours[: len(seconds[other])])
                note = f"{min(values):.2f} to {max(values):.2f} in {len(values)} rounds"
                note += ", without the start" if bare else ""
                name = f"tokenize_{engine}_over_{other}_{workers}"
                found.append(Figure(name, statistics.median(values), aim, note))
        return found

    def same(self, workers: int) -> Figure:
        """Return how many of the sides wrote the .bin and .idx that our tasks wrote; those of
        several tasks are merged.
        """
        ours = self.digests["tokenizers"]
        equal = [side for side, digests in self.digests.items() if digests == ours]
        odd = sorted({*self.digests} - {*equal})
        note = f"of {len(self.digests)}" + (f"; other bytes: {', '.join(odd)}" if odd else "")
        return Figure(f"tokenize_same_bytes_{workers}", len(equal), str(len(self.digests)), note)

    def ours(self, engine: str, workers: int) -> float:
        """Tokenize with one of the engines; return the seconds."""
        run = self.run_of(self.corpus, engine.replace("gigatoken", "auto"), workers)
        seconds = self.tasks(run, engine, workers)
        markers = [done_markers.load(run.done("tokenize", 2 * n)) for n in range(workers)]
        for marker in markers:
            if marker.summary["engine"] != engine:
                raise RuntimeError(f"not {engine}: {marker.summary['engine_reason']}")
        self.digest(engine, self.merged(run))
        self.work.setdefault(engine, []).append(max(item.summary["seconds"] for item in markers))
        return seconds

    def merged(self, run: rundir.RunDir) -> Path:
        """Write the datasets of the tasks into one; return its prefix."""
        prefix, dtype = self.folder / "merged", index_dtype(read_tokens(self.tokenizer).size)
        paths = run.path("tokens/train").glob("*.idx")
        paths = sorted(paths, key=lambda path: path.stem)  # 00000, 00000-0001
        with prefix.with_suffix(".bin").open("wb") as file:
            for path in paths:
                with path.with_suffix(".bin").open("rb") as part:
                    shutil.copyfileobj(part, file)
        index = AtomicFile(prefix.with_suffix(".idx"))
        write_index(index, numpy.concatenate([read_index(path).lengths for path in paths]), dtype)
        index.seal()
        index.publish()
        return prefix

    def bare(self, engine: str, workers: int) -> float:
        """Encode with the library alone; return the seconds, without reading and loading."""
        words = [sys.executable, "-c", BARE, engine, self.corpus, str(workers), self.tokenizer]
        return float(self.process(f"bare_{engine}", words, environment())[1])

    def others(self, workers: int) -> dict[str, Callable[[], float]]:
        """Return the tools of others that there are."""
        found: dict[str, Callable[[], float]] = {}
        checkout, python = (os.environ.get(f"BENCH_MEGATRON{end}") for end in ("", "_PYTHON"))
        if checkout and python:
            found["megatron"] = partial(self.megatron, checkout, python, workers, False)
            found["megatron_fast"] = partial(self.megatron, checkout, python, workers, True)
        else:
            print("without Megatron-LM: BENCH_MEGATRON, BENCH_MEGATRON_PYTHON", file=sys.stderr)
        if python := os.environ.get("BENCH_DATATROVE_PYTHON"):
            found["datatrove"] = partial(self.datatrove, python, workers)
        else:
            print("without datatrove: BENCH_DATATROVE_PYTHON", file=sys.stderr)
        return found

    def megatron(self, checkout: str, python: str, workers: int, fast: bool) -> float:
        """Run one of Megatron-LM's scripts; return the seconds."""
        script, side = ("_fast", "megatron_fast") if fast else ("", "megatron")
        special = ["--use-gigatoken"] if fast else ["--workers", str(workers)]
        words = [
            *(python, f"{checkout}/tools/preprocess_data{script}.py", "--input", str(self.corpus)),
            *("--output-prefix", str(self.folder / side), "--append-eod"),
            *("--tokenizer-type", "HuggingFaceTokenizer"),
            *("--tokenizer-model", str(self.folder), *special),
        ]
        more = {"RAYON_NUM_THREADS": str(workers)} if fast else {}
        env = {**os.environ, **more, "PYTHONPATH": checkout, "PYTHONWARNINGS": "ignore"}
        seconds, _ = self.process(side, words, env)
        self.digest(side, self.folder / f"{side}_text_document")
        return seconds

    def datatrove(self, python: str, workers: int) -> float:
        """Run datatrove's tokenizer for Megatron, with as many threads; return the seconds."""
        output = self.folder / "datatrove"
        shutil.rmtree(output, ignore_errors=True)
        words = [python, "-c", DATATROVE, self.corpus, output, self.tokenizer, self.end]
        env = {**os.environ, "RAYON_NUM_THREADS": str(workers), "TOKENIZERS_PARALLELISM": "true"}
        seconds, _ = self.process("datatrove", list(map(str, words)), env)
        (binary,) = output.glob("*.bin")
        self.digest("datatrove", binary.with_suffix(""))
        return seconds

    def digest(self, side: str, prefix: Path) -> None:
        """Keep the digests of a dataset."""
        self.digests[side] = [
            sha256(prefix.with_name(f"{prefix.name}{end}")) for end in (".bin", ".idx")
        ]
