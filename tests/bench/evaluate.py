"""Score questions by likelihood, beside lm-eval's Hugging Face adapter on an equal model; and
start an evaluation task.

Both sides encode and score the same texts, in a process each that has imported everything before
its clock starts. The models are random: one has megatron.core's layers, one transformers'. The
output layer, which lm-eval's adapter computes at all positions, has about half of their parameters;
of a 7B model it has 2 %. Memory is how much a process grew at its peak while it scored.
"""

from __future__ import annotations

import importlib.machinery
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench import REPOSITORY, Figure, environment, ratio, ratios, take_turns
from tests.model_specs import model_spec, tokenizer_ref

LETTERS, TEXTS, WIDE = "letters", "texts", "wide"
"""Options of one token; of some tokens; and of one token where the vocabulary is large."""
WIDE_TOKENS = 128_256
"""As Llama 3 has."""
GIB = 2**30


class Size(NamedTuple):
    """The scores of one measurement."""

    questions: int
    words: int
    """Of a prompt, each a token."""
    layers: int
    hidden: int
    batch: int


USUAL = Size(questions=16, words=256, layers=4, hidden=512, batch=16)
SMALLEST = Size(questions=3, words=8, layers=1, hidden=32, batch=2)


def figures(rounds: int = 3, size: Size = USUAL) -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = []
        for kind, figure in ((LETTERS, "score_over_lm_eval"), (TEXTS, "score_texts_over_lm_eval")):
            sides = {side: run_of(folder, side, kind, size) for side in ("ours", "theirs")}
            seconds = take_turns(rounds, **{side: seconds_of(run) for side, run in sides.items()})
            each = ratios(seconds["theirs"], seconds["ours"])
            rate = size.questions / statistics.median(seconds["ours"])
            note = f"{min(each):.2f} to {max(each):.2f}; {rate:.1f} questions/s, options: {kind}"
            found.append(Figure(figure, ratio(seconds["theirs"], seconds["ours"]), "≥ 1.5", note))
        wide = size._replace(questions=size.batch, layers=1, hidden=min(size.hidden, 256))
        ours, theirs = (run_of(folder, side, WIDE, wide)()["gib"] for side in ("ours", "theirs"))
        note = f"one batch of {wide.batch} prompts; lm-eval's adapter {theirs:.2f}"
        found.append(Figure("score_memory_128k_gib", ours, "", note))
        starts = [start(folder) for _ in range(rounds)]
        note = f"imports of an evaluation in s, {min(starts):.1f} to {max(starts):.1f}"
        return [*found, Figure("score_start_s", statistics.median(starts), "", note)]


def seconds_of(run: Callable[[], dict[str, float]]) -> Callable[[], float]:
    return lambda: run()["seconds"]


def run_of(folder: Path, side: str, kind: str, size: Size) -> Callable[[], dict[str, float]]:
    """Return a function that scores in a new process, and returns seconds and memory."""
    command = [
        sys.executable,
        "-m",
        "tests.bench.evaluate",
        side,
        kind,
        str(folder),
        *map(str, size),
    ]

    def run() -> dict[str, float]:
        done = subprocess.run(
            command, env=environment(HF_HUB_OFFLINE="1"), cwd=REPOSITORY, capture_output=True
        )
        if done.returncode:
            raise RuntimeError(done.stderr.decode())
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found

    return run


def start(folder: Path) -> float:
    """Return the seconds in which an interpreter has imported what an evaluation runs."""
    code = """
from jobs.engine import device
place = device.start("cpu", 0, 1, 0)
from jobs.engine import checkpoint, model
from jobs.evaluation import likelihood_results, megatron_scorer, significance
from jobs.stages import evaluate
device.end()
"""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - started


# --- in the process of one side ----------------------------------------------------------------


def questions_of(kind: str, size: Size) -> list[tuple[str, list[str]]]:
    """Return prompts with their options: words that are a token each."""
    draw = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{draw.randrange(30_000)}" for _ in range(count))

    lengths = [draw.randint(size.words // 2, size.words) for _ in range(size.questions)]
    count = 6 if kind == TEXTS else 1
    return [(words(length), [words(count) for _ in range(4)]) for length in lengths]


def write_tokenizer(path: Path, tokens: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {f"w{number}": number for number in range(tokens - 1)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<EOD>"])
    tokenizer.save(str(path))


def ours(questions: Sequence[tuple[str, list[str]]], spec: Any, path: Path, batch: int) -> Any:
    """Return a function that scores as the stage does."""
    from jobs.contract.stage_specs import ParallelSpec
    from jobs.data.tokenizer_file import Encoder
    from jobs.engine import device

    place = device.start("cpu", 0, 1, 0)
    from jobs.engine import model
    from jobs.evaluation.likelihood_prompts import PlainPrompts, Put
    from jobs.evaluation.megatron_scorer import MegatronScorer, batches
    from jobs.questions.question import Question

    alone = ParallelSpec(1, 1, 1, False, False, "none")
    model.start_parallel(alone, 1)
    network = model.build(spec, alone, "fp32", place, for_inference=True)
    encoder = Encoder.load(tokenizer_ref(str(path), base_size=spec.vocab_size))
    scorer = MegatronScorer(
        lambda tokens, places: model.logits_at(network, tokens, places),
        encoder.eod,
        max_length=spec.seq_length,
        batch_size=batch,
    )
    nothing = Question("", "", (), (), 0, "test", "", "texts")

    def score() -> None:
        puts = [Put(nothing, prompt, tuple(options)) for prompt, options in questions]
        items = list(PlainPrompts().encode(puts, encoder))
        prompts, options = zip(*items, strict=True)
        made = batches(prompts, options, max_length=spec.seq_length, batch_size=batch)
        for places in made:
            scorer.score([prompts[n] for n in places], [options[n] for n in places])

    return score


def theirs(questions: Sequence[tuple[str, list[str]]], spec: Any, path: Path, batch: int) -> Any:
    """Return a function that scores with lm-eval's adapter of transformers' models."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    # The adapter imports accelerate, of which it runs nothing for a model that it is given.
    stand_in: Any = types.ModuleType("accelerate")
    stand_in.utils = types.ModuleType("accelerate.utils")
    for name in ("Accelerator", "InitProcessGroupKwargs", "find_executable_batch_size"):
        setattr(stand_in, name, None)
    stand_in.utils.get_max_memory = None
    for module in (stand_in, stand_in.utils):
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
        sys.modules.setdefault(module.__name__, module)
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    config = LlamaConfig(
        hidden_size=spec.hidden_size,
        intermediate_size=spec.ffn_hidden_size,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.attention_heads,
        num_key_value_heads=spec.kv_heads,
        vocab_size=spec.vocab_size,
        max_position_embeddings=spec.seq_length,
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token="<EOD>")
    lm = HFLM(pretrained=LlamaForCausalLM(config).eval(), tokenizer=tokenizer, batch_size=batch)
    requests = [
        Instance("loglikelihood", {}, (prompt, f" {option}"), 0)
        for prompt, options in questions
        for option in options
    ]
    return lambda: lm.loglikelihood(requests, disable_tqdm=True)


def main(side: str, kind: str, folder: str, *numbers: str) -> None:
    """Score once, and print seconds and memory."""
    size = Size(*map(int, numbers))
    tokens = WIDE_TOKENS if kind == WIDE else 32_000
    spec = model_spec(
        layers=size.layers,
        hidden_size=size.hidden,
        ffn_hidden_size=size.hidden * 11 // 4,
        attention_heads=8,
        kv_heads=8,
        seq_length=1024,
        vocab_size=tokens,
        padded_vocab_size=tokens,
    )
    path = Path(folder) / f"tokenizer-{tokens}.json"
    if not path.exists():
        write_tokenizer(path, tokens)
    questions = questions_of(kind, size)
    score = {"ours": ours, "theirs": theirs}[side](questions, spec, path, size.batch)
    before = peak()
    started = time.perf_counter()
    score()
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "gib": max(peak() - before, 2**20) / GIB}))


def peak() -> float:
    """Return the most memory that this process has had, in bytes."""
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main(*sys.argv[1:])
