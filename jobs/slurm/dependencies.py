"""Dependencies of queued jobs, rewritten when a job is replaced."""

from __future__ import annotations

from collections.abc import Mapping

from jobs.slurm.client import Client
from jobs.slurm.queries import TERM, ids_in


def retarget(client: Client, current: Mapping[str, str | None]) -> list[str] | None:
    """Make jobs that depend on replaced jobs depend on the new ones.

    This also revives dependents that could never have started (DependencyNeverSatisfied). Jobs that
    depend on a job that nothing replaces stay as they are.

    Args:
        current: the job that runs a task now, by each job that the task was ever given to; None
            for a finished task.

    Returns:
        The ids of the dependents whose dependency is right now, or None without an answer.
    """
    dependents = client.dependents(current)
    queue = client.queue() if dependents else {}
    if dependents is None or queue is None:
        return None
    right = []
    for dependent in dependents:
        expression = rewritten(dependent.expression, current)
        if not set(ids_in(expression)) & set(current) <= set(queue):
            continue
        is_right = expression == rewritten(dependent.expression, {})
        if is_right or client.set_dependency(dependent.job_id, expression):
            right.append(dependent.job_id)
    return right


def rewritten(expression: str, current: Mapping[str, str | None]) -> str:
    """Return a dependency in scontrol's syntax, with replaced jobs exchanged for the current ones.

    ``afterok:7_*`` names every element of an array; once one of them has been replaced, the
    unfinished ones are named one by one.
    """
    terms = (part for term in expression.split(",") for part in _terms(term, current))
    return ",".join(dict.fromkeys(terms))


def _terms(term: str, current: Mapping[str, str | None]) -> list[str]:
    match = TERM.fullmatch(term)
    if match is None:
        return [term.partition("(")[0]]
    kind, job, element, delay = match.groups(default="")
    name = job if element in ("", "*") else f"{job}_{element}"
    olds = [name] if name in current else _elements(job, current) if name == job else []
    if not olds:
        suffix = f"_{element}" if element else ""
        return [f"{kind}:{job}{suffix}{delay}"]
    if all(current[old] == old for old in olds):
        return [f"{kind}:{name}{delay}"]
    return [f"{kind}:{new}{delay}" for old in olds if (new := current[old]) is not None]


def _elements(array: str, current: Mapping[str, str | None]) -> list[str]:
    return [job for job in current if job.startswith(f"{array}_")]
