"""``meditron explain``: explain a configuration value and its origin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meditron_cli.commands.options import (
    cluster_option,
    complete_key,
    config_option,
    set_option,
    size_option,
)

if TYPE_CHECKING:
    from meditron_cli.config.explain import Explanation


@click.command("explain", short_help="Explain a configuration value and where it comes from.")
@click.argument("key", shell_complete=complete_key)
@cluster_option("With the defaults of this cluster.", required=False)
@size_option("With the values of this recipe.")
@config_option()
@set_option("Set a value.")
@click.option("as_json", "--json", is_flag=True, help="Print JSON.")
def command(
    key: str,
    cluster: str | None,
    size: str | None,
    config: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Explain KEY: its meaning, its value, and the file and line it comes from.

    KEY is dotted, such as pretrain.learning_rate; a section, such as pretrain, shows its keys, and
    a list, such as pretrain.phases, those of its items (pretrain.phases.from_tokens). Keys of the
    profile begin with cluster, such as cluster.gpu_partition.nodes.
    """
    from meditron_cli import console
    from meditron_cli.config.explain import ExplainQuery, explain

    explanations = explain(key, ExplainQuery(cluster, size, config, overrides))
    if as_json:
        console.json_out({"keys": [vars(explanation) for explanation in explanations]})
    elif explanations[0].key == key:
        console.data(one_key(explanations[0]))
        if items := explanations[1:]:
            rows = [(item.key, shown(item), item.doc) for item in items]
            console.data("\nof each item:")
            console.table(("KEY", "DEFAULT", "MEANING"), rows)
    else:
        rows = [(item.key, shown(item), item.place or item.origin) for item in explanations]
        console.table(("KEY", "VALUE", "FROM"), rows)


def one_key(item: Explanation) -> str:
    """Return one key in three lines."""
    return f"{item.key} = {shown(item)}\n{item.doc}\nfrom: {item.place or item.origin}"


def shown(item: Explanation) -> str:
    """Return a value as YAML."""
    return "-" if item.origin == "unset" else json.dumps(item.value, ensure_ascii=False)
