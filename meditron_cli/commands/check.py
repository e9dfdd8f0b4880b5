"""``meditron check``: report every error of the files at once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meditron_cli.errors import ConfigError

if TYPE_CHECKING:
    from meditron_cli.config.check import Checked


@click.command("check", short_help="Check experiment files and cluster profiles.")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("cluster", "--cluster", metavar="NAME", help="Check experiments on this cluster.")
@click.option("size", "--size", metavar="NAME", help="Check experiments with this recipe.")
@click.option("as_json", "--json", is_flag=True, help="Print JSON.")
def command(files: tuple[Path, ...], cluster: str | None, size: str | None, as_json: bool) -> None:
    """Check experiment files, recipes and cluster profiles; all errors at once.

    Without FILE, experiment.yaml. A file is checked alone, as the part of a configuration that it
    is; with --cluster and --size, experiments are merged with these and checked as a whole.
    """
    from meditron_cli import console
    from meditron_cli.config.check import check_file, check_merged
    from meditron_cli.config.files import DEFAULT_CONFIG

    if (cluster is None) != (size is None):
        raise ConfigError("--cluster and --size go together", hint="give both, or neither")
    results = [check_file(path) for path in files or (DEFAULT_CONFIG,)]
    if cluster and size:
        results = [check_merged(checked, cluster, size) for checked in results]
    if as_json:
        valid = not any(checked.errors for checked in results)
        console.json_out({"valid": valid, "files": [vars(checked) for checked in results]})
    else:
        show(results)
    if errors := [sentence for checked in results for sentence in checked.errors]:
        raise ConfigError("\n".join(errors))


def show(results: Iterable[Checked]) -> None:
    """Print a line for each valid file, and warn of placeholders."""
    from meditron_cli import console

    for checked in results:
        if not checked.errors:
            console.data(f"{checked.file}: a valid {NOUNS[checked.kind]}")
        for sentence in checked.placeholders:
            console.warning(sentence)


NOUNS = {"experiment": "experiment", "cluster": "cluster profile"}
