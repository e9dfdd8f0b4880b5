"""Check the files that stages read, before anything is submitted."""

from __future__ import annotations

import os
import shlex
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.contract.errors import TaskError
from jobs.contract.stage_specs import JUDGE, PREPARE, TOKENIZER_STAGES
from jobs.data import tokenizer_file

if TYPE_CHECKING:
    from jobs.contract.corpus.benchmark_files import BenchmarkOptions
    from meditron_cli.config.evaluation.schema import Benchmark
    from meditron_cli.config.experiment_schema import Experiment
    from meditron_cli.config.load import Loaded, Missing
    from meditron_cli.config.training.finetune import Finetune, TrainFile

READ_RECORDS = 200
"""Training questions of a file that are read before anything is submitted."""


def missing(loaded: Loaded, stages: Collection[str]) -> list[Missing]:
    """Return the missing inputs of some stages."""
    return [item for item in loaded.missing if not set(stages).isdisjoint(item.stages)]


def of_stages(loaded: Loaded, stages: Collection[str]) -> list[str]:
    """Return one sentence per missing or unusable input of some stages."""
    sentences = [item.sentence for item in missing(loaded, stages)]
    return sentences + unusable(loaded, stages)


def unusable(loaded: Loaded, stages: Collection[str]) -> list[str]:
    """Return one sentence per unusable input file; ``config.load`` reports missing ones."""
    sentences = data_problems(loaded.experiment, loaded.cluster.data_dir, stages)
    return sentences + list(problems_beside_data(loaded, stages))


def data_problems(
    experiment: Experiment, data_dir: Path | None, stages: Collection[str]
) -> list[str]:
    """Return one sentence per file of documents or questions that the stages cannot use."""
    from meditron_cli.config import data_files, load
    from meditron_cli.plan import spec_parts

    sentences: list[str] = []
    for readers, (section, name, number, *key), path in load.data_files(experiment):
        place = data_files.place(path, data_dir)
        if place is None or set(stages).isdisjoint(readers):
            continue
        if key == ["train"]:
            sentences += path_problems(f"{section}.{name}[{number}].train", place)
        elif name == "benchmarks":
            benchmark = experiment.evaluate.benchmarks[int(number)]
            scored = not {"evaluate", "generate"}.isdisjoint(stages)
            options = spec_parts.benchmark_options(experiment, benchmark, data_dir, train=scored)
            shots = benchmark.shots if scored else 0
            sentences += benchmark_problems(benchmark, shots, place, options)
        elif name == "models":
            model = experiment.finetune.models[int(number)]
            file = model.data[int(key[1])]
            where = f"finetune.models[{number}].data"
            sentences += training_problems(where, model.kind_of(file), file.first_answer, place)
        elif name == "decontaminate":
            file = experiment.finetune.decontaminate.against[int(key[0])]
            sentences += compared_problems(file, place)
        else:
            sentences += path_problems(f"{section}.{name}", place)
    return sentences


def problems_beside_data(loaded: Loaded, stages: Collection[str]) -> Iterator[str]:
    """Yield a sentence per unusable tokenizer, template, base model or receiver of messages."""
    from meditron_cli.inputs import receivers

    tokenizer = loaded.experiment.tokenize.tokenizer
    if PREPARE in stages:
        yield from template_problems(loaded.experiment)
    if tokenizer and set(TOKENIZER_STAGES) & set(stages):
        yield from tokenizer_problems(loaded, tokenizer)
    if "convert" in stages:
        yield from weights_problems(loaded)
    if "generate" in stages:
        yield from generation_problems(loaded.experiment)
    if JUDGE in stages:
        yield from judge_problems(loaded.experiment)
    if "evaluate" in stages:
        yield from reasoning_problems(loaded)
    yield from receivers.problems(loaded.experiment, loaded.cluster)


def reasoning_problems(loaded: Loaded) -> Iterator[str]:
    """Yield a sentence for benchmarks whose options would be scored where the model reasons."""
    from jobs.data import base_tokenizer
    from meditron_cli.config import weights

    experiment = loaded.experiment
    scored = [one.name for one in experiment.evaluate.benchmarks if one.scored and not one.model]
    folder = weights.find(experiment.model.weights, loaded.cluster.models_dir).folder
    try:
        if not scored or folder is None or not base_tokenizer.reasons_first(folder):
            return
    except (ValueError, OSError) as error:
        yield f"model.weights: the chat template in {folder} cannot be read ({error})"
        return
    yield (
        f"evaluate.benchmarks: the base model in {folder} was taught to reason before it answers, "
        f"so that the likelihood of an option right behind the question measures little "
        f"({', '.join(scored)}); set `modes` to [cot] or [sc-cot]"
    )


def generation_problems(experiment: Experiment) -> Iterator[str]:
    """Yield a sentence for a benchmark whose answers leave no room for its questions."""
    from meditron_cli.plan import spec_parts

    limit = experiment.evaluate.generate.max_tokens
    for benchmark in experiment.evaluate.benchmarks:
        context = spec_parts.models_of(experiment)[-1].seq_length
        if benchmark.model:
            context = experiment.finetune.sequence_length or experiment.model.seq_length
        if limit >= context and {*benchmark.generated} - {"top-token"}:
            yield (
                f"evaluate.generate.max_tokens: {limit} tokens of an answer leave no room for a "
                f"question of {benchmark.name} in the {context} that the model reads; set it lower"
            )


def judge_problems(experiment: Experiment) -> Iterator[str]:
    """Yield a sentence for a judge's folder that lacks a file, and for grades that cannot be read;
    ``config.load`` reports missing ones.
    """
    from jobs.questions.human_grades import read_grades

    judge = experiment.evaluate.judge
    if judge is None:
        return
    folder, grades = judge.folder, judge.grades
    for name in ("config.json", "tokenizer.json"):
        if folder.exists() and not (folder / name).is_file():
            yield f"evaluate.judge.folder: {folder} has no {name}; name the folder of a model"
    if grades is None or not grades.exists():
        return
    unreadable = list(path_problems("evaluate.judge.grades", grades))
    yield from unreadable
    try:
        if not unreadable:
            read_grades(grades)
    except TaskError as error:
        yield f"evaluate.judge.grades: {error.message}; {error.hint}"


def benchmark_problems(
    benchmark: Benchmark, shots: int, path: Path, options: BenchmarkOptions
) -> Iterator[str]:
    """Yield a sentence for a benchmark that cannot be read, has fewer worked examples than
    ``shots``, or no options that ``permute`` could put into another order.
    """
    from jobs.evaluation import harness
    from jobs.questions import readers
    from jobs.questions.question import require_examples, require_permutable

    key = f"evaluate.benchmarks ({benchmark.name})"
    unreadable = list(path_problems(key, path))
    missing = [one for one in (path, Path(options.train)) if not one.exists()]
    if unreadable or missing:
        yield from unreadable
        return
    try:
        questions = readers.read(path, benchmark.kind, options)
        require_examples(path, questions, shots, benchmark.demonstrations == "per-subject")
        if benchmark.permute:
            require_permutable(path, questions)
        if "harness" in benchmark.modes:
            harness.require_tasks(benchmark.kind, questions)
    except TaskError as error:
        yield f"{key}: {error.message}; {error.hint}"


def training_problems(key: str, kind: str, first_answer: int, path: Path) -> Iterator[str]:
    """Yield a sentence for a file of training questions whose first records cannot be read."""
    from jobs.contract.corpus.benchmark_files import BenchmarkOptions
    from jobs.questions import exchanges, readers

    unreadable = list(path_problems(key, path))
    if unreadable or not path.exists():
        yield from unreadable
        return
    options = BenchmarkOptions(first_answer=first_answer)
    try:
        if kind == exchanges.KIND:
            records: Iterator[object] = exchanges.read_exchanges(path)
        else:
            records = readers.read_train(path, kind, options)
        deque(islice(records, READ_RECORDS), maxlen=0)
    except TaskError as error:
        yield f"{key}: {error.message}; {error.hint}"


def compared_problems(file: TrainFile, path: Path) -> Iterator[str]:
    """Yield a sentence for a file of test questions to compare with that cannot be read."""
    from jobs.contract.corpus.benchmark_files import BenchmarkOptions
    from jobs.questions import exchanges, readers

    key = "finetune.decontaminate.against"
    unreadable = list(path_problems(key, path))
    if unreadable or not path.exists():
        yield from unreadable
        return
    try:
        if file.kind == exchanges.KIND:
            deque(exchanges.read_exchanges(path), maxlen=0)
        else:
            options = BenchmarkOptions(first_answer=file.first_answer)
            readers.read(path, file.kind or "mcq", options)
    except TaskError as error:
        yield f"{key}: {error.message}; {error.hint}"


def instruction_problems(finetune: Finetune) -> Iterator[str]:
    """Yield a sentence for instructions that cannot be read."""
    from jobs.prompts import instructions

    if finetune.models and finetune.instructions and finetune.instructions.exists():
        try:
            instructions.load(finetune.instructions)
        except TaskError as error:
            yield f"finetune.instructions: {error.message}; {error.hint}"


def template_problems(experiment: Experiment) -> Iterator[str]:
    """Yield a sentence for instructions that cannot be read, and for each token of the template
    that neither the tokenizer has nor ``finetune.added_tokens`` lists.
    """
    from jobs.prompts.encoding import CONTROL_TOKENS

    finetune = experiment.finetune
    yield from instruction_problems(finetune)
    known = {*finetune.added_tokens, *experiment.vocabulary.added_tokens}
    if path := experiment.tokenize.tokenizer:
        with suppress(ValueError, OSError):  # the sentence about the tokenizer names it
            known |= tokenizer_file.read_tokens(path).ids.keys()
    for token in CONTROL_TOKENS:
        if token not in known:
            yield (
                f"finetune.added_tokens: the tokenizer has no {token}, a token of the template; "
                "list it"
            )


def weights_problems(loaded: Loaded) -> Iterator[str]:
    """Yield a sentence for a folder of base weights that cannot become the run's step 0, by its
    ``config.json`` and the headers of its files.
    """
    from jobs.conversion import base_model
    from meditron_cli.config import weights
    from meditron_cli.plan import spec_parts

    experiment = loaded.experiment
    folder = weights.find(experiment.model.weights, loaded.cluster.models_dir).folder
    if folder is None:
        return
    vocabulary, model = spec_parts.vocabulary_spec(experiment), spec_parts.models_of(experiment)[-1]
    finetuned = experiment.finetune.sequence_length if experiment.finetune.models else None
    read = max(model.seq_length, finetuned or 0, experiment.evaluate.seq_length or 0)
    try:
        base_model.require_importable(folder, replace(model, seq_length=read), vocabulary)
    except TaskError as error:
        yield f"model.weights: {error.message}; {error.hint}"


def path_problems(key: str, path: Path) -> Iterator[str]:
    """Yield a sentence for a file or folder that is unreadable, empty or of the wrong kind."""
    if not path.exists():
        return
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        yield f"{key}: {path} cannot be read"
    elif path.is_dir() and not any(path.iterdir()):
        yield f"{key}: the folder {path} is empty"
    elif not path.is_dir() and not path.is_file():
        yield f"{key}: {path} is neither a regular file nor a folder"
    elif path.is_file() and path.stat().st_size == 0:
        yield f"{key}: {path} is empty"


def tokenizer_problems(loaded: Loaded, path: Path) -> Iterator[str]:
    """Yield a sentence for a tokenizer that is not a tokenizer.json, too large for the model, or
    not that of the vocabulary registry or of the base model.
    """
    from meditron_cli.plan.spec_parts import vocabulary_spec

    experiment = loaded.experiment
    unreadable = list(path_problems("tokenize.tokenizer", path))
    if unreadable or not path.exists():
        yield from unreadable
        return
    try:
        table = tokenizer_file.read_tokens(path)
    except ValueError as error:
        yield f"tokenize.tokenizer: {path} is not a tokenizer.json ({error})"
        return
    rows = experiment.model.vocab_size
    if table.size > rows:
        yield (
            f"tokenize.tokenizer: {path} has {table.size} tokens, the model only {rows}; "
            f"set model.vocab_size to {table.size} or more"
        )
    mismatches = list(tokenizer_file.mismatches(table, vocabulary_spec(experiment)))
    for mismatch in mismatches:
        yield f"{mismatch.key}: {path}: {mismatch.problem}; {mismatch.hint}"
    if not mismatches and table.size <= rows:
        yield from base_problems(loaded, path, table)


def base_problems(loaded: Loaded, path: Path, table: tokenizer_file.TokenTable) -> Iterator[str]:
    """Yield a sentence for a tokenizer whose ids are not those that the base model was trained on,
    as far as its folder is on this machine and has a tokenizer.
    """
    from jobs.data import base_tokenizer
    from meditron_cli.config import weights
    from meditron_cli.plan.spec_parts import vocabulary_spec

    folder = weights.find(loaded.experiment.model.weights, loaded.cluster.models_dir).folder
    if folder is None:
        return
    try:
        base = base_tokenizer.base_tokens(folder)
    except (ValueError, OSError) as error:
        yield f"model.weights: the tokenizer in {folder} cannot be read ({error})"
        return
    vocabulary = vocabulary_spec(loaded.experiment)
    difference = base and base_tokenizer.base_difference(table, base, vocabulary)
    if difference:
        words = ["meditron", "tokenizer", "build", "--size", loaded.size, str(folder)]
        words += ["--config", str(loaded.config_file)] if loaded.config_file else []
        command = shlex.join([*words, "--output", "base.json"])
        yield (
            f"tokenize.tokenizer: {path} is not that of the base model in {folder}: {difference}; "
            f"`{command}` makes one that is"
        )
