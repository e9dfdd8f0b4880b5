"""``meditron clusters``: list the cluster profiles."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

import click

from meditron_cli.commands.options import complete_cluster
from meditron_cli.errors import ConfigError


@click.command("clusters", short_help="List cluster profiles, or show one.")
@click.argument("name", required=False, shell_complete=complete_cluster)
@click.option("copy", "--copy", is_flag=True, help="Copy NAME to ./clusters, to edit it there.")
@click.option("as_json", "--json", is_flag=True, help="Print JSON.")
def command(name: str | None, copy: bool, as_json: bool) -> None:
    """List the cluster profiles that --cluster finds, or print the file of one."""
    from meditron_cli import console

    if name is None and copy:
        raise ConfigError("--copy needs a profile's name", hint="`meditron clusters` lists them")
    if name is None:
        list_profiles(as_json)
    elif copy:
        console.note(f"wrote {copy_profile(name)}")
    elif as_json:
        from meditron_cli.config.load import load_cluster

        console.json_out({"cluster": load_cluster(name).model_dump(mode="json")})
    else:
        console.data(profile_file(name).read_text(encoding="utf-8"))


def list_profiles(as_json: bool) -> None:
    """Print one line per profile; one with errors is listed as such."""
    from meditron_cli import console
    from meditron_cli.config.load import cluster_names

    profiles = [summary(name) for name in cluster_names()]
    if as_json:
        console.json_out({"clusters": profiles})
        return
    columns = ("name", "scheduler", "nodes", "gpus", "description", "file")
    rows = [[item[column] for column in columns] for item in profiles]
    console.table([column.upper() for column in columns], rows)


def summary(name: str) -> dict[str, Any]:
    """Return a profile's row of the list; ``gpus`` counts those of one node."""
    from meditron_cli.config.files import label_of
    from meditron_cli.config.load import load_cluster

    file = label_of(profile_file(name))
    try:
        cluster = load_cluster(name)
    except ConfigError:
        missing = dict.fromkeys(("scheduler", "nodes", "gpus"))
        return {"name": name, **missing, "description": f"has errors: check {file}", "file": file}
    partition = cluster.gpu_partition
    return {
        "name": name,
        "scheduler": cluster.scheduler,
        "nodes": partition.nodes,
        "gpus": partition.node.gpus,
        "description": cluster.description,
        "file": file,
    }


def profile_file(name: str) -> Path:
    """Return the file of a profile.

    Raises:
        ConfigError: no profile has this name.
    """
    from meditron_cli.config.diagnostics import Problems
    from meditron_cli.config.files import HINT_CLUSTERS, find_profile

    problems = Problems()
    path = find_profile(name, problems)
    if path is None:
        raise problems.error()
    if not path.is_file():
        raise ConfigError(f"{path}: no such file", hint=HINT_CLUSTERS)
    return path


def copy_profile(name: str) -> Path:
    """Copy a profile, and its schema, to ``./clusters``.

    Raises:
        ConfigError: there is one already, or none of this name.
    """
    from jobs.contract.files import write_bytes
    from meditron_cli.config.reference import schema_text

    source = profile_file(name)
    target = Path("clusters") / source.name
    if target.exists():
        raise ConfigError(
            f"{target} exists",
            hint=f"edit it, or `mv {quote(str(target))} {quote(str(target))}.old`",
        )
    write_bytes(target.parent / "profile.schema.json", schema_text("cluster").encode())
    write_bytes(target, source.read_bytes())
    return target
