"""``meditron fetch``: download what an experiment names on the Hugging Face hub."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.contract.base_folder import commit_of
from meditron_cli import console
from meditron_cli.commands.options import json_option, load_target, target_options
from meditron_cli.errors import ConfigError
from meditron_cli.hub.download import Progress, Wanted, download, listing_of, present_bytes
from meditron_cli.runs.views import bytes_text
from meditron_cli.services import Services

if TYPE_CHECKING:
    from meditron_cli.config.cluster_schema import Cluster
    from meditron_cli.hub.repository import Hub, HubFile, Listing
    from meditron_cli.hub.wanted import Named


@click.command("fetch", short_help="Download the base model and data of an experiment.")
@target_options
@click.option("--dry-run", is_flag=True, help="Show what would be downloaded; write nothing.")
@json_option
@click.pass_obj
def command(
    services: Services,
    cluster: str,
    size: str,
    config: Path | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Download what the experiment names on the Hugging Face hub and this machine lacks.

    The base model with its tokenizer goes to the profile's models_dir, documents and benchmarks to
    its data_dir. Each file is compared with the digest that the hub states. A download that was
    interrupted continues where it stopped. Gated models need HF_TOKEN in the profile's
    secrets_file.
    """
    from meditron_cli.hub.wanted import named

    loaded = load_target(cluster, size, config, overrides)
    items = list(named(loaded.experiment, loaded.cluster, services.environ))
    hub = None
    rows = []
    for item in items:
        if isinstance(item.place, Path):
            rows.append(row(item, item.place, "present", None, 0))
            continue
        hub = hub or connect(loaded.cluster, services)
        rows.append(fetched(item, item.place, hub, dry_run))
    if as_json:
        console.json_out({"items": rows})
        return
    if not rows:
        console.note("the experiment names nothing on the hub: nothing to download")
        return
    console.table(
        ("what", "state", "commit", "files", "size", "folder"),
        [
            (
                item["name"],
                item["state"],
                item["commit"] and item["commit"][:12],
                item["files"],
                item["bytes"] and bytes_text(item["bytes"]),
                item["path"],
            )
            for item in rows
        ],
    )


def connect(cluster: Cluster, services: Services) -> Hub:
    """Return the hub, with the token of the profile's secrets file.

    Raises:
        ConfigError: the library is not installed, or the file cannot be read.
    """
    from jobs.contract.errors import TaskError
    from jobs.runtime import secrets_file
    from meditron_cli.hub.repository import TOKEN, Hub

    path = cluster.environment.secrets_file
    try:
        token = secrets_file.read(str(path or "")).get(TOKEN, "")
    except TaskError as error:
        raise ConfigError(error.message, hint=error.hint) from error
    place = str(path) if path else "a file that environment.secrets_file of the profile names"
    return Hub(services.environ.get("HF_ENDPOINT", ""), token, place)


def fetched(item: Named, wanted: Wanted, hub: Hub, dry_run: bool) -> dict[str, Any]:
    """Download something, or only look at it; return its row."""
    if dry_run:
        listing = listing_of(wanted, hub)
        present = present_bytes(wanted, listing)
        return row(item, wanted.destination, "missing", listing, total(listing) - present)
    with shown(wanted.title) as progress:
        listing = download(wanted, hub, progress)
    return row(item, wanted.destination, "downloaded", listing, progress.total)


def total(listing: Listing) -> int:
    return sum(file.bytes for file in listing.files)


def row(item: Named, path: Path, state: str, listing: Listing | None, count: int) -> dict[str, Any]:
    """Return one item as JSON; what was there before has no files and size, and the commit only of
    a model that `meditron fetch` or the hub's own program has downloaded.

    Args:
        count: bytes that were downloaded, or would be.
    """
    return {
        "name": item.title,
        "kind": item.kind,
        "state": state,
        "path": str(path),
        "commit": (listing.commit if listing else commit_of(path)) or None,
        "files": len(listing.files) if listing else None,
        "bytes": total(listing) if listing else None,
        "download_bytes": count,
    }


class Shown(Progress):
    """Prints progress on stderr: a bar on a terminal, else a line per complete file."""

    def __init__(self, title: str, bar: Any) -> None:
        self.total = 0
        self._title = title
        self._bar = bar
        self._task: Any = None
        self._done = 0
        self._lock = threading.Lock()

    def begin(self, total: int) -> None:
        self.total = total
        if self._bar:
            self._task = self._bar.add_task(self._title, total=total, detail="")
        else:
            console.note(f"{self._title}: {bytes_text(total)} to download")

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._bar:
                detail = f"{bytes_text(self._done)} of {bytes_text(self.total)}"
                self._bar.update(self._task, advance=count, detail=detail)

    def finish(self, file: HubFile) -> None:
        with self._lock:
            if not self._bar:
                done = f"{self._done / self.total:.0%}" if self.total else "100%"
                console.note(f"{file.path}: {bytes_text(file.bytes)}, verified; {done} in all")


@contextmanager
def shown(title: str) -> Iterator[Shown]:
    """Show a download while a block runs."""
    import sys

    if not console.fancy(sys.stderr):
        yield Shown(title, None)
        return
    with console.progress() as bar:
        yield Shown(title, bar)
