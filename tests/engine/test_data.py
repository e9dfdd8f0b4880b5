"""The order of samples and their fingerprints, without ranks."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.engine

ORDER = """
import dataclasses, json, sys
import torch
from jobs.contract import specs
from jobs.engine import dataset

task = specs.task_from_json(json.load(sys.stdin))

class Numbers:
    def __getitem__(self, index):
        number = torch.tensor([index % 96])
        return {"tokens": number, "labels": number, "position_ids": torch.tensor([0])}

orders, prints = {}, {}
for ranks, micro in ((1, 2), (2, 2), (4, 1), (3, 4), (1, 12)):
    parallel = dataclasses.replace(task.spec.parallel, data=ranks)
    spec = dataclasses.replace(
        task.spec, parallel=parallel, micro_batch_size=micro, global_batch_size=12
    )
    splits = [dataset.Split(Numbers(), spec, torch.device("cpu"), rank) for rank in range(ranks)]
    seen, prints[f"{ranks}x{micro}"] = [], []
    for batch in range(5):
        parts = zip(*(split.micro_batches(batch * 12) for split in splits), strict=True)
        for micro_batches in parts:
            seen += [int(number) for part in micro_batches for number in part["tokens"].flatten()]
        sums = [sum(part) for part in zip(*(split.fingerprint for split in splits), strict=True)]
        prints[f"{ranks}x{micro}"].append(dataset.fingerprint_text(sums))
    orders[f"{ranks}x{micro}"] = seen

samples = torch.arange(12 * 32).reshape(12, 32)
swapped, other = samples[[1, 0, *range(2, 12)]], samples.clone()
other[11, 31] += 1
kinds = {"same": samples.clone(), "swapped": swapped, "one other token": other}
for name, rows in kinds.items():
    prints[name] = [dataset.fingerprint_text(dataset.fingerprint(rows, 0))]
print(json.dumps([orders, prints]))
"""


@pytest.fixture
def orders_and_prints(make_run, fork_server):
    """Return the order of samples and the fingerprints of batches, by ranks and size of a
    micro-batch; and the fingerprint of twelve samples with something done to them.
    """
    run = make_run()
    task = run.files.spec("pretrain", 0).read_text()
    return json.loads(fork_server.run(ORDER, run.root, stdin=task))


def test_every_sample_comes_once_and_in_order_whatever_the_number_of_ranks(orders_and_prints):
    orders, prints = orders_and_prints
    assert len(orders) == 5
    assert all(order == list(range(60)) for order in orders.values())
    assert all(prints[name] == prints["1x2"] for name in orders)


def test_other_samples_or_another_order_have_another_fingerprint(orders_and_prints):
    _, prints = orders_and_prints
    found = [*prints["1x2"], *prints["same"], *prints["swapped"], *prints["one other token"]]
    assert len(set(found)) == 8
    assert all(len(text) == 16 for text in found)
