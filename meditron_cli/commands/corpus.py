"""``meditron corpus``: show kept and dropped documents of a run's corpus, and remove documents."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.contract.corpus.folder import CORPUS, REJECTED
from jobs.contract.errors import TaskError
from jobs.contract.units import plural, ranges_text
from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.errors import ConfigError
from meditron_cli.runs import store
from meditron_cli.services import Services

if TYPE_CHECKING:
    from jobs.contract.rundir import RunDir
    from jobs.corpus.takedown import Match

TEXT_CHARACTERS = 300
"""Of a document, where it is not printed with --json."""
KEPT = "kept"
ALL_ASIDE = ("bad", "duplicate_id")
"""Reasons for which every document is in the file of rejected ones."""
Row = dict[str, Any]


@click.group(
    "corpus",
    short_help="Show documents of a corpus, or remove some.",
    invoke_without_command=True,
)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Show documents of the corpus of a run, or remove some."""
    if ctx.invoked_subcommand is None:
        console.data(ctx.get_help())


@command.command("sample", short_help="Show kept and dropped documents.")
@options.run_argument
@click.option("--source", metavar="NAME", default="", help="Only of this source.")
@click.option("--dropped", metavar="REASON", default="", help="Only those dropped for this reason.")
@click.option("--kept", "only_kept", is_flag=True, help="Only those that were kept.")
@click.option(
    "-n", "count", type=click.IntRange(min=1), default=10, show_default=True,
    help="Kept documents at most, and dropped ones of each source and reason.",
)  # fmt: skip
@options.runs_dir_option
@options.json_option
@click.pass_obj
def sample(
    services: Services,
    name: str,
    source: str,
    dropped: str,
    only_kept: bool,
    count: int,
    runs_dir: Path | None,
    as_json: bool,
) -> None:
    """Show kept and dropped documents of RUN's corpus, with what the filter matched.

    The corpus holds the first 100 dropped documents of each source and reason; bad records and
    those of an id that another one has are in its file rejected.jsonl. Texts are shortened here;
    --json has them as they are kept.
    """
    from jobs.corpus import takedown
    from meditron_cli.reporting import corpus_sample, funnel

    if dropped and only_kept:
        raise click.UsageError("give --dropped or --kept, not both")
    run = options.find_run(services, runs_dir, name)
    try:
        shards = [run.path(shard["path"]) for shard in takedown.read_manifest(run)["shards"]]
    except TaskError as error:
        raise ConfigError(error.message, run.hint(error.hint)) from error
    require_known(run, funnel.of_run(run), source, dropped)
    found: list[dict[str, Any]] = []
    if not dropped:
        kept = corpus_sample.kept(shards, source, count)
        found += [{"reason": KEPT, "matched": "", **document} for document in kept]
    if not only_kept:
        found += corpus_sample.dropped(run.path(CORPUS), source, dropped, count)
    if as_json:
        console.json_out({"run": run.name, "documents": found})
        return
    for document in found:
        console.data(shown(document))
    if not found:
        console.note(absent(run, dropped))


def absent(run: RunDir, reason: str) -> str:
    """Return where the documents of a reason are that the corpus does not show."""
    if reason in ALL_ASIDE:
        return f"{run.path(CORPUS) / REJECTED} has them"
    of = f"documents that were dropped as {reason!r}" if reason else "such documents"
    return f"the corpus has no {of}"


def require_known(
    run: RunDir, sources: Sequence[Mapping[str, Any]], source: str, reason: str
) -> None:
    """Refuse a source or a reason that the corpus does not have.

    Raises:
        ConfigError: naming those it has.
    """
    hint = f"`{store.command(run, 'report')}` shows what became of each source"
    names = [item["name"] for item in sources]
    if source and source not in names:
        raise ConfigError(f"no source is called {source!r}; there are {', '.join(names)}", hint)
    reasons = {name for item in sources if source in ("", item["name"]) for name in item["dropped"]}
    if reason and reason not in reasons:
        known = ", ".join(sorted(reasons)) or "none"
        raise ConfigError(f"nothing was dropped as {reason!r}; reasons were: {known}", hint)


def shown(document: Mapping[str, Any]) -> str:
    """Return a document for people: source, id and outcome, what was matched, and its text."""
    matched = f": {document['matched']}" if document.get("matched") else ""
    head = f"{document.get('source', '-')} {document.get('id', '-')} {document['reason']}{matched}"
    text = " ".join(str(document.get("text", "")).split())
    more = "…" if len(text) > TEXT_CHARACTERS else ""
    return f"{head}\n    {text[:TEXT_CHARACTERS]}{more}\n"


@command.command("remove", short_help="Remove documents for good.")
@click.argument("name", metavar="RUN", shell_complete=options.complete_run)
@click.argument("ids", metavar="ID…", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Remove without asking.")
@options.runs_dir_option
@options.json_option
@click.pass_obj
def remove(
    services: Services,
    name: str,
    ids: tuple[str, ...],
    yes: bool,
    runs_dir: Path | None,
    as_json: bool,
) -> None:
    """Remove the documents with these IDs from RUN's corpus, after asking: for takedown requests.

    An ID is that of a document, or a name of its work such as pmid:123, pmcid:PMC12 or doi:10.1/x.

    Lists the runs whose training used them, and the steps. The shards are written again without
    them, and the manifest names them as removed. Tokens and checkpoints that were made of them
    stay as they are, and so do the sources.
    """
    from jobs.corpus import takedown
    from meditron_cli.commands.rm import confirm
    from meditron_cli.runs.owner import require_owner
    from meditron_cli.runs.record import RecordReader
    from meditron_cli.runs.remove import require_no_jobs
    from meditron_cli.runs.run_lock import exclusive

    root = store.runs_root(runs_dir, services.environ, None)
    run = store.find(root, name, destructive=True)
    require_owner(run, "change")
    again = shlex.join(["meditron", "corpus", "remove", run.name, *ids])
    reader = RecordReader(run)
    with exclusive(run, "corpus remove"):
        require_no_jobs(services, reader, again)
        try:
            documents = found(run, ids)
            uses, unknown = uses_of(run, documents)
            if not as_json:
                show(documents, uses, unknown)
            if not yes:
                copies = sum(match.documents for match in documents)
                confirm(f"remove {plural(copies, 'document')} from {run.root}?", f"{again} --yes")
            takedown.remove(run, documents)
        except TaskError as error:
            raise ConfigError(error.message, run.hint(error.hint)) from error
    if as_json:
        rows = [vars(match) for match in documents]
        console.json_out({"run": run.name, "removed": rows, "uses": uses, "unknown": unknown})
        return
    console.data(f"run {run.name}: {plural(len(documents), 'document')} removed from the corpus")
    console.note(
        "the sources still hold them, and so do tokens and checkpoints that were made of them"
    )
    if run.path("tokens").exists() and not run.path("checkpoints").exists():
        again = store.command(run, "submit", "tokenize", "--run")
        console.note(f"`{again}` makes the tokens without them")


def found(run: RunDir, ids: Sequence[str]) -> list[Match]:
    """Return the documents with these ids, and those of a takedown that was killed.

    Raises:
        ConfigError: the corpus has none of an id.
        TaskError: the run has no finished corpus.
    """
    from jobs.corpus import takedown

    begun = takedown.unfinished(run)
    documents = [*begun, *(match for match in takedown.find(run, ids) if match not in begun)]
    if absent := [name for name in ids if not any(match.is_called(name) for match in documents)]:
        raise ConfigError(
            f"the corpus of run {run.name} has no document {', '.join(map(repr, absent))}",
            hint=f"`{store.command(run, 'corpus', 'sample', '--kept')}` prints ids",
        )
    return documents


def uses_of(run: RunDir, documents: Sequence[Match]) -> tuple[list[Row], list[Row]]:
    """Return the uses of documents by the trainings of all runs of the runs directory, and the runs
    of which they are not known.
    """
    uses: list[Row] = []
    unknown: list[Row] = []
    for other in store.runs(run.root.parent):
        try:
            uses += uses_by(other, run, documents)
        except (TaskError, OSError) as error:
            unknown.append({"run": other.name, "reason": getattr(error, "message", str(error))})
        except ModuleNotFoundError as error:
            unknown.append({"run": other.name, "reason": f"{error.name} is not installed"})
    return uses, unknown


def uses_by(other: RunDir, run: RunDir, documents: Sequence[Match]) -> Iterator[Row]:
    """Yield the uses of documents of a run's corpus by the training of one run.

    Raises:
        TaskError: it has used the corpus, and its tokens or indexes cannot be read.
    """
    from jobs.contract.metrics_log import StepLine
    from meditron_cli.commands.samples import training_of

    try:
        spec, trained = training_of(other)
    except ConfigError:  # no training, no step yet, or no readable run
        return
    named = (other.path(path) for corpus in spec.corpora for path in corpus.data)
    if not any(path.resolve().is_relative_to(run.root.resolve()) for path in named):
        return
    from jobs.data.sample_trace import Trace

    trace = Trace(other, spec)
    steps_trained = {step for step, line in trained.items() if isinstance(line, StepLine)}
    for name in dict.fromkeys(match.id for match in documents):
        for document in trace.find(name):
            used = {use.step for use in trace.uses(document, max(trained))} & steps_trained
            yield {
                "run": other.name,
                "id": name,
                "document": document.name,
                "steps": sorted(used),
            }


def show(documents: Sequence[Match], uses: Sequence[Row], unknown: Sequence[Row]) -> None:
    """Print the documents, and what used them."""
    console.table(
        ("id", "source", "work", "title", "shard", "copies"),
        [
            (item.id, item.source, item.work_id, item.title, item.shard, item.documents)
            for item in documents
        ],
    )
    if uses:
        console.data("")
        console.table(
            ("used by run", "document", "id", "steps"),
            [
                (use["run"], use["document"], use["id"], ranges_text(use["steps"]) or "none yet")
                for use in uses
            ],
        )
    for item in unknown:
        console.warning(f"what run {item['run']} used is not known: {item['reason']}")
