"""The part of each rank in a global batch, and fingerprints; without ranks."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.engine

ORDER = """
import dataclasses, json, sys
import numpy, torch
from jobs.contract import specs
from jobs.data import sample_order
from jobs.engine import dataset

task = specs.task_from_json(json.load(sys.stdin))

class Numbers:
    samples = 60

    def length_of(self, sample):
        return 1

    def __getitem__(self, index):
        return numpy.full(2, index % 96)

orders, prints = {}, {}
for ranks, micro in ((1, 2), (2, 2), (4, 1), (3, 4), (1, 12)):
    parallel = dataclasses.replace(task.spec.parallel, data=ranks)
    spec = dataclasses.replace(
        task.spec, parallel=parallel, micro_batch_size=micro, global_batch_size=12
    )
    cpu = torch.device("cpu")
    roles = [dataset.Role(rank, True, True, True) for rank in range(ranks)]
    splits = [dataset.Split(Numbers(), spec, cpu, role, 95) for role in roles]
    seen, prints[f"{ranks}x{micro}"] = [], []
    for batch in range(5):
        parts = [split.batch(batch * 12) for split in splits]
        for micro_batches in zip(*(part.micro_batches for part in parts), strict=True):
            seen += [int(number) for part in micro_batches for number in part["tokens"].flatten()]
        sums = [sum(words) for words in zip(*(part.fingerprint for part in parts), strict=True)]
        prints[f"{ranks}x{micro}"].append(sample_order.fingerprint_text(sums))
    orders[f"{ranks}x{micro}"] = seen

samples = torch.arange(12 * 32).reshape(12, 32)
swapped, other = samples[[1, 0, *range(2, 12)]], samples.clone()
other[11, 31] += 1
kinds = {"same": samples.clone(), "swapped": swapped, "one other token": other}
for name, rows in kinds.items():
    prints[name] = [sample_order.fingerprint_text(sample_order.fingerprint(rows.int().numpy(), 0))]
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


OUTSIDE = """
import dataclasses, json, sys
import numpy, torch
from jobs.contract import specs
from jobs.contract.errors import TaskError
from jobs.engine import dataset

task = specs.task_from_json(json.load(sys.stdin))

class Numbers:
    samples = 100

    def length_of(self, sample):
        return 1

    def __getitem__(self, index):
        return numpy.array([index % 96, index % 96 - 1])

role = dataset.Role(0, True, True, True)
split = dataset.Split(Numbers(), task.spec, torch.device("cpu"), role, 95)
try:
    split.batch(96)
except TaskError as error:
    print(json.dumps([error.message, error.code]))
"""


def test_a_negative_id_is_refused_when_it_is_read(make_run, fork_server):
    run = make_run()
    task = run.files.spec("pretrain", 0).read_text()

    refusal = json.loads(fork_server.run(OUTSIDE, run.root, stdin=task))

    message = "a sample from 96 on holds token -1, the model has a vocabulary of 96"
    assert refusal == [message, 2]


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
