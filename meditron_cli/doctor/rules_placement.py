"""Whether training can start at a site: version, partitions, nodes, accounts, limits. Pure.

Every function judges some facts and leaves out what does not concern the profile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING

from meditron_cli.doctor import facts
from meditron_cli.doctor.facts import PartitionRow
from meditron_cli.doctor.finding import FATAL, OK, WARN, SiteFinding, unknown
from meditron_cli.doctor.site_view import ACCOUNTS, CONFIG, PARTITIONS, SiteView

if TYPE_CHECKING:
    from meditron_cli.config.schema import Partition as Wanted

MADE_WITH = (22, 5)
"""The version that this was verified on."""


def version(look: SiteView) -> Iterator[SiteFinding]:
    """Which Slurm it is."""
    source = "sbatch --version"
    if look.site.version is None:
        yield unknown("version", source)
        return
    value = ".".join(
        f"{part:02d}" if n == 1 else str(part) for n, part in enumerate(look.site.version)
    )
    if look.site.version < MADE_WITH:
        yield SiteFinding(
            "version", value, WARN, "older than 22.05, with which this was tried: run `meditron "
            "drill` before a long training", source,
        )  # fmt: skip
    else:
        yield SiteFinding(
            "version", value, OK, "srun is told every rank's cores explicitly", source
        )


def programs(look: SiteView) -> Iterator[SiteFinding]:
    """Whether this machine can submit."""
    missing = look.site.missing_programs
    if missing:
        meaning = "this machine cannot submit: log in to the cluster"
        yield SiteFinding("commands", f"no {', '.join(missing)}", FATAL, meaning, "PATH")


def partitions(look: SiteView) -> Iterator[SiteFinding]:
    """The partitions that the profile names: there, open, and with enough time."""
    named = [look.cluster.gpu_partition, look.cluster.cpu_partition]
    for wanted in [item for item in named if item is not None]:
        yield from one_partition(look, wanted)


def one_partition(look: SiteView, wanted: Wanted) -> Iterator[SiteFinding]:
    """One of them."""
    fact = f"partition {wanted.name}"
    if look.site.partitions is None:
        yield unknown(fact, PARTITIONS)
        return
    found = look.site.partition(wanted.name)
    if found is None:
        names = [item.name for item in look.site.partitions]
        near = get_close_matches(wanted.name, names, n=1)
        instead = f"did you mean {near[0]}" if near else f"there are {', '.join(names)}"
        yield SiteFinding(
            fact, "missing", FATAL, f"the site has no such partition; {instead}", PARTITIONS
        )
        return
    value = f"{found.total_nodes} nodes, {limit_words(found.max_minutes)}"
    for verdict, meaning in partition_doubts(look, wanted, found):
        yield SiteFinding(fact, value, verdict, meaning, PARTITIONS)
        return
    yield SiteFinding(fact, value, OK, "open, and as the profile has it", PARTITIONS)


def partition_doubts(
    look: SiteView, wanted: Wanted, found: PartitionRow
) -> Iterator[tuple[str, str]]:
    """What speaks against a partition, worst first."""
    account = wanted.account or look.cluster.account
    if not found.up:
        yield FATAL, "closed: no job starts there"
    if found.accounts and account and account not in found.accounts:
        yield FATAL, f"closed to account {account}; open to {', '.join(found.accounts)}"
    if wanted.nodes > found.total_nodes:
        yield (
            WARN,
            (f"the profile has {wanted.nodes} nodes, the site {found.total_nodes}: correct it"),
        )
    if found.max_nodes is not None and wanted.nodes > found.max_nodes:
        yield WARN, f"a job may have {found.max_nodes} nodes, the profile says {wanted.nodes}"
    limit, said = found.max_minutes, wanted.max_time_minutes
    if limit is not None and said is not None and said > limit:
        yield WARN, f"the profile allows {said} minutes, the site {limit}: correct the profile"


def limit_words(minutes: int | None) -> str:
    """A time limit for people."""
    return "no time limit" if minutes is None else f"at most {minutes / 60:g} h"


def nodes(look: SiteView) -> Iterator[SiteFinding]:
    """The nodes that train: how many can work, and whether they have what the profile says."""
    source = "sinfo --Node"
    if look.site.nodes is None:
        yield unknown("nodes", source, "not answered: no node can be left out by its name")
        return
    mine = [node for node in look.site.nodes if look.wanted.name in node.partitions]
    if not mine:
        return
    away = [
        node.name for node in mine if not node.state.startswith(("idle", "alloc", "mix", "comp"))
    ]
    value = f"{len(mine)}, {len(away)} of them away" if away else f"{len(mine)}, all there"
    meaning = "nodes that failed are left out of later jobs by these names"
    verdict = WARN if len(mine) - len(away) < 1 else OK
    yield SiteFinding("nodes", value, verdict, meaning, source)
    if look.wanted.node.gpus:
        yield gpus(look, [(node.gpus, node.gpu_kinds) for node in mine], source)


def gpus(look: SiteView, found: list[tuple[int, tuple[str, ...]]], source: str) -> SiteFinding:
    """Whether nodes have the GPUs that the profile counts on."""
    node = look.wanted.node
    kinds = sorted({kind for _, each in found for kind in each})
    value = f"{max(count for count, _ in found)} a node" + (
        f" ({', '.join(kinds)})" if kinds else ""
    )
    if max(count for count, _ in found) < node.gpus:
        meaning = f"the profile says {node.gpus}: no job would start; correct the profile"
        return SiteFinding("GPUs", value, FATAL, meaning, source)
    if node.gpu_type and node.gpu_type not in kinds:
        meaning = f"sbatch knows no gpu:{node.gpu_type}; correct node.gpu_type in the profile"
        return SiteFinding("GPUs", value, FATAL, meaning, source)
    return SiteFinding("GPUs", value, OK, f"a job asks for up to {node.gpus} a node", source)


def accounts(look: SiteView) -> Iterator[SiteFinding]:
    """Account and quality of service: known to the site, if it insists."""
    name = look.wanted.account or look.cluster.account
    if look.site.associations is None:
        yield unknown("account", ACCOUNTS, "not answered: sbatch will say whether it is right")
    elif name and look.account is None:
        known = ", ".join(item.account for item in look.site.associations)
        insists = "associations" in facts.options(look.setting("AccountingStorageEnforce"))
        meaning = f"you have no account {name}; you have {known or 'none'}"
        yield SiteFinding("account", name, FATAL if insists else WARN, meaning, ACCOUNTS)
    else:
        value = look.account.account if look.account else "the default"
        yield SiteFinding("account", value, OK, "yours", ACCOUNTS)
    named = look.wanted.qos or look.cluster.qos
    if named and look.site.qos is not None and look.site.qos_of(named) is None:
        known = ", ".join(item.name for item in look.site.qos)
        meaning = f"the site has no such quality of service; there are {known}"
        yield SiteFinding("QOS", named, FATAL, meaning, ACCOUNTS)


def job_limits(look: SiteView) -> Iterator[SiteFinding]:
    """How many jobs one may have, and for how long."""
    if look.site.qos is None and look.site.associations is None:
        yield unknown("job limits", ACCOUNTS, "not answered: sbatch refuses what is too much")
        return
    submit = smallest(rule.max_submit for rule in look.limits)
    running = smallest(rule.max_jobs for rule in look.limits)
    wall = smallest(rule.max_wall_minutes for rule in look.limits)
    value = ", ".join(
        f"{words} {number}"
        for words, number in (("submit", submit), ("run", running), ("minutes", wall))
        if number is not None
    )
    if submit is not None and submit < look.work.jobs:
        meaning = (
            f"the plan has {look.work.jobs} jobs, and {submit} may be queued at once: submit the "
            "stages one by one, and fewer shards"
        )
        yield SiteFinding("job limits", value, WARN, meaning, ACCOUNTS)
    elif wall is not None and wall < look.work.time_minutes:
        meaning = f"a training job wants {look.work.time_minutes} minutes; lower its time_minutes"
        yield SiteFinding("job limits", value, WARN, meaning, ACCOUNTS)
    else:
        yield SiteFinding("job limits", value or "none", OK, "enough for the plan", ACCOUNTS)


def smallest(values: Iterable[int | None]) -> int | None:
    """The strictest of some limits; None where there is none."""
    return min((value for value in values if value is not None), default=None)


def arrays(look: SiteView) -> Iterator[SiteFinding]:
    """How long an array may be."""
    shown = look.setting("MaxArraySize")
    if shown is None:
        yield unknown("MaxArraySize", CONFIG)
        return
    site, profile = int(shown), look.cluster.slurm.max_array_size
    is_written = "max_array_size" in look.cluster.slurm.model_fields_set
    if is_written and profile > site:
        meaning = f"the profile says {profile}, and sbatch refuses such an array: correct it"
        yield SiteFinding("MaxArraySize", shown, WARN, meaning, CONFIG)
    else:
        size = profile if is_written else site
        yield SiteFinding("MaxArraySize", shown, OK, f"tasks are cut into arrays of {size}", CONFIG)


def wckeys(look: SiteView) -> Iterator[SiteFinding]:
    """Whether jobs need a key for the accounting."""
    if "wckeys" not in facts.options(look.setting("AccountingStorageEnforce")):
        return
    named = look.cluster.slurm.sbatch.get("wckey")
    if named:
        yield SiteFinding("wckey", str(named), OK, "the site wants one, the profile has it", CONFIG)
    else:
        meaning = "the site refuses jobs without one: set slurm.sbatch.wckey in the profile"
        yield SiteFinding("wckey", "none", WARN, meaning, CONFIG)


def shapes(look: SiteView) -> Iterator[SiteFinding]:
    """What sbatch says of the plan's jobs, which it would queue for ever if they cannot be."""
    for shape in look.site.shapes:
        verdict = OK if shape.accepted else FATAL
        meaning = shape.answer if shape.accepted else f"such a job can never start: {shape.answer}"
        value = "possible" if shape.accepted else "refused"
        yield SiteFinding(f"job of {shape.label}", value, verdict, meaning, "sbatch --test-only")
