"""What is judged: a site, for a profile and a training that is to run there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.contract.metrics_log import StepTimes
from meditron_cli.doctor import facts
from meditron_cli.doctor.facts import Association, PartitionRow, Preemption, Qos, SiteFacts

if TYPE_CHECKING:
    from meditron_cli.config.schema import Cluster
    from meditron_cli.config.schema import Partition as Wanted

CONFIG = "scontrol show config"
PARTITIONS = "scontrol show partition"
ACCOUNTS = "sacctmgr"
"""Sources of facts."""


@dataclass(frozen=True)
class Workload:
    """A training that is to run there."""

    pace: StepTimes
    source: str
    """``measured in run …`` or ``estimated``."""
    save_interval: int
    gpus: int
    """0 where the nodes have none."""
    jobs: int
    """Of all stages, each task of an array counted, that may be queued at once."""
    time_minutes: int
    """Of one training job."""


@dataclass(frozen=True)
class SiteView:
    """What is judged: a site, for a profile and a training."""

    site: SiteFacts
    cluster: Cluster
    work: Workload

    @property
    def wanted(self) -> Wanted:
        """The partition that trains, as the profile has it."""
        return self.cluster.gpu_partition

    @property
    def partition(self) -> PartitionRow | None:
        """The same as the site has it."""
        return self.site.partition(self.wanted.name)

    @property
    def account(self) -> Association | None:
        """The association that training uses: of the profile's account, or the only one."""
        name = self.wanted.account or self.cluster.account
        mine = self.site.associations or ()
        if name:
            return next((item for item in mine if item.account == name), None)
        return mine[0] if len(mine) == 1 else None

    @property
    def qos(self) -> str:
        """The quality of service that training has; empty where it is not known."""
        named = self.wanted.qos or self.cluster.qos
        return named or (self.account.default_qos or "normal" if self.account else "")

    @property
    def limits(self) -> list[Qos | Association]:
        """All that limits a training job: its quality of service, its partition's, its account."""
        of_partition = self.partition.qos if self.partition else ""
        rules = [self.site.qos_of(self.qos), self.site.qos_of(of_partition), self.account]
        return [rule for rule in rules if rule is not None]

    @property
    def preemption(self) -> Preemption:
        """What happens to a training job that others outrank."""
        return facts.preemption(self.site, self.wanted.name, self.qos)

    def setting(self, name: str) -> str | None:
        """A line of the site's configuration."""
        return self.site.setting(name)
