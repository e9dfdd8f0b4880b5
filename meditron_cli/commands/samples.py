"""``meditron samples``: the documents of a training step, and the steps that used a document."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.contract import specs
from jobs.contract.errors import TaskError
from jobs.contract.metrics_log import MetricsLog, SkipLine, SpikeLine, StepLine
from jobs.contract.stage_specs import PRETRAIN
from jobs.contract.units import plural
from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.errors import ConfigError, RunFailed
from meditron_cli.runs import record, store
from meditron_cli.services import Services

if TYPE_CHECKING:
    from jobs.contract.rundir import RunDir
    from jobs.contract.stage_specs import PretrainSpec
    from jobs.data.sample_trace import DocumentRef, Part, Trace, TracedSequence

INSTALL = "pip install 'meditron[data]'"
RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
TEXT_WIDTH = 100
"""Characters of a text that are printed where stdout is no terminal."""
SHORTEST = 24


def parse_numbers(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> range | None:
    """Return the sequences that ``3`` or ``3-7`` names, both ends included."""
    if value is None:
        return None
    match = RANGE.fullmatch(value)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if first > last:
        raise click.BadParameter(f"{value!r} is neither a number from 0 nor a range such as 3-7")
    return range(first, last + 1)


Done = StepLine | SkipLine | SpikeLine


@click.command(short_help="Show the documents of a training step.")
@options.run_argument
@click.option("--step", type=click.IntRange(min=1), help="A step of the training, from 1.")
@click.option(
    "numbers",
    "--sequence",
    metavar="K[-L]",
    callback=parse_numbers,
    help="Only these sequences of the step, numbered from 0.",
)
@click.option(
    "--document",
    metavar="ID",
    help="Show the steps that used a document: its id, or DATASET:NUMBER as --step prints it.",
)
@options.runs_dir_option
@options.json_option
@click.pass_obj
def command(
    services: Services,
    name: str,
    step: int | None,
    numbers: range | None,
    document: str | None,
    runs_dir: Path | None,
    as_json: bool,
) -> None:
    """Show the documents that a step of RUN was trained on, or the steps that used a document.

    A row per stretch of a document in a sequence: corpus, id, name of the document, the stretch's
    first token in the document, tokens, and text, shortened here and whole with --json. The
    sequences are computed from the run's seed and indexes, without a GPU; those of a whole step are
    compared with the fingerprint that training recorded, and exit code 4 means that they differ.
    Where corpus or tokens are gone, ids or texts are missing, and stderr names the files.
    """
    if (step is None) == (document is None):
        raise click.UsageError("name either a step with --step or a document with --document")
    if numbers is not None and step is None:
        raise click.UsageError("--sequence goes with --step")
    run = options.find_run(services, runs_dir, name)
    try:
        spec, trained = training_of(run)
        from jobs.data.sample_trace import Trace

        trace = Trace(run, spec)
        if step is not None:
            show_step(trace, step, numbers, trained, as_json)
        elif document is not None:
            show_document(trace, document, trained, as_json)
    except TaskError as error:
        raise ConfigError(error.message, run.hint(error.hint)) from error
    except ModuleNotFoundError as error:
        raise ConfigError(f"the library {error.name} is not installed", f"`{INSTALL}`") from error


def training_of(run: RunDir) -> tuple[PretrainSpec, dict[int, Done]]:
    """Return the settings of a run's pretraining and its steps so far, the last line of each:
    trained, skipped, or a spike that ended the training.

    Raises:
        ConfigError: the run has no pretraining, or has trained no step.
        TaskError: the settings cannot be read.
    """
    is_planned = PRETRAIN in record.read(run).require_readable().stages
    spec = specs.load_task(run, PRETRAIN, 0).pretraining if is_planned else None
    if spec is None:
        hint = f"`{store.command(run, 'status')}` shows its stages"
        raise ConfigError(f"run {run.name} has no pretraining", hint)
    lines = MetricsLog(run, PRETRAIN).read_new()
    steps = {line.step: line for line in lines if isinstance(line, Done)}
    if not steps:
        hint = f"`{store.command(run, 'status')}` shows how far it is"
        raise ConfigError(f"run {run.name} has trained no step yet", hint)
    return spec, steps


def show_step(
    trace: Trace,
    step: int,
    numbers: range | None,
    trained: Mapping[int, Done],
    as_json: bool,
) -> None:
    """Print the sequences of a step.

    Raises:
        ConfigError: the training has not come so far, or its batch has no such sequence.
        RunFailed: the sequences are not those that training recorded.
    """
    run, size, last = trace.run, trace.spec.global_batch_size, max(trained)
    if step > last:
        hint = f"`{store.command(run, 'samples', '--step', str(last))}` shows that step"
        raise ConfigError(f"the last step that run {run.name} has trained is {last}", hint)
    if numbers is not None and numbers.stop > size:
        raise ConfigError(
            f"--sequence: a step has {plural(size, 'sequence')}, numbered from 0 to {size - 1}",
            f"`{store.command(run, 'samples', '--step', str(step))}` shows all of them",
        )
    found = trace.sequences(step, numbers or range(size))
    done = trained.get(step)
    recorded = done.samples if isinstance(done, StepLine | SpikeLine) and numbers is None else None
    skipped = done.reason if isinstance(done, SkipLine) else None
    computed = trace.fingerprint(step) if recorded else None
    verified = None if computed is None else computed == recorded
    if as_json:
        console.json_out(
            {
                "run": run.name,
                "step": step,
                "verified": verified,
                "skipped": skipped,
                "sequences": [sequence_json(sequence) for sequence in found],
                "missing": list(trace.missing),
            }
        )
    else:
        print_step(found)
        if verified:
            console.note(f"the sequences are those that step {step} was trained on: {recorded}")
        if skipped:
            console.note(f"step {step} was skipped and trained on none of them: {skipped}")
    note_missing(trace, as_json)
    if verified is False:
        raise RunFailed(
            f"step {step} of run {run.name} was trained on other sequences: its fingerprint is "
            f"{recorded}, computed from the tokens {computed}",
            "the tokens have changed since; put back those it was trained on",
        )


def sequence_json(sequence: TracedSequence) -> dict[str, Any]:
    """Return a sequence as ``samples --json`` prints it."""
    return {"sequence": sequence.number, "parts": [part_json(part) for part in sequence.parts]}


def part_json(part: Part) -> dict[str, Any]:
    """Return a stretch of a document as ``samples --json`` prints it."""
    fields = {"offset": part.offset, "tokens": part.tokens, "text": part.text}
    return document_json(part.document) | fields


def document_json(document: DocumentRef) -> dict[str, Any]:
    """Return a document as ``samples --json`` prints it."""
    return {
        "corpus": document.corpus,
        "shard": document.shard,
        "byte": document.byte,
        "id": document.id,
        "document": document.name,
    }


def print_step(found: Sequence[TracedSequence]) -> None:
    """Print a row per stretch of a document."""
    columns = ("sequence", "corpus", "id", "document", "offset", "tokens", "text")
    rows = [(sequence.number, part) for sequence in found for part in sequence.parts]
    cells = [
        (number, part.document.corpus, part.document.id, part.document.name, part.offset)
        for number, part in rows
    ]
    width = text_width(columns, cells)
    console.table(
        columns,
        [
            (*cell, part.tokens, shortened(part.text, width))
            for cell, (_, part) in zip(cells, rows, strict=True)
        ],
    )


def text_width(columns: Sequence[str], cells: Sequence[Sequence[object]]) -> int:
    """Return the characters that are left for texts beside the other columns of a terminal."""
    import sys

    if not console.fancy(sys.stdout):
        return TEXT_WIDTH
    taken = sum(
        max(len(str(row[number])) for row in (columns, *cells)) + len(console.GAP)
        for number in range(len(columns) - 2)
    )
    room = shutil.get_terminal_size().columns - taken - len("tokens") - len(console.GAP)
    return max(SHORTEST, room)


def shortened(text: str | None, width: int) -> str | None:
    """Return a text on one line, cut to a width in characters."""
    if text is None:
        return None
    line = " ".join(text[: 4 * width].split())
    cut = len(line) > width or len(text) > 4 * width
    return f"{line[: width - 1]}…" if cut else line


def show_document(trace: Trace, name: str, trained: Mapping[int, Done], as_json: bool) -> None:
    """Print the uses of a document by the steps so far.

    Raises:
        ConfigError: the training has no such document.
    """
    run, last = trace.run, max(trained)
    documents = trace.find(name)
    if not documents:
        raise ConfigError(
            "; ".join([absence(trace, name), *trace.missing]),
            f"`{store.command(run, 'samples', '--step', str(last))}` prints names of documents",
        )
    skipped = {step for step, line in trained.items() if isinstance(line, SkipLine | SpikeLine)}
    uses = {
        document: [use for use in trace.uses(document, last) if use.step not in skipped]
        for document in documents
    }
    if as_json:
        found = [
            {**document_json(document), "uses": [vars(use) for use in used]}
            for document, used in uses.items()
        ]
        missing = list(trace.missing)
        console.json_out({"run": run.name, "steps": last, "documents": found, "missing": missing})
    else:
        columns = ("document", "id", "step", "sequence", "offset", "tokens")
        rows = [
            (document.name, document.id, use.step, use.sequence, use.offset, use.tokens)
            for document, used in uses.items()
            for use in used
        ]
        if rows:
            console.table(columns, rows)
        for document in unused(uses):
            console.note(f"no step up to {last} used {document.name}")
    note_missing(trace, as_json)


def absence(trace: Trace, name: str) -> str:
    """Return why the training has no document of a name."""
    if trace.is_held_out(name):
        return f"document {name!r} is in the validation split, which no step trains on"
    return f"run {trace.run.name} trains on no document {name!r}"


def unused(uses: Mapping[DocumentRef, Sequence[Any]]) -> Iterator[DocumentRef]:
    """Yield the documents without a use."""
    return (document for document, used in uses.items() if not used)


def note_missing(trace: Trace, as_json: bool) -> None:
    """Print on stderr which files are missing; ``--json`` has them too."""
    if not as_json:
        for sentence in trace.missing:
            console.warning(sentence)
