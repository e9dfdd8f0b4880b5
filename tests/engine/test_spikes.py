"""Spikes and non-finite losses of real ranks: computed again, skipped, or rewound."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jobs.checkpoints import manifest
from jobs.contract.errors import STOPPED
from jobs.contract.files import read_json
from jobs.contract.metrics_log import RECOMPUTED, REWOUND, SKIPPED, WARNED, SaveLine, SpikeLine
from jobs.engine.reporter import Reporter
from jobs.engine.stability.guards import Step
from jobs.engine.stability.skips import decided_before
from jobs.runtime.context import context_from

from ..model_specs import corpus_spec
from .conftest import EOD, LONG, Run, copy_tokens

pytestmark = pytest.mark.engine

FULL = pytest.mark.full

MARK = EOD - 1
"""A token that one document alone has."""

SPIKING = f"""
import os, signal, sys
from pathlib import Path
import torch
from jobs.__main__ import main

passes = []
root = Path(sys.argv[2])

def spike(module, inputs, output):
    if type(module).__name__ != "Decoder" or not module.training:
        return None
    passes.append(1)
    if len(passes) == int(os.environ.get("STOPS_IN_PASS", "0")):
        os.kill(os.getpid(), signal.SIGTERM)
    if (inputs[0] == {MARK}).any():
        sys.modules["jobs.engine.trainer"].POLL_SECONDS = 0.0
        if (root / "save_then").exists():
            (root / "SAVE").touch()
        if (root / "stop_then").exists():
            os.kill(os.getpid(), signal.SIGTERM)
        return output * 40.0

if __name__ == "__main__":
    torch.nn.modules.module.register_module_forward_hook(spike)
    sys.exit(main())
"""
"""Training whose loss is forty times as high in the one batch with the marked token, and that is
requested to save or to stop at that moment where the run has a file for it."""

WATCHED = {
    **LONG,
    "corpora": corpus_spec("tokens/train/00000", validation=("tokens/validation/00000",)),
    "train_steps": 40,
    "decay_steps": 40,
    "save_interval": 10,
    "spike_window": 8,
}


@pytest.fixture
def make_marked(make_run, tokens):
    """Make run directories whose samples have the marked token once."""

    def make(name: str = "run", **options) -> Run:
        run = make_run(name, **{**WATCHED, **options})
        copy_tokens(tokens / "marked", run.files, "tokens/train/00000")
        return run

    return make


def spikes(run: Run) -> list[SpikeLine]:
    return [line for line in run.lines() if isinstance(line, SpikeLine)]


def evidence(run: Run):
    return [read_json(path) for path in sorted(run.files.spikes("pretrain").glob("*.json"))]


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        pytest.param({"data": 2, "distributed_optimizer": False}, marks=FULL),
        pytest.param({"pipeline": 2}, marks=FULL),
    ],
    ids=str,
)
def test_a_skipped_spike_changes_nothing_else(make_marked, layout, sizes):
    parallel = layout(**sizes)
    run = make_marked("spiking", spike_policy="skip", parallel=parallel)

    run.finish(code=SPIKING)

    (line,) = spikes(run)
    assert (line.action, line.first, line.saved) == (SKIPPED, line.step, None)
    assert 10 < line.step <= 40
    assert line.step not in run.losses()
    plain = make_marked("plain", skip_steps=(line.step,), parallel=parallel)
    plain.finish()
    assert run.losses() == plain.losses()
    plots = EventAccumulator(str(run.root / "tensorboard")).Reload()
    assert [event.step for event in plots.Scalars(f"spikes/{SKIPPED}")] == [line.step]
    (known,) = evidence(run)
    first, last = known["sequences"]["first"], known["sequences"]["last"]
    assert (first, last) == (4 * (line.step - 1), 4 * line.step - 1)
    assert known["loss"] > 10 * known["before"][-1][0]
    assert known["second"]["loss"] == known["loss"]
    losses = [loss for part in known["ranks"] for loss in part["losses"]]
    assert sum(losses) / len(losses) == pytest.approx(known["loss"])
    assert known["documents"].startswith(f"meditron samples --step {line.step} spiking")
    assert f"warning: the loss of step {line.step}, " in run.started[0].output()


@pytest.mark.parametrize("sizes", [{}, pytest.param({"data": 2}, marks=FULL)], ids=str)
def test_a_rewound_spike_skips_the_batches_up_to_it(make_marked, layout, sizes):
    parallel = layout(**sizes)
    kept = {"keep_steps": tuple(range(1, 40)), "keep_weights_only": True}
    run = make_marked(spike_policy="rewind", spike_rewind_steps=3, parallel=parallel, **kept)
    if not sizes:  # rank 0 looks for the file
        (run.root / "save_then").touch()

    run.finish(code=SPIKING)

    (line,) = spikes(run)
    assert line.action == REWOUND
    assert line.saved == (line.step - 1) // 10 * 10
    assert line.first == max(line.saved, line.step - 3) + 1
    skipped = tuple(range(line.first, line.step + 1))
    assert tuple(decided_before(run.lines())) == skipped
    plain = make_marked("plain", skip_steps=skipped, parallel=parallel)
    plain.finish()
    assert run.losses() == plain.losses() | {
        step: loss for step, loss in run.losses().items() if step in skipped
    }
    assert read_json(run.files.done("pretrain", 0))["summary"]["skipped"] == len(skipped)
    aside = (run.root / "checkpoints/kept").glob("*.bad-*")
    assert {int(path.name[5:12]) for path in aside} == set(range(line.first, line.step))
    assert len(manifest.folders(run.root / "checkpoints/kept")) == 39
    saved = [item.step for item in run.lines() if isinstance(item, SaveLine)]
    assert sizes or line.saved + 1 in saved  # the request came at the spike


@FULL
def test_a_stop_at_a_spike_leaves_the_return_to_the_next_attempt(make_marked):
    run = make_marked(spike_policy="rewind", spike_rewind_steps=3)
    (run.root / "stop_then").touch()

    ranks = run.start(code=SPIKING)

    assert ranks.wait() == [STOPPED], ranks.output()
    (line,) = spikes(run)
    assert line.action == REWOUND
    assert f"stopped at step {line.saved}, every step is saved" in run.rank_exit()["message"]
    assert run.trained(1)[-1] == line.step - 1
    run.finish(code=SPIKING)
    assert run.trained(2)[0] == line.saved + 1
    assert tuple(decided_before(run.lines())) == tuple(range(line.first, line.step + 1))


def test_a_spike_after_one_that_was_transient_is_computed_again(make_run):
    from jobs.engine.stability.spikes import Computed, SpikeWatch

    class Watch(SpikeWatch):
        """A watch that keeps lines instead of writing evidence."""

        def _record(self, line, *_):
            recorded.append(line)

    recorded: list[SpikeLine] = []
    run = make_run(spike_window=8)
    context = context_from(run.root, "pretrain", 0, {})
    watch = Watch(context, run.spec, Reporter(context, run.spec))
    usual, high = Step(2.0, 1.0), Step(20.0, 1.0)
    result = SimpleNamespace(samples="")
    steps = [(usual, usual)] * 8 + [(high, usual), (high, high), (high, high), (high, usual)]

    for number, (first, again) in enumerate(steps, 1):
        watch.judge(
            number,
            Computed(result, first, []),
            lambda _, again=again: Computed(result, again, []),
            lambda: 0,
            lambda: None,
        )

    assert [(line.step, line.action) for line in recorded] == [(9, RECOMPUTED), (10, WARNED)]


@FULL
def test_a_training_that_rewinds_to_step_0_begins_anew(make_marked):
    run = make_marked(spike_policy="rewind", spike_rewind_steps=2, save_interval=100)

    run.finish(code=SPIKING)

    (line,) = spikes(run)
    assert (line.saved, line.first) == (0, line.step - 1)
    plain = make_marked("plain", skip_steps=(line.step - 1, line.step), save_interval=100)
    plain.finish()
    assert list(plain.losses().items())[-5:] == list(run.losses().items())[-5:]


@FULL
def test_a_spike_that_is_warned_of_is_trained(make_marked):
    run, plain = make_marked("spiking"), make_marked("plain")

    run.finish(code=SPIKING)
    plain.finish()

    (line,) = spikes(run)
    assert (line.action, line.first) == (WARNED, None)
    before = {step: loss for step, loss in plain.losses().items() if step < line.step}
    assert before.items() <= run.losses().items()
    assert run.losses()[line.step] == pytest.approx(40 * plain.losses()[line.step], rel=0.6)
    assert len(run.losses()) == 40


@FULL
def test_a_restarted_training_decides_as_one_without_a_restart(make_marked):
    whole = make_marked("whole", spike_policy="skip")
    whole.finish(code=SPIKING)
    (expected,) = spikes(whole)
    parted = make_marked("parted", spike_policy="skip")

    ranks = parted.start(code=SPIKING, STOPS_IN_PASS="7")  # of two per step
    codes = ranks.wait()
    stopped = max(parted.losses())
    parted.finish(code=SPIKING)

    assert (codes, stopped) == ([130], 4), ranks.output()
    assert expected.step > stopped
    (line,) = spikes(parted)
    assert (line.step, line.problem) == (expected.step, expected.problem)
    assert parted.losses() == whole.losses()


NAN = """
import sys
from pathlib import Path
import torch
from jobs.__main__ import main

root, passes = Path(sys.argv[2]), []

def poison(module, inputs, output):
    # From the seventh global batch of this attempt on; each has two micro-batches.
    if type(module).__name__ != "Decoder" or not module.training:
        return None
    passes.append(1)
    if len(passes) in (13, *map(int, (root / "also").read_text().split())):
        return output * float("nan")

if __name__ == "__main__":
    torch.nn.modules.module.register_module_forward_hook(poison)
    sys.exit(main())
"""


def test_a_loss_that_is_no_number_once_is_computed_again(make_run, undisturbed):
    run = make_run(**LONG)
    (run.root / "also").write_text("")

    run.finish(code=NAN)

    assert run.losses() == undisturbed
    (line,) = spikes(run)
    assert (line.step, line.problem, line.action) == (7, "the loss of step 7 is nan", RECOMPUTED)
    (known,) = evidence(run)
    assert (known["loss"], known["second"]["loss"]) == ("nan", undisturbed[7])
    (part,) = known["ranks"]
    assert part["losses"][0] == "nan"
    assert part["losses"][1] == part["second_losses"][1]


@FULL
def test_a_loss_that_stays_no_number_stops_training_and_the_next_attempt_trains(
    make_run, undisturbed
):
    run = make_run(**LONG)
    (run.root / "also").write_text("15")

    ranks = run.start(code=NAN)

    assert ranks.wait() == [1], ranks.output()
    record = run.rank_exit()
    assert record["kind"] == "NonFiniteLoss"
    assert record["message"] == "the loss of step 7 is nan; iter_0000000 holds the last good state"
    assert "meditron samples --step 7 run" in record["hint"]
    assert run.checkpoints() == ["iter_0000000"]
    assert json.loads(json.dumps(evidence(run)))[0]["action"] == "stopped"
    run.finish()
    assert run.losses() == undisturbed
