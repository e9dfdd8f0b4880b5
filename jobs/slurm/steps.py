"""Command lines of job steps."""

from __future__ import annotations


def one_per_node(nodes: int, *options: str) -> list[str]:
    """Return the prefix that starts a command once on each node of a job, as one step.

    A process that fails or ends ends no other, whatever KillOnBadExit and WaitTime of the site are:
    each node reports for itself.

    Args:
        nodes: of the job.
        options: more of srun's, such as ``--overlap`` beside running ranks.
    """
    per_node = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    alone = ["--kill-on-bad-exit=0", "--wait=0"]
    return ["srun", *options, *per_node, "--distribution=block", *alone]
