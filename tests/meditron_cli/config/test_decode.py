"""Whole messages: place, key, what is wrong, what to write instead."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from meditron_cli.config import yaml_tree
from meditron_cli.config.cluster_schema import Cluster
from meditron_cli.config.decode import check_part, decode
from meditron_cli.config.diagnostics import Problems, Source
from meditron_cli.config.experiment_schema import Experiment
from meditron_cli.config.section import Section, section_in

MODEL = """\
model: {layers: 2, hidden_size: 64, ffn_hidden_size: 176, attention_heads: 4, kv_heads: 2,
  seq_length: 32, vocab_size: 100}
"""
PRETRAIN = """\
pretrain: {micro_batch_size: 2, global_batch_size: 8, train_steps: 100, learning_rate: 1e-3,
  min_learning_rate: 1e-4, warmup_steps: 10, save_interval: 25}
"""
WHOLE = MODEL + PRETRAIN
SITE = """\
name: site
scheduler: slurm
device: cuda
gpu_partition: {name: gpu, nodes: 2, node: {gpus: 4, cpus: 8, memory_gb: 32}}
"""


def read(model: type[Section], text: str) -> tuple[Section | None, list[str]]:
    problems = Problems()
    root = yaml_tree.parse(text, Source("experiment", "e.yaml", Path("/base")), problems)
    assert root is not None
    return decode(model, root, problems), problems.lines()


def errors(model: type[Section], start: str, text: str) -> list[str]:
    """Errors of a text below a good start, with lines counted from the text's own."""
    skipped = start.count("\n")
    found = read(model, start + text)[1]
    return [
        ":".join([line.split(":")[0], str(int(line.split(":")[1]) - skipped), *line.split(":")[2:]])
        for line in found
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lerning_rate: 1", "1:1: lerning_rate: unknown key; known here: name, seed, curate, "
         "tokenize, vocabulary, model, parallel, index, convert, pretrain, prepare, "
         "finetune, evaluate, verify, export, selftest, supervision, notify"),
        ("curate: {min_char: 1}", "1:10: curate.min_char: unknown key; did you mean 'min_chars'?"),
        ("warmup_steps: 1", "1:1: warmup_steps: unknown key here; did you mean "
         "'pretrain.warmup_steps'?"),
        ("<<: {a: 1}", "1:1: <<: unknown key; known here: name, seed, curate, tokenize, "
         "vocabulary, model, parallel, index, convert, pretrain, prepare, finetune, "
         "evaluate, verify, export, selftest, supervision, notify"),
        ("name: 1.10", '1:7: name: expected text, found the number 1.10; put it in quotes: "1.10"'),
        ("name: true", "1:7: name: expected text, found true; put it in quotes: \"true\""),
        ("name:", "1:6: name: expected text, found nothing"),
        ("name: Med", "1:7: name: expected up to 40 lower-case letters, digits and inner "
         "hyphens, found 'Med'"),
        ("seed: '8'", "1:7: seed: expected a whole number, found the text '8'; write it without "
         "quotes"),
        ("seed: 8.0", "1:7: seed: expected a whole number, found the number 8.0"),
        ("seed: 8.5", "1:7: seed: expected a whole number, found the number 8.5"),
        ("seed: true", "1:7: seed: expected a whole number, found true"),
        ("seed: 1_000", "1:7: seed: expected a whole number, found the text '1_000'"),
        ("seed: [1]", "1:7: seed: expected a whole number, found a list"),
        ("seed: {a: 1}", "1:7: seed: expected a whole number, found keys with values"),
        ("seed: 2147483648", "1:7: seed: must be below 2147483648, found 2147483648"),
        ("curate: {time_minutes: 9999-00:00:00}", "1:24: curate.time_minutes: must be at most "
         "527040, found 9999-00:00:00"),
        ("seed: -1", "1:7: seed: must be at least 0, found -1"),
        ("curate:", "1:8: curate: expected keys with values, found nothing"),
        ("curate: [1]", "1:9: curate: expected keys with values, found a list"),
        ("curate: {near_duplicates: 0.8}", "1:27: curate.near_duplicates: expected keys with "
         "values, found the number 0.8; its keys: similarity, words"),
        ("curate: {sources: a.jsonl}", "1:19: curate.sources: expected a list, found the text "
         "'a.jsonl'; write [a.jsonl]"),
        ("curate: {sources: [1]}", "1:20: curate.sources[0]: expected text, found the number 1; "
         'put it in quotes: "1"'),
        ("curate: {sources: ['']}", "1:20: curate.sources[0]: empty; write a path"),
        ("curate: {sources: [$HOME/a]}", "1:20: curate.sources[0]: variables are not replaced in "
         "paths; write the path out"),
        ("curate: {on_bad_record: skp}", "1:25: curate.on_bad_record: expected one of fail, skip, "
         "found 'skp'; did you mean 'skip'?"),
        ("curate: {validation_fraction: 1}", "1:31: curate.validation_fraction: must be below 1, "
         "found 1"),
        ("curate: {validation_fraction: .nan}", "1:31: curate.validation_fraction: must be a "
         "finite number, found .nan"),
        ("curate: {time_minutes: a day}", "1:24: curate.time_minutes: not a duration; write "
         "24:00:00, 2-00:00:00 or a number of minutes, found 'a day'"),
        ("curate: {time_minutes: 1.5}", "1:24: curate.time_minutes: not a duration; write "
         "24:00:00, 2-00:00:00 or a number of minutes, found '1.5'"),
        ("curate: {time_minutes: 00:00:00}", "1:24: curate.time_minutes: must be above 0, found "
         "00:00:00"),
        ("tokenize: {special_tokens_in_text: no}", "1:36: tokenize.special_tokens_in_text: "
         "expected true or false, found the text 'no'; write false"),
        ("tokenize: {special_tokens_in_text: 1}", "1:36: tokenize.special_tokens_in_text: "
         "expected true or false, found the number 1"),
        ("vocabulary: {added_tokens: ['[a]', '[a]']}", "1:36: vocabulary.added_tokens[1]: '[a]' is "
         "listed twice"),
        ("vocabulary: {added_tokens: ['']}", "1:29: vocabulary.added_tokens[0]: expected at least "
         "one character, all printable, found ''"),
        ("vocabulary: {control_tokens: [<CLS>]}", "1:30: vocabulary.control_tokens: not among "
         "added_tokens: <CLS>"),
        ("vocabulary: {eos_token: <end>, added_tokens: [<end>]}", "1:25: vocabulary.eos_token: "
         "'<end>' is an added token that texts may contain; list it in control_tokens too"),
        ("vocabulary: {eod_token: ''}", "1:25: vocabulary.eod_token: expected at least one "
         "character, all printable, found ''"),
        ("vocabulary: {new_rows: copy}", "1:24: vocabulary.new_rows: expected repeat-last-row, "
         "mean or copy:TOKEN, found 'copy'"),
        ("vocabulary: {new_rows: 'copy:[a]', added_tokens: ['[a]']}", "1:24: vocabulary.new_rows: "
         "'[a]' is an added token itself; copy one of the base model"),
        ("curate: {sources: ['hf://datasets/med/corpus']}", "1:20: curate.sources[0]: expected a "
         "path, or hf://datasets/ORG/NAME/PATH with @REVISION after NAME for one revision, found "
         "'hf://datasets/med/corpus'"),
        ("evaluate: {benchmarks: [{name: a, path: 'hf://datasets/o/n/../x'}]}",
         "1:41: evaluate.benchmarks[0].path: expected a path, or hf://datasets/ORG/NAME/PATH with "
         "@REVISION after NAME for one revision, found 'hf://datasets/o/n/../x'"),
        ("evaluate: {benchmarks: [{name: a}]}", "1:25: evaluate.benchmarks[0].path: missing"),
        ("evaluate: {benchmarks: [{name: a, path: x}, {name: a, path: y}]}", "1:52: "
         "evaluate.benchmarks[1].name: a benchmark before this one is named 'a' too"),
        ("evaluate: {benchmarks: [{name: a, path: x, kind: medqa, first_answer: 0}]}", "1:71: "
         "evaluate.benchmarks[0].first_answer: it is a setting of medmcqa, not of medqa"),
        ("evaluate: {benchmarks: [{name: a, path: x, subjects: [b]}]}", "1:54: "
         "evaluate.benchmarks[0].subjects: mcq has no subjects, mmlu, truthfulqa, mmlu_pro, "
         "headqa, med_concepts_qa have"),
        ("evaluate: {benchmarks: [{name: a, path: x, modes: [top-token, top-token]}]}", "1:51: "
         "evaluate.benchmarks[0].modes: a mode is listed twice"),
        ("evaluate: {benchmarks: [{name: a, path: x, modes: [harness]}]}", "1:51: "
         "evaluate.benchmarks[0].modes: lm-eval has no task for benchmarks of kind mcq; "
         "remove harness"),
        ("evaluate: {seeds: [], benchmarks: [{name: a, path: x, shots: 1}]}", "1:19: "
         "evaluate.seeds: a benchmark has shots, whose worked examples are drawn with a seed"),
        ("evaluate: {seeds: [1, 1]}", "1:19: evaluate.seeds: a seed is listed twice"),
        ("evaluate: {checkpoints: [frist]}", "1:26: evaluate.checkpoints[0]: expected first, last, "
         "kept or a step number, found 'frist'"),
        ("export: {step: -1}", "1:16: export.step[0]: expected first, last, "
         "kept or a step number, found '-1'"),
        ("evaluate: {checkpoints: [kept]}", "1:26: evaluate.checkpoints[0]: pretrain.keep_steps "
         "lists no step of this training"),
        ("evaluate: {checkpoints: [last, 50, last]}", "1:36: evaluate.checkpoints[2]: last is "
         "listed twice"),
        ("evaluate: {benchmarks: [{name: a, path: a.jsonl, modes: []}]}", "1:57: "
         "evaluate.benchmarks[0].modes: names no mode, and nothing would be scored; remove the "
         "benchmark"),
        ("evaluate: {checkpoints: [60]}", "1:26: evaluate.checkpoints[0]: no checkpoint of step 60 "
         "is kept; pretrain.save_interval, keep_checkpoints and keep_steps keep those of "
         "steps 0, 25, 50, 75, 100"),
    ],
)  # fmt: skip
def test_an_experiment_error_has_where_what_and_what_instead(text: str, message: str) -> None:
    assert errors(Experiment, WHOLE, text + "\n") == [f"e.yaml:{message}"]


def test_a_model_that_began_with_random_weights_reads_no_longer_texts_than_in_training() -> None:
    text = MODEL.replace("layers", "weights: random, layers") + "evaluate: {seq_length: 33}"

    (found,) = errors(Experiment, PRETRAIN, text + "\n")

    assert found.endswith(
        "evaluate.seq_length: 33 is more than the 32 tokens of the longest sequence in training"
    )
    assert not errors(Experiment, PRETRAIN, text.replace("random", "/weights") + "\n")


@pytest.mark.parametrize(("model", "refused"), [("own", False), ("''", True)])
def test_finetuned_models_alone_may_read_what_finetuning_reads(model: str, refused: bool) -> None:
    text = MODEL.replace("layers", "weights: random, layers") + (
        "finetune: {sequence_length: 64, models: [{name: own, items: 1, data: [{path: t}]}]}\n"
        "evaluate: {seq_length: 64, benchmarks: [{name: a, path: a.jsonl, model: own}, {name: b, "
        f"path: b.jsonl, model: {model}}}]}}\n"
    )

    found = errors(Experiment, PRETRAIN, text)

    assert [one for one in found if "evaluate.seq_length: 64 is more" in one] == found
    assert bool(found) == refused


def test_added_tokens_must_leave_a_base() -> None:
    text = MODEL.replace("vocab_size: 100", "vocab_size: 2") + "vocabulary: {added_tokens: [a, b]}"

    (found,) = errors(Experiment, PRETRAIN, text + "\n")

    assert found.endswith("model.vocab_size: 2 leaves no base beside 2 added tokens")
    text = MODEL + "vocabulary: {added_tokens: [a], unused_rows: 100}"
    (found,) = errors(Experiment, PRETRAIN, text + "\n")
    assert found.endswith(
        "model.vocab_size: 100 leaves no base beside 1 added token and 100 unused rows"
    )


@pytest.mark.parametrize(
    ("hidden", "heads", "groups", "message"),
    [
        (65, 4, 2, "4:20: model.attention_heads: 4 does not divide hidden_size, 65"),
        (
            12,
            4,
            2,
            "4:20: model.attention_heads: a head would be 3 wide; RoPE needs an even width",
        ),
        (64, 4, 3, "5:13: model.kv_heads: 3 does not divide attention_heads, 4"),
    ],
)
def test_heads_must_share_the_width(hidden: int, heads: int, groups: int, message: str) -> None:
    text = (
        "model:\n"
        "  {layers: 2, ffn_hidden_size: 9, seq_length: 9, vocab_size: 9,\n"
        f"  hidden_size: {hidden},\n"
        f"  attention_heads: {heads},\n"
        f"  kv_heads: {groups}}}\n"
    )

    assert errors(Experiment, PRETRAIN, text) == [f"e.yaml:{message}"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("head_dim: 15", "head_dim: a head would be 15 wide; RoPE needs an even width"),
        ("head_dim: 0", "head_dim: must be above 0, found 0"),
        ("rope_scaling: {factor: 0.5}", "rope_scaling.factor: must be at least 1, found 0.5"),
        ("rope_scaling: {low_freq_factor: 2}", "rope_scaling.factor: missing"),
        (
            "rope_scaling: {factor: 8, low_freq_factor: 4}",
            "rope_scaling.low_freq_factor: 4 is not below high_freq_factor, 4",
        ),
        (
            "rope_scaling: {factor: 8, high_freq_factor: 0}",
            "rope_scaling.high_freq_factor: must be above 0, found 0",
        ),
        (
            "rope_scaling: {factor: 8, original_max_position: 0}",
            "rope_scaling.original_max_position: must be above 0, found 0",
        ),
        (
            "qk_norm: true, post_norm: true",
            "qk_norm: post_norm normalises queries and keys as a whole; set one of the two",
        ),
        ("vocab_multiple: 0", "vocab_multiple: must be above 0, found 0"),
    ],
)
def test_settings_of_heads_and_rope_must_fit_together(settings: str, message: str) -> None:
    text = (
        "model: {layers: 2, hidden_size: 64, ffn_hidden_size: 9, attention_heads: 4, kv_heads: 2, "
        f"seq_length: 9, vocab_size: 9, {settings}}}\n"
    )

    (found,) = errors(Experiment, PRETRAIN, text)

    assert found.endswith(f": model.{message}")


def test_a_head_may_be_wider_than_its_share_of_the_width() -> None:
    text = (
        "model: {layers: 2, hidden_size: 66, ffn_hidden_size: 9, attention_heads: 4, kv_heads: 2, "
        "seq_length: 9, vocab_size: 9, head_dim: 32}\n"
    )

    assert errors(Experiment, PRETRAIN, text) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.layers", "1000000"),
        ("pretrain.train_steps", "1000000000000"),
        ("pretrain.learning_rate", "50"),
        ("pretrain.global_batch_size", "8000000"),
    ],
)
def test_an_absurd_number_is_refused(key: str, value: str) -> None:
    name = key.partition(".")[2]
    text = re.sub(rf"{name}: [^,}}]+", f"{name}: {value}", WHOLE)

    found = read(Experiment, text)[1]

    assert len(found) == 1
    assert f"{key}: must be at most " in found[0]


def with_skips(value: str) -> str:
    return WHOLE.replace("save_interval: 25", f"save_interval: 25, skip_steps: {value}")


def test_steps_to_skip_are_numbers_and_ranges_in_any_order() -> None:
    found, problems = read(Experiment, with_skips("[40, 7-9, 8-10, '5']"))
    assert problems == []
    assert isinstance(found, Experiment)
    assert found.pretrain.skip_steps == (5, 7, 8, 9, 10, 40)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[7, 0]", "skip_steps[1]: expected a step, counted from 1, or a range such as 1310-1330, "
         "found '0'"),
        ("[3-]", "or a range such as 1310-1330, found '3-'"),
        ("[true]", "or a range such as 1310-1330, found 'true'"),
        ("[9-7]", "expected a range of at most 100,000 steps in ascending order, found '9-7'"),
        ("[1-1000000000]", "at most 100,000 steps in ascending order, found '1-1000000000'"),
        ("[90-101]", "pretrain.skip_steps: 101 is above train_steps, 100"),
    ],
)  # fmt: skip
def test_what_is_no_step_to_skip_is_refused(value: str, message: str) -> None:
    (found,) = read(Experiment, with_skips(value))[1]
    assert message in found


def test_every_error_is_reported_at_once_in_order() -> None:
    text = (
        "sed: 1\nname: 5\n"
        + MODEL
        + (
            "pretrain:\n"
            "  micro_batch_size: 3\n"
            "  global_batch_size: 8\n"
            "  train_steps: 100\n"
            "  learning_rate: 1e-4\n"
            "  min_learning_rate: 1e-3\n"
            "  warmup_steps: 100\n"
            "  time_minutes: 10\n"
            "  micro_batch_size: 4\n"
            "  signal_lead_seconds: 600\n"
        )
    )

    assert read(Experiment, text)[1] == [
        "e.yaml:1:1: sed: unknown key; did you mean 'seed'?",
        'e.yaml:2:7: name: expected text, found the number 5; put it in quotes: "5"',
        "e.yaml:7:22: pretrain.global_batch_size: 8 is not a multiple of micro_batch_size, 3",
        "e.yaml:10:22: pretrain.min_learning_rate: 0.001 is above learning_rate, 0.0001",
        "e.yaml:11:17: pretrain.warmup_steps: 100 is not below train_steps, 100",
        "e.yaml:12:17: pretrain.time_minutes: 10 minutes must exceed signal_lead_seconds, 600",
        "e.yaml:13:3: pretrain.micro_batch_size: given twice; first at 6:3",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("account: my group", "1:10: account: expected one word of letters, digits and "
         "_./:@%+,=-, found 'my group'"),
        ("account: $(id)", "1:10: account: expected one word of letters, digits and "
         "_./:@%+,=-, found '$(id)'"),
        ("slurm: {sbatch: {mem: 3}}", "1:18: slurm.sbatch.mem: meditron sets this option itself, "
         "from node.memory_gb"),
        ("slurm: {sbatch: {--x: 3}}", "1:18: slurm.sbatch.--x: expected the long name of an sbatch "
         "option, without dashes in front"),
        ("slurm: {sbatch: {nice: true}}", "1:24: slurm.sbatch.nice: expected one word or an "
         "integer, found 'true'"),
        ("environment: {set: {HF_TOKEN: x}}", "1:21: environment.set.HF_TOKEN: looks like a "
         "secret; put it into the file that secrets_file names"),
        ("environment: {set: {A-B: x}}", "1:21: environment.set.A-B: not the name of an "
         "environment variable"),
        ("environment: {set: {OMP_NUM_THREADS: 1}}", "1:38: environment.set.OMP_NUM_THREADS: "
         'expected text, found the number 1; put it in quotes: "1"'),
        ('environment: {set: {A: "x\\ny"}}', "1:24: environment.set.A: expected one line of "
         "printable characters, found 'x\\ny'"),
        ("environment: {python: python3}", "1:23: environment.python: 'python3' is not an absolute "
         "path"),
        ("environment: {container: {kind: pyxis, image: a.sqsh}}", "1:47: "
         "environment.container.image: 'a.sqsh' is not an absolute path"),
        ("environment: {container: {kind: docker, image: /a}}", "1:33: environment.container.kind: "
         "expected one of pyxis, apptainer, found 'docker'"),
        ("environment: {stages: {generate: {}}}", "1:34: environment.stages.generate.python: name "
         "either an interpreter or a container"),
        ("environment: {stages: {generate: {python: serve}}}", "1:43: "
         "environment.stages.generate.python: 'serve' is not an absolute path"),
    ],
)  # fmt: skip
def test_a_profile_error_has_where_what_and_what_instead(text: str, message: str) -> None:
    assert errors(Cluster, SITE, text + "\n") == [f"e.yaml:{message}"]


def test_a_cuda_cluster_without_gpus_is_refused() -> None:
    text = SITE.replace("gpus: 4", "gpus: 0")

    assert read(Cluster, text)[1] == [
        "e.yaml:4:51: gpu_partition.node.gpus: device is cuda, but the nodes have no GPUs"
    ]


def test_pyxis_without_slurm_is_refused() -> None:
    text = SITE.replace("scheduler: slurm", "scheduler: local")
    container = "environment: {container: {kind: pyxis, image: /a.sqsh}}\n"

    assert errors(Cluster, text, container) == [
        "e.yaml:1:33: environment.container.kind: pyxis needs Slurm, and scheduler is local"
    ]


def test_pyxis_of_one_stage_without_slurm_is_refused() -> None:
    text = SITE.replace("scheduler: slurm", "scheduler: local")
    container = "environment: {stages: {generate: {container: {kind: pyxis, image: /a.sqsh}}}}\n"

    assert errors(Cluster, text, container) == [
        "e.yaml:1:53: environment.stages.generate.container.kind: pyxis needs Slurm, and scheduler "
        "is local"
    ]


def test_modules_without_slurm_are_refused() -> None:
    text = SITE.replace("scheduler: slurm", "scheduler: local")

    assert errors(Cluster, text, "environment: {modules: [gcc]}\n") == [
        "e.yaml:1:24: environment.modules: modules are loaded in Slurm's batch script, and "
        "scheduler is local; load them in the shell and name their variables in "
        "environment.pass_through"
    ]


def test_an_unknown_health_check_is_refused_with_the_known_ones() -> None:
    (found,) = errors(Cluster, SITE, "health_skip: [disk, foo]\n")

    assert found.startswith(
        "e.yaml:1:14: health_skip: unknown code 'foo'; known are clock_low, disk, driver, "
    )


@pytest.mark.parametrize("words", ["1:99:99", "1:60:00", "1-24", "90:60", "30\n", "-5"])
def test_a_duration_that_no_clock_shows_is_refused(words: str) -> None:
    found = errors(Experiment, WHOLE, f"curate: {{time_minutes: {json.dumps(words)}}}\n")

    assert len(found) == 1
    assert "curate.time_minutes: not a duration; write 24:00:00" in found[0]


ONE_LINE_WORDS = [
    (["account"], "site"),
    (["qos"], "site"),
    (["name"], "site"),
    (["gpu_partition", "name"], "gpu"),
    (["gpu_partition", "qos"], "gpu"),
    (["gpu_partition", "node", "gpu_type"], "a100"),
    (["slurm", "sbatch", "constraint"], "gpu"),
    (["slurm", "srun", 0], "--cpu-bind=none"),
    (["environment", "modules", 0], "gcc"),
    (["environment", "python"], "/usr/bin/python3"),
    (["environment", "pass_through", 0], "LANG"),
    (["environment", "container", "image"], "/a.sqsh"),
    (["environment", "container", "mounts", 0], "/a:/b"),
    (["environment", "container", "python"], "python3"),
]


def one_line_site() -> dict[str, Any]:
    site: dict[str, Any] = yaml.safe_load(SITE)
    site["slurm"] = {"sbatch": {}, "srun": [""]}
    container = {"kind": "pyxis", "image": "/a.sqsh", "mounts": [""]}
    site["environment"] = {"modules": [""], "pass_through": [""], "container": container}
    for keys, word in ONE_LINE_WORDS:
        put(site, keys, word)
    return site


def put(site: Any, keys: Sequence[str | int], value: object) -> None:
    for key in keys[:-1]:
        site = site[key]
    site[keys[-1]] = value


@pytest.mark.parametrize(("keys", "word"), ONE_LINE_WORDS)
def test_a_word_with_a_line_break_at_its_end_is_refused(
    keys: Sequence[str | int], word: str
) -> None:
    site = one_line_site()
    assert read(Cluster, json.dumps(site))[1] == []

    put(site, keys, word + "\n")

    assert len(read(Cluster, json.dumps(site))[1]) == 1


@pytest.mark.parametrize("section", [("environment", "set"), ("slurm", "sbatch")])
def test_a_key_with_a_line_break_at_its_end_is_refused(section: tuple[str, str]) -> None:
    site = one_line_site()

    site[section[0]][section[1]] = {"nice\n": "1"}

    assert len(read(Cluster, json.dumps(site))[1]) == 1


@pytest.mark.parametrize("key", ["name", "benchmark"])
def test_a_name_with_a_line_break_at_its_end_is_refused(key: str) -> None:
    benchmark = 'evaluate: {benchmarks: [{name: "a\\n", path: x}]}\n'
    text = 'name: "a\\n"\n' if key == "name" else benchmark

    assert len(read(Experiment, WHOLE + text)[1]) == 1


@pytest.mark.parametrize(
    "name",
    ["MYPASSWORD", "APIKEY", "GITHUB_PAT", "HF_TOKEN", "wandb_api_key", "DB_PASS", "HF_TOKEN\n",
     "AWS_SECRET_ACCESS_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "MYSQL_PWD", "ACCESSTOKEN"],
)  # fmt: skip
def test_a_variable_that_sounds_like_a_secret_is_refused(name: str) -> None:
    site = {**yaml.safe_load(SITE), "environment": {"set": {name: "x"}}}

    assert len(read(Cluster, json.dumps(site))[1]) == 1


@pytest.mark.parametrize(
    "name", ["TOKENIZERS_PARALLELISM", "PWD", "PATH", "PYTHONPATH", "NCCL_DEBUG", "KEYBOARD_MAP"]
)
def test_a_variable_that_only_resembles_a_secret_is_accepted(name: str) -> None:
    site = {**yaml.safe_load(SITE), "environment": {"set": {name: "x"}}}

    assert read(Cluster, json.dumps(site))[1] == []


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("24:00:00", 1440),
        ("2-00:00:00", 2880),
        ("1-12", 2160),
        ("1-12:30", 2190),
        ("30", 30),
        ("'30'", 30),
        ("30:00", 30),
        ("30:01", 31),
        ("00:00:01", 1),
    ],
)
def test_durations_take_the_forms_of_sbatch(text: str, minutes: int) -> None:
    found, problems = read(Experiment, WHOLE + f"curate: {{time_minutes: {text}}}\n")

    assert problems == []
    assert isinstance(found, Experiment)
    assert found.curate.time_minutes == minutes


def test_a_whole_number_serves_where_a_fraction_may_stand() -> None:
    found, problems = read(Experiment, WHOLE + "curate: {validation_fraction: 0}\n")

    assert problems == []
    assert isinstance(found, Experiment)
    assert isinstance(found.curate.validation_fraction, float)


def test_relative_paths_start_at_the_folder_of_their_file() -> None:
    text = (
        f"{WHOLE}curate: {{sources: [a, ../b, /c/./d]}}\ntokenize: {{tokenizer: t.json}}\n"
        "evaluate: {benchmarks: [{name: e, path: e.jsonl, train: f.jsonl}]}\n"
    )

    found, _ = read(Experiment, text)

    assert isinstance(found, Experiment)
    assert found.curate.sources == ("/base/a", "/b", "/c/d")
    assert found.tokenize.tokenizer == Path("/base/t.json")
    (benchmark,) = found.evaluate.benchmarks
    assert (benchmark.path, benchmark.train) == ("/base/e.jsonl", "/base/f.jsonl")


def test_a_tilde_is_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")

    found, _ = read(Cluster, SITE + "runs_dir: ~/runs\n")

    assert isinstance(found, Cluster)
    assert found.runs_dir == Path("/home/someone/runs")


def test_a_part_may_omit_keys_but_not_in_a_list() -> None:
    problems = Problems()
    text = "pretrain: {train_steps: 5}\nevaluate: {benchmarks: [{name: a}]}\n"
    root = yaml_tree.parse(text, Source("experiment", "e.yaml", Path("/base")), problems)
    assert root is not None

    check_part(Experiment, root, problems)

    assert problems.lines() == ["e.yaml:2:25: evaluate.benchmarks[0].path: missing"]


def every_section(model: type[Section]) -> list[type[Section]]:
    inside = [section_in(field.annotation) for field in model.model_fields.values()]
    return [model, *(found for section in inside if section for found in every_section(section))]


@pytest.mark.parametrize("section", {*every_section(Experiment), *every_section(Cluster)})
def test_every_section_is_strict_frozen_and_documented(section: type[Section]) -> None:
    config = section.model_config

    assert (config["extra"], config["frozen"], config["strict"]) == ("forbid", True, True)
    assert section.__doc__
    assert [name for name, field in section.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "corpora: [{name: corpus, data: [x]}]",
            "pretrain.corpora[0].name: the run's own corpus has the name 'corpus'",
        ),
        (
            "corpora: [{name: a, data: []}]",
            "pretrain.corpora[0].data: names no run and no indexed dataset",
        ),
        (
            "data: [x, y, x]",
            "x is named twice; its epochs would add up unseen",
        ),
        (
            "data: [x], corpora: [{name: a, data: [x]}]",
            "x is named twice; its epochs would add up unseen",
        ),
        (
            "corpora: [{name: a, validation_data: [x]}], mixture: {weights: {a: 1}}",
            "pretrain.mixture.weights.a: this corpus has no data to train on",
        ),
        (
            "mixture: {weights: {corpus: 1, pubmed: 2}}",
            "pretrain.mixture.weights.pubmed: no corpus has this name; there are corpus",
        ),
        (
            "phases: [{from_tokens: 5}]",
            "pretrain.phases[0].from_tokens: the phase changes nothing; give it one of",
        ),
        (
            "phases: [{from_tokens: 5, tail: {learning_rate: 0}}, {from_tokens: 5, tail: "
            "{learning_rate: 0}}]",
            "pretrain.phases[1].from_tokens: 5 is not above that of the phase before it",
        ),
        (
            "phases: [{from_tokens: 256, train_steps: 100}]",
            "pretrain.phases[0].train_steps: 100 is not above 100, the target before the phase",
        ),
        (
            "phases: [{from_tokens: 25600, train_steps: 101}, {from_tokens: 25856, tail: "
            "{learning_rate: 0}}]",
            "pretrain.phases[1].from_tokens: 25856 is after the last step begins, at 25600",
        ),
        (
            "phases: [{from_tokens: 256, sequence_length: 64}, {from_tokens: 50433, mixture: {}}]",
            "pretrain.phases[1].from_tokens: 50433 is after the last step begins, at 50432",
        ),
        (
            "phases: [{from_tokens: 5, tail: {learning_rate: 0.5}}]",
            "pretrain.phases[0].tail.learning_rate: 0.5 is above pretrain.learning_rate, the peak",
        ),
        (
            "skip_steps: [1-100]",
            "pretrain.skip_steps: all 100 steps are skipped, and none trains",
        ),
        (
            "phases: [{from_tokens: 25600, mixture: {}}]",
            "pretrain.phases[0].from_tokens: 25600 is after the last step begins, at 25344",
        ),
        (
            "phases: [{from_tokens: 25345, mixture: {}}]",
            "pretrain.phases[0].from_tokens: 25345 is after the last step begins, at 25344",
        ),
        (
            "phases: [{from_tokens: 5, mixture: {}}, {from_tokens: 6, mixture: {}}]",
            "pretrain.phases[1].from_tokens: 6 begins at the same step as the phase before it",
        ),
    ],
)
def test_a_mixture_or_a_phase_without_sense_has_where_and_why(setting: str, message: str) -> None:
    text = WHOLE.replace("save_interval: 25", f"save_interval: 25, {setting}")

    (problem,) = read(Experiment, text)[1]

    assert message in problem
