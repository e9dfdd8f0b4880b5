"""The input of the rules: a site, seen from a profile and a training that is to run there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.contract.metrics_log import StepTimes
from meditron_cli.doctor import facts
from meditron_cli.doctor.facts import Association, PartitionRow, Preemption, Qos, SiteFacts

if TYPE_CHECKING:
    from meditron_cli.config.cluster_schema import Cluster, Partition

CONFIG = "scontrol show config"
PARTITIONS = "scontrol show partition"
ACCOUNTS = "sacctmgr"
"""Sources of facts."""


@dataclass(frozen=True)
class Workload:
    """A training that is to run on the site."""

    times: StepTimes
    source: str
    """``measured in run …`` or ``estimated …``."""
    save_interval: int
    """Training steps between two checkpoints."""
    gpus: int
    """0 where the nodes have none."""
    jobs: int
    """Jobs of all stages that may be queued at once, counting each array task."""
    time_minutes: int
    """Time limit of one training job."""


@dataclass(frozen=True)
class SiteView:
    """A site's facts with the profile and the training that the rules compare them with."""

    site: SiteFacts
    cluster: Cluster
    work: Workload

    @property
    def requested(self) -> Partition:
        """Return the training partition of the profile."""
        return self.cluster.gpu_partition

    @property
    def partition(self) -> PartitionRow | None:
        """Return the training partition of the site."""
        return self.site.partition(self.requested.name)

    @property
    def account(self) -> Association | None:
        """Return the association of training: the profile's account, or the user's only one."""
        name = self.requested.account or self.cluster.account
        mine = self.site.associations or ()
        if name:
            return next((item for item in mine if item.account == name), None)
        return mine[0] if len(mine) == 1 else None

    @property
    def qos(self) -> str:
        """Return the QOS of training; empty when unknown."""
        named = self.requested.qos or self.cluster.qos
        return named or (self.account.default_qos or "normal" if self.account else "")

    @property
    def limits(self) -> list[Qos | Association]:
        """Return all limits of a training job: its QOS, its partition's QOS, its account."""
        of_partition = self.partition.qos if self.partition else ""
        limits = [self.site.qos_of(self.qos), self.site.qos_of(of_partition), self.account]
        return [limit for limit in limits if limit is not None]

    @property
    def preemption(self) -> Preemption:
        """Return Slurm's preemption of a training job."""
        return facts.preemption(self.site, self.requested.name, self.qos)

    def setting(self, name: str) -> str | None:
        """Return a setting of slurm.conf; None when unset or unknown."""
        return self.site.setting(name)
