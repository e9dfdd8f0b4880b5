"""Tasks that start while training continues, as a plan names them."""

from __future__ import annotations

import pytest

from meditron_cli.plan import early

from ...plans import plan_of

KEPT = (
    "pretrain.keep_steps=[70]",
    "evaluate.checkpoints=[70, last]",
    "export.step=[70, last]",
)
SOON = "of step 70: as soon as its checkpoint is saved"


@pytest.mark.parametrize(
    ("cluster", "lines"),
    [
        ("test-slurm", [f"evaluate     {SOON}", f"export       {SOON}"]),
        ("local", [f"export       {SOON}"]),
    ],
)
def test_evaluations_wait_for_the_end_of_training_where_it_has_the_devices(
    cluster: str, lines: list[str]
) -> None:
    assert list(early.lines(plan_of(cluster, "tiny", *KEPT))) == lines
