"""``meditron init``: a starter experiment with the sample corpus and benchmark."""

from __future__ import annotations

from pathlib import Path

import click

from meditron_cli.errors import ConfigError

EXPERIMENT = Path("experiment.yaml")
SAMPLE = Path("sample")
SCHEMA = Path(".meditron/experiment.schema.json")


@click.command("init", short_help="Write a starter experiment.")
@click.argument("folder", type=click.Path(path_type=Path), default=Path(), metavar="[DIR]")
def command(folder: Path) -> None:
    """Write a starter experiment, with a sample corpus and benchmark, into DIR (default: here).

    Nothing that is there is overwritten.
    """
    from importlib import resources

    from jobs.contract.files import write_bytes
    from meditron_cli import console
    from meditron_cli.config.reference import schema_text
    from meditron_cli.sample import generate

    refuse_to_overwrite(folder)
    template = resources.files("meditron_cli.templates") / "experiment.yaml"
    generate.write(folder / SAMPLE)
    write_bytes(folder / SCHEMA, schema_text("experiment").encode())
    write_bytes(folder / EXPERIMENT, template.read_bytes())
    console.note(f"wrote {folder / EXPERIMENT} and the sample in {folder / SAMPLE}")
    console.note("next:")
    if folder != Path():
        console.note(f"  cd {folder}")
    console.note("  meditron submit pipeline --cluster local --size tiny --wait")


def refuse_to_overwrite(folder: Path) -> None:
    """Stop before anything is written when something of the starter is there already.

    Raises:
        ConfigError: it names what is there.
    """
    there = [str(folder / name) for name in (EXPERIMENT, SAMPLE) if (folder / name).exists()]
    if there:
        raise ConfigError(f"already there: {', '.join(there)}", hint="name another folder")
