"""``meditron schema``: print the JSON Schema for editors."""

from __future__ import annotations

from pathlib import Path

import click

from meditron_cli.errors import ConfigError


@click.command("schema", short_help="Print the JSON Schema of an experiment or a profile.")
@click.argument("kind", type=click.Choice(["experiment", "cluster"]), default="experiment")
@click.option(
    "output", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write it here."
)
def command(kind: str, output: Path | None) -> None:
    """Print the JSON Schema of experiment files and recipes, or of cluster profiles.

    An editor with the YAML language server uses the schema that a file's first line
    names: # yaml-language-server: $schema=FILE
    """
    from jobs.contract.files import write_bytes
    from meditron_cli import console
    from meditron_cli.config.reference import schema_text

    if output is None:
        console.data(schema_text(kind))
    elif output.exists() and not output.is_file():
        raise ConfigError(f"{output} is not a regular file", hint="leave --output out for stdout")
    else:
        write_bytes(output, schema_text(kind).encode())
        console.note(f"wrote {output}")
