"""``meditron verify``: prove that weights and a checkpoint compute the same."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.contract.stage_specs import TOLERANCE
from jobs.runtime.termination import exit_on_signals
from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.errors import ConfigError, MeditronError
from meditron_cli.services import Services

if TYPE_CHECKING:
    from jobs.contract.rundir import RunDir
    from jobs.contract.stage_specs import ModelSpec, TokenizerRef
    from jobs.verification.verify import Request

INSTALL = "pip install 'meditron[train,weights]'"
HINT_WEIGHTS = (
    "name a folder with config.json and safetensors, or ORG/NAME on the hub; "
    "`meditron verify --help` explains both"
)


@click.command(short_help="Prove that weights and a checkpoint compute the same.")
@click.argument("weights")
@click.argument("checkpoint")
@click.option(
    "text_files",
    "--text",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    metavar="FILE",
    help="Compare this text too; may be repeated.",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    metavar="N",
    help="Compare the first N tokens of each text; default: 128.",
)
@click.option(
    "precision",
    "--dtype",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Compute in this type; bf16 needs --tolerance.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    metavar="X",
    help=f"Accepted difference of a logit, as a share of the largest; default: {TOLERANCE:g}.",
)
@options.runs_dir_option
@options.json_option
@click.pass_obj
def command(
    services: Services,
    weights: str,
    checkpoint: str,
    text_files: tuple[Path, ...],
    tokens: int | None,
    precision: str,
    tolerance: float | None,
    runs_dir: Path | None,
    as_json: bool,
) -> None:
    """Compare the logits of WEIGHTS and CHECKPOINT on fixed texts, and what both generate.

    WEIGHTS is a folder with config.json and safetensors, or a name on the hub, found where
    model.weights would be. CHECKPOINT is RUN, RUN:first, RUN:STEP, or the folder of a checkpoint in
    a run; RUN alone is its newest. Both are computed on this machine's CPU, one layer in memory at
    a time: WEIGHTS in plain torch, CHECKPOINT by the layers that training uses. Greedy
    continuations of three prompts follow where the model fits into memory.

    Exit code 1 when a logit differs by more than the tolerance, when a tensor has other values,
    when the rows of added tokens of step 0 are not those of `vocabulary.new_rows`, or when an
    export names other ids of tokens than the run's.
    """
    from jobs.contract.errors import TaskError
    from jobs.contract.files import read_small
    from jobs.contract.stage_specs import FINETUNE
    from jobs.conversion import export_folder

    run, folder = find_checkpoint(services, runs_dir, checkpoint)
    if precision == "bf16" and tolerance is None:
        raise ConfigError("--dtype bf16 has no tolerance of its own", "add `--tolerance 0.1`")
    model, tokenizer = model_of(run, folder)
    try:
        from jobs.verification.verify import TOKENS, Request

        place = find_weights(run, weights, services.environ)
        request = Request(
            weights=place,
            checkpoint=folder,
            model=model,
            tokenizer=tokenizer,
            base=base_of(folder),
            exported=read_small(place / export_folder.RECORD).get("run") == run.name,
            finetuned=folder.resolve().parents[2].name == FINETUNE,
            texts={str(path): read_text(path) for path in text_files},
            tokens=min(tokens or TOKENS, model.seq_length),
            precision=precision,
            tolerance=TOLERANCE if tolerance is None else tolerance,
        )
        result = compare(request)
    except TaskError as error:
        raise ConfigError(error.message, run.hint(error.hint)) from error
    except ModuleNotFoundError as error:
        raise ConfigError(f"the library {error.name} is not installed", f"`{INSTALL}`") from error
    show(result, as_json)
    if result["problems"]:
        raise MeditronError(
            f"{request.weights} and {folder}: {'; '.join(result['problems'])}",
            "a trained checkpoint differs from its base model: compare it with its own export",
        )


def find_checkpoint(services: Services, runs_dir: Path | None, named: str) -> tuple[RunDir, Path]:
    """Return the run and the folder of a checkpoint.

    Raises:
        ConfigError: there is no such run or checkpoint.
    """
    from jobs.checkpoints import manifest
    from jobs.contract.rundir import RunDir
    from jobs.contract.stage_specs import FINETUNE
    from meditron_cli.runs import store

    path = Path(named)
    if path.is_dir() and manifest.step_of(path) >= 0:
        parents = path.resolve().parents
        run = RunDir(parents[3] if parents[2].name == FINETUNE else parents[1])
        if not run.record.exists():
            raise ConfigError(
                f"{path} lies in no run, so its model and tokenizer are not known",
                "name a checkpoint in the folder `checkpoints` of a run",
            )
        return store.require_format(run), path.resolve()
    name, _, step = named.partition(":")
    run = options.find_run(services, runs_dir, name)
    return run, stored(run, step or "last")


def stored(run: RunDir, step: str) -> Path:
    """Return the folder of a run's checkpoint, named ``first``, ``last`` or by its step.

    Raises:
        ConfigError: the run has none of this name.
    """
    from jobs.checkpoints import manifest

    folder = run.path("checkpoints")
    if step == "last":
        newest = manifest.find_latest(folder)
        found = newest[0] if newest else None
    elif step == "first" or step.isdecimal():
        found = folder / manifest.name(0 if step == "first" else int(step))
    else:
        raise ConfigError(f"{step!r} is no checkpoint: first, last or a number", "")
    if found is None or not found.is_dir():
        raise ConfigError(
            f"run {run.name} has no checkpoint {step!r}",
            run.hint("{meditron checkpoints} lists them"),
        )
    return found


def model_of(run: RunDir, folder: Path) -> tuple[ModelSpec, TokenizerRef]:
    """Return the model and the tokenizer of a run's tasks, of a checkpoint of a finetuned model
    those of its finetuning.

    Raises:
        ConfigError: none of its stages has a model.
    """
    from jobs.contract import specs
    from jobs.contract.files import read_json
    from jobs.contract.stage_specs import STAGES
    from meditron_cli.inputs.finetuned import finetunings
    from meditron_cli.runs import store

    for _, finetuning in finetunings(run):
        if run.path(finetuning.checkpoint_dir).resolve() == folder.resolve().parent:
            return finetuning.model, finetuning.tokenizer
    for stage in STAGES:
        path = run.spec(stage, 0)
        if path.exists():
            spec: Any = specs.task_from_json(read_json(path)).spec
            if hasattr(spec, "model") and hasattr(spec, "tokenizer"):
                return spec.model, spec.tokenizer
    raise ConfigError(
        f"run {run.name} has no stage with a model",
        f"`{store.command(run, 'status')}` shows its stages",
    )


def find_weights(run: RunDir, named: str, environ: Any) -> Path:
    """Return the folder of WEIGHTS: a path, else a name on the hub.

    Raises:
        ConfigError: there is none.
    """
    from jobs.contract.files import read_json
    from meditron_cli.config import weights

    path = Path(named).expanduser()
    if path.is_dir():
        return path.absolute()
    if path.exists() or named.startswith(("/", "~", ".")) or named.count("/") != 1:
        raise ConfigError(f"WEIGHTS: {path.absolute()} is no folder", HINT_WEIGHTS)
    models_dir = read_json(run.record)["cluster"].get("models_dir")
    place = weights.find(named, Path(models_dir) if models_dir else None, environ)
    if place.folder is None:
        command = weights.download_command(weights.HubName.parse(named), None)
        raise ConfigError(place.problem, f"name a folder, or download it: `{command}`")
    return place.folder


def base_of(checkpoint: Path) -> Path | None:
    """Return the folder of step 0 beside a checkpoint, if it is there."""
    from jobs.checkpoints import manifest

    first = checkpoint.with_name(manifest.name(0))
    return first if first != checkpoint and not manifest.problem(first) else None


def read_text(path: Path) -> str:
    """Read a text.

    Raises:
        ConfigError: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text in UTF-8", "convert it with `iconv`") from error


def compare(request: Request) -> dict[str, Any]:
    """Verify under a lease of the checkpoint, with progress on stderr."""
    from jobs.checkpoints import leases
    from jobs.verification.verify import verify

    reader = leases.Holder("meditron verify", 0, 0, "", os.uname().nodename, os.getpid())
    folder = request.checkpoint.parent
    with exit_on_signals(), ExitStack() as held:
        with suppress(OSError):  # a reader may have no right to write there
            held.enter_context(leases.leased(folder, request.checkpoint.name, reader))
        report = held.enter_context(progress())
        return verify(request, report).to_json()


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show which side is being computed: bars on a terminal, else a line per side."""
    if not console.fancy(sys.stderr):
        yield (lambda side, done, total: console.note(f"{total} {side}") if done == total else None)
        return
    with console.progress() as bars:
        tasks: dict[str, Any] = {}

        def report(side: str, done: int, total: int) -> None:
            if side not in tasks:
                tasks[side] = bars.add_task(side, total=total, detail="")
            bars.update(tasks[side], completed=done, detail=f"{done} of {total}")

        yield report


def show(result: dict[str, Any], as_json: bool) -> None:
    """Print a verification."""
    from jobs.verification.result import outcome, rate_rows, rows

    if as_json:
        console.json_out(result)
        return
    console.data(f"{result['weights']}\n{result['checkpoint']}\n{outcome(result)}\n")
    console.table(("what", "value"), list(rows(result)))
    if result["generation"]:
        columns, lines = rate_rows(result["generation"])
        console.data("")
        console.table(columns, lines)
