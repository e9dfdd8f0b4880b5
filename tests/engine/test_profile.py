"""Profiles of training on real ranks: the same losses, and traces that a reader understands."""

from __future__ import annotations

import json

import pytest

from jobs.runtime import profile_record
from jobs.runtime.profile_record import ProfileRequest
from meditron_cli.profiling.step_times import rank_times

pytestmark = pytest.mark.engine


def values(run):
    return [(line.step, line.loss, line.grad_norm, line.samples) for line in run.steps()]


def test_a_profile_of_two_ranks_changes_no_loss(make_run, layout):
    plain = make_run("plain", parallel=layout(tensor=2))
    profiled = make_run("profiled", parallel=layout(tensor=2))
    request = ProfileRequest("001", steps=2, ranks=(0, 1), memory=True)
    profile_record.write_request(profiled.files, request)

    plain.finish()
    profiled.finish()

    assert values(profiled) == values(plain)
    assert profiled.validations() == plain.validations()
    assert not profiled.files.profile_file.exists()
    records = profile_record.read_records(profiled.files, request)
    assert sorted(records) == [0, 1]
    for record in records.values():
        assert (record.error, record.first_step, record.last_step) == ("", 3, 4)
        trace = json.loads((profiled.files.profile("001") / record.trace).read_text())
        times = rank_times(trace["traceEvents"])
        assert times.steps == 2
        assert min(times.compute, times.exposed, times.data) > 0
        parts = times.compute + times.exposed + times.data + times.idle
        assert parts == pytest.approx(times.step)
        assert "gloo:all_reduce" in times.groups
        assert times.peak_bytes


def test_training_that_ends_first_or_cannot_write_records_why_and_is_not_harmed(make_run):
    early, blocked = make_run("early", train_steps=4), make_run("blocked", train_steps=4)
    long = ProfileRequest("001", steps=9, ranks=(0,), memory=False)
    short = ProfileRequest("002", steps=1, ranks=(0,), memory=False)
    profile_record.write_request(early.files, long)
    profile_record.write_request(blocked.files, short)
    (blocked.root / "profiles/002/rank-00000.trace.json/full").mkdir(parents=True)

    early.finish()
    blocked.finish()

    assert values(early) == values(blocked)
    [ended] = profile_record.read_records(early.files, long).values()
    [unwritten] = profile_record.read_records(blocked.files, short).values()
    assert ended.error == "training ended after step 4, before the profile did"
    assert unwritten.error
    assert (ended.trace, unwritten.trace) == ("", "")


def test_a_request_for_nsys_fails_by_itself_where_it_is_not_installed(make_run):
    run = make_run(train_steps=4)
    request = ProfileRequest("001", steps=1, ranks=(0,), memory=False, nsys=True)
    profile_record.write_request(run.files, request)

    run.finish(PATH="")

    [record] = profile_record.read_records(run.files, request).values()
    assert "nsys is not on PATH" in record.error
    assert list(run.losses()) == [1, 2, 3, 4]
