"""Ask a site's Slurm what it is like, in a few calls. What is not answered is None."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Sequence
from typing import TypeVar

from jobs.slurm import queries
from jobs.slurm.client import Client
from meditron_cli.doctor import facts
from meditron_cli.doctor.facts import Shape, SiteFacts

PROGRAMS = ("sbatch", "srun", "squeue", "scontrol", "sinfo", "scancel")
"""Commands that submitting and watching need."""

Answer = TypeVar("Answer")


def read(client: Client, shapes: Sequence[tuple[str, Sequence[str]]]) -> SiteFacts:
    """Everything that ``doctor`` wants to know of a site.

    Args:
        client: how Slurm is reached.
        shapes: jobs to ask about without submitting them: a label, and sbatch's options.
    """
    config = ask(client, ["scontrol", "show", "config"], queries.parse_config)
    cluster = (config or {}).get("ClusterName", "")
    return SiteFacts(
        version=ask(client, ["sbatch", "--version"], facts.parse_version),
        config=config,
        partitions=ask(
            client, ["scontrol", "show", "partition", "--all", "--oneliner"], facts.parse_partitions
        ),
        nodes=ask(client, nodes_command(), facts.parse_nodes),
        qos=ask(client, accounts_command("qos", facts.QOS_FIELDS), facts.parse_qos),
        associations=ask(
            client,
            accounts_command("associations", facts.ASSOCIATION_FIELDS, f"user={getpass.getuser()}"),
            lambda text: facts.parse_associations(text, cluster),
        ),
        has_accounting=has_accounting(client),
        account_fields=ask(client, ["sacct", "--helpformat"], lambda text: frozenset(text.split())),
        shapes=tuple(shape for name, options in shapes if (shape := test(client, name, options))),
        missing_programs=tuple(name for name in PROGRAMS if not client.has(name)),
    )


def ask(client: Client, command: Sequence[str], parse: Callable[[str], Answer]) -> Answer | None:
    """What a command says, read; None when it does not answer, or with nothing."""
    done = client.run(command)
    if done is None or done.returncode != 0 or not done.stdout.strip():
        return None
    return parse(done.stdout)


def nodes_command() -> list[str]:
    """All nodes, one a line and partition."""
    return [*queries.NODES, "--all", f"--format={facts.NODE_FORMAT}"]


def accounts_command(what: str, fields: str, *where: str) -> list[str]:
    """A question to the accounting's manager."""
    return ["sacctmgr", "--noheader", "--parsable2", "show", what, *where, f"format={fields}"]


def has_accounting(client: Client) -> bool | None:
    """Whether sacct answers; False where the site keeps no accounts, None when it is silent."""
    if not client.keeps_accounts():
        return False
    return None if client.accounting(["0"]) is None else True


def test(client: Client, label: str, options: Sequence[str]) -> Shape | None:
    """What sbatch says of a job without submitting it; None when it does not answer."""
    done = client.run(["sbatch", "--test-only", *options, "--wrap=true"])
    if done is None:
        return None
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    said = lines[-1].removeprefix("sbatch: ").removeprefix("allocation failure: ") if lines else ""
    return Shape(label, done.returncode == 0, said)
