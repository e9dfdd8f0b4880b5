"""Plans of trainings whose phases have other sequence lengths, targets and tails."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from jobs.contract.metrics_log import MetricsSummary
from jobs.contract.stage_specs import PretrainSpec
from meditron_cli.config.load import load, load_cluster
from meditron_cli.errors import ConfigError
from meditron_cli.plan import build, summary
from meditron_cli.plan.inputs import Inputs, pretrain_spec
from meditron_cli.plan.layout import BatchLayout
from meditron_cli.plan.model import Lead
from meditron_cli.plan.step_times import step_seconds

from ...metric_lines import save, step
from ...plans import GOLDEN, PYTHON, plan_of, profile_of

LONG = "pretrain.phases=[{from_tokens: 40000000000, sequence_length: 16384}]"
"""From step 19,075 on."""


def inputs_of(
    cluster: str, size: str, *overrides: str, measured: MetricsSummary | None = None
) -> Inputs:
    loaded = load(str(profile_of(cluster)), size, GOLDEN / "experiment.yaml", list(overrides))
    return Inputs(loaded.experiment, loaded.cluster, size, "0" * 64, PYTHON, measured)


def computed_step(spec: PretrainSpec, length: int) -> float:
    model = replace(spec.model, seq_length=length)
    batch = BatchLayout(spec.micro_batch_size, spec.global_batch_size, spec.parallel.data)
    node = load_cluster(str(profile_of("rcp"))).gpu_partition.node
    seconds = step_seconds(model, spec.parallel, batch, "bf16", node)
    assert seconds
    return seconds


def test_an_estimated_lead_has_room_for_the_longest_step() -> None:
    spec = pretrain_spec(inputs_of("rcp", "70b", LONG))

    short, long = plan_of("rcp", "70b").training_lead, plan_of("rcp", "70b", LONG).training_lead

    assert short.times.step_seconds == computed_step(spec, 4096)
    assert long.times.step_seconds == computed_step(spec, 16384)
    assert long.seconds - short.seconds == pytest.approx(
        computed_step(spec, 16384) - computed_step(spec, 4096), abs=1
    )


def measured_lead(*numbers: int, seconds: float) -> Lead:
    """Return the lead of a run in which these steps took so long, and saves 100 seconds."""
    measured = MetricsSummary()
    measured.add(step(number, seconds=seconds) for number in numbers)
    measured.add([save(1, seconds=100.0)])
    return inputs_of("rcp", "70b", LONG, measured=measured).training_lead


def test_a_lead_measured_before_the_longest_phase_has_room_for_its_steps() -> None:
    """By operations, of which causal attention computes only half: no less than is computed."""
    spec = pretrain_spec(inputs_of("rcp", "70b", LONG))

    lead = measured_lead(1, 2, 3, seconds=10.0)

    assert lead.source == "measured"
    assert lead.times.step_seconds
    ratio = computed_step(spec, 16384) / computed_step(spec, 4096)
    assert ratio <= lead.times.step_seconds / 10.0 <= 1.2 * ratio
    assert lead.seconds == 150 + math.ceil(lead.times.step_seconds) + 60 + 30


def test_a_lead_measured_in_the_longest_phase_stays_as_it_is() -> None:
    assert measured_lead(19_075, 19_076, seconds=44.2).times.step_seconds == 44.2


def test_a_step_after_the_longest_phase_counts_by_its_own_length() -> None:
    phases = (
        "pretrain.phases=[{from_tokens: 204800, sequence_length: 256},"
        " {from_tokens: 1024000, sequence_length: 128}]"
    )
    spec = pretrain_spec(inputs_of("test-slurm", "tiny", phases))

    assert spec.longest_over(101) == spec.longest_over(300) == 1.0
    assert spec.longest_over(100) == spec.longest_over(301) > 2.0


def test_the_save_interval_must_suit_the_longest_step() -> None:
    """Of 500 steps of 45 s a job of 24 hours has three times as many, of 200 s not one."""
    (sentence,) = [one for one in plan_of("rcp", "70b", LONG).warnings if "save_interval" in one]

    assert not [one for one in plan_of("rcp", "70b").warnings if "save_interval" in one]
    assert sentence.startswith("pretrain.save_interval = 500 is about 1,6")


def test_each_phase_has_its_step_and_the_whole_their_sum() -> None:
    plan = plan_of("rcp", "70b", LONG)
    stage = plan.stage("pretrain")
    spec = stage.tasks[0].training
    assert spec

    facts = summary.training(
        spec, load_cluster(str(profile_of("rcp"))), stage.resources, plan.training_lead
    )

    first, second = (computed_step(spec, length) for length in (4096, 16384))
    assert [one["step"]["seconds"] for one in facts["phase_steps"]] == [first, second]
    assert (facts["step"]["seconds"], facts["step_seconds"]) == (first, second)
    assert facts["seconds"] == pytest.approx(19_074 * first + (23_000 - 19_074) * second)
    assert facts["gpu_hours"] == pytest.approx(facts["seconds"] * 128 / 3600)
    assert facts["mfu"] < facts["phase_steps"][1]["mfu"] < 1
    assert facts["best_save_interval"] < 200
    phases = [{"sequence_length": length} for length in (4096, 16384)]
    assert " s with sequences of 4096 tokens, " in summary.step_line({**facts, "phases": phases})
    assert " h of the longest sequences; every " in summary.saves_line({**facts, "phases": phases})


def test_a_proposed_layout_divides_and_fits_in_every_phase() -> None:
    """Tensor parallelism of 4 divides sequences of 2,048, not those of 2,050, and 2 both."""
    odd = "pretrain.phases=[{from_tokens: 1000000, sequence_length: 2050}]"
    sizes = ("parallel.tensor=4", "parallel.data=3")

    with pytest.raises(ConfigError) as short:
        plan_of("site-pyxis", "7b", *sizes)
    with pytest.raises(ConfigError) as long:
        plan_of("site-pyxis", "7b", *sizes, odd)

    assert "parallel.tensor=4 " in str(short.value.hint)
    assert "pretrain.phases.0.sequence_length = 2050 is not divisible" in long.value.message
    assert "parallel.tensor=2 " in str(long.value.hint)


def test_a_proposed_layout_has_memory_for_the_longest_phase() -> None:
    very = "pretrain.phases=[{from_tokens: 40000000000, sequence_length: 65536}]"
    wrong = "parallel.data=3"

    assert build.layout_hint(inputs_of("rcp", "70b", wrong))
    assert build.layout_hint(inputs_of("rcp", "70b", wrong, very)) == ""


TAIL = "{from_tokens: 819200, tail: {learning_rate: %s}}"
MORE = "{from_tokens: 1024000, train_steps: 600%s}"


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ((), ""),
        ((f"pretrain.phases=[{TAIL % 0}]",), ""),
        ((f"pretrain.phases=[{TAIL % 0}, {MORE % ''}]",), "501 to 600"),
        ((f"pretrain.phases=[{TAIL % '1e-5'}, {MORE % ''}]",), ""),
        ((f"pretrain.phases=[{TAIL % 0}, {MORE % ', tail: {learning_rate: 0}'}]",), "501 to 600"),
        ((f"pretrain.phases=[{TAIL % 0}, {MORE % ', tail: {learning_rate: 1e-4}'}]",), ""),
        (("pretrain.min_learning_rate=0", "pretrain.decay_steps=400"), "401 to 500"),
        (("pretrain.min_learning_rate=0", f"pretrain.phases=[{TAIL % '1e-5'}]"), ""),
        (("pretrain.min_learning_rate=0", f"pretrain.phases=[{MORE % ''}]"), "501 to 600"),
    ],
)
def test_steps_without_a_learning_rate_are_warned_of(settings: tuple[str, ...], steps: str) -> None:
    """The recipe ``tiny`` has 500 steps of 16 x 128 tokens; its cosine ends with them."""
    warnings = [one for one in plan_of("test-slurm", "tiny", *settings).warnings if "rate" in one]

    assert [one.split(" have ")[0] for one in warnings] == ([f"steps {steps}"] if steps else [])
