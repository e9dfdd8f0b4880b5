"""``meditron init``: write a starter experiment."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import click

from meditron_cli.errors import ConfigError

EXPERIMENT = Path("experiment.yaml")
SAMPLE = Path("sample")
SCHEMA = Path(".meditron/experiment.schema.json")


@click.command("init", short_help="Write a starter experiment.")
@click.argument("folder", type=click.Path(path_type=Path), default=Path(), metavar="[DIR]")
@click.option(
    "corpus",
    "--from",
    type=click.Path(path_type=Path),
    metavar="CORPUS",
    help="File or folder of documents to curate instead of the sample's.",
)
@click.option("--empty", is_flag=True, help="Write no sample; name your own files.")
def command(folder: Path, corpus: Path | None, empty: bool) -> None:
    """Write a starter experiment into DIR (default: here).

    A sample comes with it: documents, a tokenizer and a benchmark. Existing files are never
    overwritten.
    """
    from importlib import resources

    from jobs.contract.files import write_bytes
    from meditron_cli import console
    from meditron_cli.config.reference import schema_text
    from meditron_cli.runs.store import remove_folder
    from meditron_cli.sample import generate

    if corpus is not None and not corpus.exists():
        raise ConfigError(
            f"{corpus}: no such file or folder", hint="name the documents after --from"
        )
    refuse_to_overwrite(folder, (EXPERIMENT,) if empty else (EXPERIMENT, SAMPLE))
    template = (
        resources.files("meditron_cli.templates") / f"{'empty' if empty else 'experiment'}.yaml"
    )
    text = template.read_text(encoding="utf-8")
    if corpus is not None:
        text = with_corpus(text, folder, corpus)
    is_new = not folder.exists()
    try:
        if not empty:
            generate.write(folder / SAMPLE)
        write_bytes(folder / SCHEMA, schema_text("experiment").encode())
        write_bytes(folder / EXPERIMENT, text.encode())
    except OSError:
        if is_new:
            remove_folder(folder)
        raise
    console.note(
        f"wrote {folder / EXPERIMENT}" + ("" if empty else f" and the sample in {folder / SAMPLE}")
    )
    console.note("next:")
    if folder != Path():
        console.note(f"  cd {shlex.quote(str(folder))}")
    if empty:
        console.note(f"  name your files in {EXPERIMENT}")
    console.note("  meditron submit pipeline --cluster local --size tiny --wait")


def with_corpus(text: str, folder: Path, corpus: Path) -> str:
    """Return the experiment with other documents, named from its folder where they lie below it."""
    path, base = corpus.absolute(), folder.absolute()
    name = os.path.relpath(path, base) if path.is_relative_to(base) else str(path)
    quoted = json.dumps(name, ensure_ascii=False)
    return re.sub(r"sources: \[.*?\]", lambda match: f"sources: [{quoted}]", text, count=1)


def refuse_to_overwrite(folder: Path, names: tuple[Path, ...]) -> None:
    """Refuse before anything is written when a file of the starter exists.

    Raises:
        ConfigError: it names what exists.
    """
    there = [str(folder / name) for name in names if (folder / name).exists()]
    if there:
        raise ConfigError(f"already there: {', '.join(there)}", hint="name another folder")
