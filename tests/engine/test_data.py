"""The order of samples, without ranks."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.engine

ORDER = """
import dataclasses, json, sys
import torch
from jobs import specs
from jobs.engine import data

task = specs.task_from_json(json.load(sys.stdin))

class Numbers:
    def __getitem__(self, index):
        number = torch.tensor([index % 96])
        return {"tokens": number, "labels": number, "position_ids": torch.tensor([0])}

orders = {}
for ranks, micro in ((1, 2), (2, 2), (4, 1), (3, 4), (1, 12)):
    parallel = dataclasses.replace(task.spec.parallel, data=ranks)
    spec = dataclasses.replace(
        task.spec, parallel=parallel, micro_batch_size=micro, global_batch_size=12
    )
    splits = [data.Split(Numbers(), spec, torch.device("cpu"), rank) for rank in range(ranks)]
    seen = []
    for batch in range(5):
        parts = zip(*(split.micro_batches(batch * 12) for split in splits), strict=True)
        for micro_batches in parts:
            seen += [int(number) for part in micro_batches for number in part["tokens"].flatten()]
    orders[f"{ranks}x{micro}"] = seen
print(json.dumps(orders))
"""


def test_every_sample_comes_once_and_in_order_whatever_the_number_of_ranks(make_run):
    run = make_run()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ORDER],
        input=run.files.spec("pretrain", 0).read_text(),
        capture_output=True,
        text=True,
        check=True,
    )

    orders = json.loads(done.stdout)
    assert len(orders) == 5
    assert all(order == list(range(60)) for order in orders.values())
