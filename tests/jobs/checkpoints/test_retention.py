"""Checkpoints selected, quarantined and pruned: files, no ranks."""

from __future__ import annotations

import time

import pytest

from jobs.checkpoints import leases, manifest, retention
from jobs.contract.attempt_history import TaskHistory, Withdrawn
from jobs.contract.events import StartEvent
from jobs.contract.exit_record import ExitRecord
from jobs.contract.files import FORMAT
from jobs.contract.outcomes import RetryAction, RootCause

from ..checkpoint_files import write_checkpoint

READER = leases.Holder("evaluate", 3, 1, "77", "n01", 5)


def damage(path):
    (path / "__0_0.distcp").write_bytes(b"")


def cut_off(path):
    """Leave what a save that was killed leaves."""
    for name in ("meditron.json", "manifest.json", "metadata.json"):
        (path / name).unlink()


def chosen(folder):
    found = retention.choose_for_resume(folder)
    return found and found[0].name


def names(folder):
    return sorted(path.name for path in folder.glob("iter_*"))


def test_nothing_at_all_means_that_the_run_may_begin(tmp_path):
    assert chosen(tmp_path / "nowhere") is None


@pytest.mark.parametrize("damaged", [1, 2])
def test_up_to_two_damaged_ones_are_set_aside_and_the_one_before_is_used(tmp_path, damaged, capsys):
    paths = [write_checkpoint(tmp_path, step) for step in (10, 20, 30)]
    for path in paths[-damaged:]:
        damage(path)

    assert chosen(tmp_path) == paths[-damaged - 1].name

    aside = names(tmp_path)[-damaged:]
    assert [name.partition(".bad-")[0] for name in aside] == [p.name for p in paths[-damaged:]]
    assert f"{paths[-1].name} is quarantined as {aside[-1]}: __0_0.distcp has 0" in (
        capsys.readouterr().out
    )
    assert all((tmp_path / name / "meditron.json").exists() for name in aside)


def test_checkpoints_of_one_step_are_set_aside_side_by_side(tmp_path):
    for _ in range(3):  # in one second, or in two
        retention.quarantine({write_checkpoint(tmp_path, 20): "damaged"})

    assert len(list(tmp_path.glob("iter_0000020.bad-*/meditron.json"))) == 3


def test_three_damaged_ones_stop_the_run_with_a_table_and_nothing_is_changed(tmp_path):
    write_checkpoint(tmp_path, 10)
    for step in (20, 30, 40):
        damage(write_checkpoint(tmp_path, step))
    before = names(tmp_path)

    with pytest.raises(retention.CheckpointsDamaged) as refused:
        retention.choose_for_resume(tmp_path)

    assert refused.value.code == 1
    assert refused.value.message.splitlines() == [
        f"{tmp_path}: iter_0000010 is valid, but more than 2 checkpoints after it are damaged",
        "  iter_0000040: __0_0.distcp has 0 bytes instead of 7",
        "  iter_0000030: __0_0.distcp has 0 bytes instead of 7",
        "  iter_0000020: __0_0.distcp has 0 bytes instead of 7",
    ]
    assert "move them away to resume from iter_0000010" in refused.value.hint
    assert names(tmp_path) == before


def test_those_set_aside_by_earlier_starts_count_too(tmp_path):
    for step in (10, 20, 30, 40):
        write_checkpoint(tmp_path, step)
    for step, left in ((40, "iter_0000030"), (30, "iter_0000020")):
        damage(tmp_path / manifest.name(step))
        assert chosen(tmp_path) == left
    damage(tmp_path / "iter_0000020")

    with pytest.raises(
        retention.CheckpointsDamaged, match="iter_0000010 is valid, but more than 2"
    ):
        retention.choose_for_resume(tmp_path)


def test_damage_long_before_a_newer_checkpoint_is_forgotten(tmp_path):
    for step in (10, 20, 30):
        path = write_checkpoint(tmp_path, step)
        path.rename(f"{path}.bad-20260101T000000")
    write_checkpoint(tmp_path, 40)
    damage(write_checkpoint(tmp_path, 50))

    assert chosen(tmp_path) == "iter_0000040"


def test_saves_that_were_never_finished_do_not_count(tmp_path):
    write_checkpoint(tmp_path, 10)
    for step in (11, 12, 13, 14):
        cut_off(write_checkpoint(tmp_path, step))
    (tmp_path / "iter_0000099").mkdir()

    assert chosen(tmp_path) == "iter_0000010"
    assert len(list(tmp_path.glob("*.bad-*"))) == 5


def test_all_damaged_is_refused_and_nothing_is_changed(tmp_path):
    for step in (0, 10):
        damage(write_checkpoint(tmp_path, step))

    with pytest.raises(retention.CheckpointsDamaged, match="does not restart from step 0"):
        retention.choose_for_resume(tmp_path)

    assert names(tmp_path) == ["iter_0000000", "iter_0000010"]


def test_random_weights_are_refused_after_training_even_when_all_is_set_aside(tmp_path):
    (tmp_path / "iter_0000020.bad-20260101T000000").mkdir()

    with pytest.raises(
        retention.CheckpointsDamaged,
        match=r"iter_0000020\.bad-20260101T000000: quarantined earlier",
    ):
        retention.choose_for_resume(tmp_path)


def test_a_damaged_step_0_alone_may_begin_again(tmp_path):
    (write_checkpoint(tmp_path, 0) / "meditron.json").unlink()

    assert chosen(tmp_path) is None
    assert [path.name[:17] for path in tmp_path.iterdir()] == ["iter_0000000.bad-"]


def test_step_0_the_newest_and_those_before_it_stay(tmp_path):
    for step in (0, 10, 20, 30, 40):
        write_checkpoint(tmp_path, step)
    cut_off(write_checkpoint(tmp_path, 35))
    (tmp_path / "iter_0000035").rename(tmp_path / "iter_0000035.bad-1")
    damage(write_checkpoint(tmp_path, 36))
    (tmp_path / "iter_0000036").rename(tmp_path / "iter_0000036.bad-1")

    retention.prune(tmp_path, 2)

    kept = ["iter_0000000", "iter_0000020", "iter_0000030", "iter_0000036.bad-1", "iter_0000040"]
    assert sorted(path.name for path in tmp_path.iterdir()) == kept


def test_the_newest_of_which_every_byte_was_read_stays(tmp_path):
    for step in (10, 20, 30, 40, 50):
        write_checkpoint(tmp_path, step)
    for step in (10, 20):
        manifest.note_verified(tmp_path / manifest.name(step))

    retention.prune(tmp_path, 1)

    assert names(tmp_path) == ["iter_0000020", "iter_0000040", "iter_0000050"]


def test_steps_to_keep_stay_beside_the_newest(tmp_path):
    for step in (0, 10, 15, 20, 30, 40):
        write_checkpoint(tmp_path, step)

    retention.prune(tmp_path, 1, (10, 15))

    assert sorted(map(manifest.step_of, tmp_path.iterdir())) == [0, 10, 15, 30, 40]


def test_a_leased_one_stays_until_it_is_given_back(tmp_path):
    for step in (10, 20, 30):
        write_checkpoint(tmp_path, step)

    with leases.leased(tmp_path, "iter_0000010", READER):
        retention.prune(tmp_path, 0)
        assert names(tmp_path) == ["iter_0000010", "iter_0000030"]
    retention.prune(tmp_path, 0)

    assert names(tmp_path) == ["iter_0000030"]


def test_a_lease_taken_while_a_checkpoint_was_leaving_brings_it_back(tmp_path):
    write_checkpoint(tmp_path, 10).rename(tmp_path / ".iter_0000010.leaving")
    write_checkpoint(tmp_path, 20).rename(tmp_path / ".iter_0000020.leaving")

    with leases.leased(tmp_path, "iter_0000010", READER):
        retention.prune(tmp_path, 0)

    assert names(tmp_path) == ["iter_0000010"]
    assert not list(tmp_path.glob(".*.leaving"))


def test_leases_that_expired_or_are_empty_hold_for_a_while_only(tmp_path):
    for step in (10, 20, 30):
        write_checkpoint(tmp_path, step)
    folder = tmp_path / "leases"
    folder.mkdir()
    (folder / "iter_0000010.0a.json").write_text(f'{{"format": {FORMAT}, "expires": 5}}')
    (folder / "iter_0000020.0b.json").write_text("")

    assert [
        (lease.checkpoint, lease.holder) for lease in leases.read_leases(tmp_path, time.time())
    ] == [("iter_0000020", None)]
    retention.prune(tmp_path, 0)

    assert names(tmp_path) == ["iter_0000020", "iter_0000030"]
    assert [path.name for path in folder.iterdir()] == ["iter_0000020.0b.json"]
    assert leases.read_leases(tmp_path, time.time() + leases.LEASE_SECONDS) == []


# ---- what was trained, and is not there any more


def test_after_training_a_folder_that_is_gone_is_no_beginning(tmp_path):
    with pytest.raises(
        retention.CheckpointsDamaged, match="does not restart from step 0"
    ) as refused:
        retention.choose_for_resume(tmp_path / "nowhere", trained=1200)

    assert refused.value.message.splitlines()[1:] == [
        "  step 1200 was saved, but no file of it is left"
    ]
    assert refused.value.hint.endswith("from a copy, then {meditron resume}")


def test_the_random_weights_of_step_0_are_not_gone_back_to(tmp_path):
    write_checkpoint(tmp_path, 0)
    with pytest.raises(retention.CheckpointsDamaged, match="does not restart from step 0"):
        retention.choose_for_resume(tmp_path, trained=10)

    damage(write_checkpoint(tmp_path, 10))
    with pytest.raises(retention.CheckpointsDamaged, match="iter_0000010: __0_0"):
        retention.choose_for_resume(tmp_path)

    assert names(tmp_path) == ["iter_0000000", "iter_0000010"]


def test_step_0_is_begun_from_before_anything_was_trained(tmp_path):
    write_checkpoint(tmp_path, 0)
    (tmp_path / "iter_0000005").mkdir()  # a save that was never finished
    last_moment = write_checkpoint(tmp_path, 10)
    (last_moment / "meditron.json").rename(last_moment / ".meditron.json.0a")

    assert chosen(tmp_path) == "iter_0000000"
    assert len(list(tmp_path.glob("*.bad-*"))) == 2


def test_what_was_saved_is_known_from_events_and_metrics():
    past = TaskHistory(Withdrawn(), "pretrain", 0)
    nothing = retention.highest_saved(past, in_metrics=0)
    past.note_start(0, StartEvent(1.0, "pretrain", 0, 1, "7", began=1.0, step=6))
    by_start = retention.highest_saved(past, in_metrics=4)
    record = ExitRecord(
        "pretrain", 0, 1, "7", RootCause.CRASH, RetryAction.STOP, 1.0, 2.0, 1,
        step_before=6, step_after=8,
    )  # fmt: skip
    past.note_exit(1, record)

    assert (nothing, by_start, retention.highest_saved(past, in_metrics=4)) == (0, 6, 8)
    assert retention.highest_saved(past, in_metrics=10) == 10
