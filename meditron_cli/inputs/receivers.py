"""Check the receivers of a run's notifications, before anything is submitted."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path

from jobs.contract.errors import TaskError
from jobs.contract.notification import FORMS, kind_of
from jobs.notification import delivery
from jobs.runtime import secrets_file
from meditron_cli.config.cluster_schema import Cluster
from meditron_cli.config.experiment_schema import Experiment


def problems(experiment: Experiment, cluster: Cluster) -> Iterator[str]:
    """Yield a sentence per receiver without a usable address, never with a part of it; a secrets
    file that cannot be read is reported by ``config.load``.
    """
    if not experiment.notify:
        return
    path = cluster.environment.secrets_file
    if path is None:
        yield (
            f"notify: the profile of {cluster.name} has no environment.secrets_file, which has the "
            "addresses"
        )
        return
    try:
        addresses = secrets_file.read(str(path))
    except TaskError:
        return
    for index, receiver in enumerate(experiment.notify):
        problem = problem_of(addresses.get(receiver.to, ""), receiver.to, path, cluster)
        if problem:
            yield f"notify[{index}].to: {problem}"


def problem_of(address: str, name: str, path: Path, cluster: Cluster) -> str:
    """Return what is wrong with an address; empty for nothing."""
    kind = kind_of(address)
    if not address:
        return f"{path} has no line {name}=…, the address of this receiver"
    if not kind:
        return f"the address {name} in {path} has none of the forms {FORMS}"
    if kind != "service":
        return ""
    if importlib.util.find_spec("apprise") is None:
        is_own = not cluster.environment.python
        return f"{name} needs apprise; `pip install 'meditron[notify]'`" if is_own else ""
    with warnings.catch_warnings():  # of apprise, about what it imports
        warnings.simplefilter("ignore")
        known, _ = delivery.service_of(address)
    return "" if known else f"the address {name} in {path} is the URL of no service of apprise"
