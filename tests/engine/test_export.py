"""Trained checkpoints, exported, compared with the engine by both versions of transformers."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
import signal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from safetensors.torch import load_file

from jobs.checkpoints import manifest
from jobs.contract import done_markers, specs
from jobs.contract.files import read_json, sha256, write_json
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import ExportSpec, VerifySpec
from jobs.conversion import export_folder

from .. import transformers_versions
from ..disks import mounted
from ..fork_server import ForkServer
from ..jobs.verification.pairs import spec_of, tokenizer_of
from ..ranks import PATIENCE
from ..task_specs import task_spec
from . import parity
from .conftest import Run, new_run, parallel_spec

pytestmark = pytest.mark.engine

PROMPTS = [[1, 2, 3, 4, 5, 6, 7, 8], [40, 41, 42, 43, 44, 45, 46, 47]]
CONTINUED = 8
"""Tokens of a greedy continuation."""

ENGINE = f"""
import json, sys
from pathlib import Path
import torch
from jobs.contract import specs
from jobs.contract.files import read_json
from jobs.engine import device
spec = specs.task_from_json(read_json(Path(sys.argv[1]) / "stages/pretrain/spec/00000.json")).spec
place = device.start("cpu", 0, 1, 0)
from jobs.engine import checkpoint, model
alone = model.ParallelSpec(1, 1, 1, False, False, "none")
model.start_parallel(alone, 1)
network = model.build(spec.model, alone, "fp32", place, for_inference=True)
checkpoint.load_weights(Path(sys.argv[2]), network)
tokens = torch.tensor({PROMPTS})
scores = model.logits(network, tokens)
for _ in range({CONTINUED}):
    best = model.logits(network, tokens)[:, -1:].argmax(-1)
    tokens = torch.cat([tokens, best], 1)
torch.save({{"logits": scores, "tokens": tokens[:, -{CONTINUED}:]}}, sys.argv[3])
device.end()
"""

TRANSFORMERS = f"""
import sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer
tokens, found = torch.tensor({PROMPTS}), {{}}
for name in sys.argv[3:]:
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    with torch.inference_mode():
        greedy = model.generate(tokens, max_new_tokens={CONTINUED}, min_new_tokens={CONTINUED},
                                do_sample=False, attention_mask=torch.ones_like(tokens))
        found[name] = {{"logits": model(tokens).logits, "tokens": greedy[:, -{CONTINUED}:]}}
torch.save(found, sys.argv[1])
exec(Path(sys.argv[2]).read_text())
"""
"""Saves logits and greedy continuations of folders, then runs the program of a card."""


def write_task(run: RunDir, **values: Any) -> None:
    """Write the spec of an export task."""
    rest = {
        "special_tokens_in_text": False,
        "dtype": "source",
        "shard_bytes": 1 << 16,
        "license": "llama2",
        "languages": ("en",),
        "output_dir": "export",
        "verify": VerifySpec(enabled=False, tokens=16),
    }
    task = task_spec("export", ExportSpec(**rest | values))
    write_json(run.spec("export", 0), specs.to_json(task))


@dataclasses.dataclass(frozen=True)
class Task:
    """A run directory around a model of ``pairs``, with an export task."""

    root: Path
    server: ForkServer

    @property
    def folder(self) -> Path:
        return self.root / "export"

    def start(self, code: str = "", *first: str) -> tuple[int, str]:
        """Run the task; return its exit code and what it printed."""
        log = self.root / f"export-{uuid4().hex}.log"
        words = (*first, "export", str(self.root), "0")
        rank = self.server.start(
            words, env=transformers_versions.OFFLINE, cwd=self.root, stdout=log, code=code
        )
        return rank.wait(timeout=PATIENCE), log.read_text()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tokens, fork_server):
    """Return a run trained with tensor, pipeline and data parallelism."""
    run = new_run(
        tmp_path_factory.mktemp("trained") / "run",
        tokens,
        fork_server,
        parallel=parallel_spec(tensor=2, pipeline=2),
    )
    run.finish()
    return run


@pytest.fixture(scope="module")
def exported(trained) -> Path:
    """Return the export of the trained run's last checkpoint."""
    tokenizer = dataclasses.replace(
        trained.spec.tokenizer, path=str(trained.root / "tokenizer.json")
    )
    write_task(
        trained.files,
        checkpoint="last",
        target_step=trained.spec.train_steps,
        checkpoint_dir="checkpoints",
        model=trained.spec.model,
        tokenizer=tokenizer,
    )
    code, output = Task(trained.root, trained.server).start()
    assert code == 0, output
    return trained.root / "export"


def engine_answers(run: Run) -> dict[str, torch.Tensor]:
    """Return logits and greedy continuations of the newest checkpoint by the engine."""
    path, _ = manifest.find_latest(run.root / "checkpoints")
    answers = run.root / "engine.pt"
    run.server.run(ENGINE, run.root, str(run.root), str(path), str(answers))
    return torch.load(answers, weights_only=True)


@pytest.fixture
def task(tmp_path, pairs, fork_server):
    """Make a run directory with an export task for a model of ``pairs``, by name.

    It reads a copy of the checkpoints: one that is killed leaves its lease there.
    """

    def make(name: str = "grown", **changes) -> Task:
        own = tmp_path / "checkpoints"
        shutil.copytree(pairs / name / "checkpoints", own, dirs_exist_ok=True)
        changes = {"checkpoint_dir": str(own), **changes}
        return new_task(tmp_path / "run", pairs, fork_server, name, **changes)

    return make


def new_task(root: Path, pairs: Path, server: ForkServer, name: str, **changes) -> Task:
    values = {
        "checkpoint": "first",
        "target_step": 4,
        "checkpoint_dir": str(pairs / name / "checkpoints"),
        "model": spec_of(name),
        "tokenizer": tokenizer_of(pairs, name),
        **changes,
    }
    root.mkdir(exist_ok=True)
    write_task(RunDir(root), **values)
    return Task(root, server)


@pytest.fixture(scope="module")
def families(tmp_path_factory, pairs, fork_server) -> dict[str, Path]:
    """Return the export of step 0 of each kind of model, by name."""
    root, found = tmp_path_factory.mktemp("families"), {}
    for name in (*parity.MODELS, "grown"):
        task = new_task(root / name.replace(" ", "-"), pairs, fork_server, name)
        code, output = task.start()
        assert code == 0, output
        found[name] = task.folder
    return found


@dataclasses.dataclass(frozen=True)
class Answers:
    """The output of both versions of transformers."""

    found: dict[str, dict[str, dict[str, torch.Tensor]]]
    """By version and folder: ``logits`` and ``tokens``."""
    printed: dict[str, str]
    """By version: by the program of a card."""


@pytest.fixture(scope="module")
def answers(tmp_path_factory, exported, families, pairs) -> Answers:
    """Return the answers of every export, and in version 5 those of the sources."""
    root = tmp_path_factory.mktemp("answers")
    card = (families["grown"] / export_folder.CARD).read_text()
    (program,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    folder = str(families["grown"])
    (root / "card.py").write_text(program.replace('folder = "."', f"folder = {folder!r}"))
    folders = [str(path) for path in (exported, *families.values())]
    sources = [str(pairs / name / "hf") for name in families]
    found, printed = {}, {}
    for version in transformers_versions.VERSIONS:
        path, more = root / f"{version}.pt", sources if version == "5" else []
        printed[version] = transformers_versions.run(
            version, TRANSFORMERS, str(path), str(root / "card.py"), *folders, *more
        )
        found[version] = torch.load(path, weights_only=True)
    return Answers(found, printed)


def test_an_export_of_a_training_computes_what_the_engine_computes(trained, exported, answers):
    expected = engine_answers(trained)

    for version, found in answers.found.items():
        mine = found[str(exported)]
        assert torch.allclose(mine["logits"], expected["logits"], rtol=0, atol=1e-4), version
        assert torch.equal(mine["tokens"], expected["tokens"]), version
    assert expected["tokens"].unique().numel() > 4


def test_every_family_computes_in_both_versions_what_its_source_computes(families, pairs, answers):
    for name, folder in families.items():
        expected = answers.found["5"][str(pairs / name / "hf")]["logits"]
        for version, found in answers.found.items():
            mine = found[str(folder)]["logits"][..., : expected.shape[-1]]
            assert torch.allclose(mine, expected, rtol=0, atol=1e-4), (name, version)
        config = json.loads((folder / "config.json").read_text())
        assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
        assert config["dtype"] == config["torch_dtype"] == "float32"


def test_the_program_of_the_card_prints_a_continuation(answers):
    """The answer ends at the first line break, as on the card."""
    for version, printed in answers.printed.items():
        assert printed.strip(), version
        assert printed.count("\n") == 1, version
    assert answers.printed["5"] == answers.printed["4.57"]


def test_the_card_names_a_tokenizer_that_transformers_replaces(families):
    for name, folder in families.items():
        card = (folder / export_folder.CARD).read_text()
        replaced = name == "qwen 2"  # with the tokenizer of bytes, not Qwen's
        assert ("from transformers import AutoModelForCausalLM, AutoTokenizer" in card) != replaced
        assert ("replaces the tokenizer's `normalizer`" in card) == replaced, name


def test_the_tensors_of_a_base_model_come_back_bit_for_bit(families, pairs):
    for name, folder in families.items():
        theirs, ours = load_file(pairs / name / "hf/model.safetensors"), {}
        for path in folder.glob("*.safetensors"):
            ours |= load_file(path)
        assert ours.keys() == theirs.keys(), name
        for key, value in theirs.items():
            assert ours[key].dtype == value.dtype
            assert torch.equal(ours[key][: len(value)], value), (name, key)
        rows = ours["model.embed_tokens.weight"]
        assert len(rows) == spec_of(name).vocab_size  # added tokens, no padding


def test_the_tokens_with_a_role_are_those_of_the_training(families):
    config, generation = (
        json.loads((families["grown"] / name).read_text())
        for name in ("config.json", "generation_config.json")
    )

    assert config["bos_token_id"] is generation["bos_token_id"] is None
    assert config["eos_token_id"] == generation["eos_token_id"] == 256
    assert generation["pad_token_id"] == 256
    assert config["pad_token_id"] is None  # the embedding's row of EOS keeps its gradient


def test_the_record_lists_every_file_with_its_digest(families):
    folder = families["grown"]

    record = read_json(folder / export_folder.RECORD)

    assert record["files"].keys() == {
        path.name for path in folder.iterdir() if path.name != export_folder.RECORD
    }
    for name, entry in record["files"].items():
        path = folder / name
        assert entry == {"bytes": path.stat().st_size, "sha256": sha256(path)}
    assert (record["step"], record["run"]) == (0, "grown")
    assert record["origin"]["weights"] == "org/base"


def test_a_finished_export_is_done_until_a_file_of_weights_is_cut_short(task):
    made = task()
    code, output = made.start()
    assert code == 0, output
    run = RunDir(made.root)
    digest = specs.digest(specs.load_task(run, "export", 0).spec)

    (made.folder / export_folder.CARD).write_text("with figures of a verification")
    assert done_markers.is_done(run, "export", 0, digest)
    weights = next(made.folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    assert not done_markers.is_done(run, "export", 0, digest)
    progress = read_json(run.progress("export", 0))
    assert progress["done"] == progress["total"]


@pytest.mark.parametrize(("dtype", "kind"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_tensors_have_the_requested_type(task, pairs, dtype, kind):
    made = task("narrow", dtype=dtype)

    code, output = made.start()

    assert code == 0, output
    ours = {}
    for path in made.folder.glob("*.safetensors"):
        ours |= load_file(path)
    theirs = load_file(pairs / "narrow/hf/model.safetensors")  # in bfloat16
    assert {value.dtype for value in ours.values()} == {kind}
    assert all(torch.equal(ours[key], value.to(kind)) for key, value in theirs.items())


KILLED = """
import os, signal, sys
left, seen = int(sys.argv.pop(1)), 0
def count(event, arguments):
    global left
    writes = event == "open" and int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
    if event == "os.rename" or (writes and "export" in str(arguments[0])):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
from jobs.__main__ import main
sys.exit(main())
"""


def test_an_export_killed_at_random_moments_leaves_none_or_a_whole_one(task):
    made = task(shard_bytes=1 << 14)
    random.seed(9)
    step = 0
    code = -signal.SIGKILL
    while code == -signal.SIGKILL:
        step += random.randrange(1, 8)
        code, output = made.start(KILLED, str(step))
        if made.folder.exists():
            record = read_json(made.folder / export_folder.RECORD)
            assert all(
                (made.folder / name).stat().st_size == entry["bytes"]
                for name, entry in record["files"].items()
            )
    assert code == 0, output
    assert step > 20
    hidden = [path.name for path in made.root.iterdir() if path.name.startswith(".export")]
    assert hidden == []


def test_an_older_export_is_replaced_and_a_folder_of_somebody_else_is_not(task):
    made = task()
    assert made.start()[0] == 0
    older = read_json(made.folder / export_folder.RECORD)["spec"]
    made = task(checkpoint="4")
    assert made.start()[0] == 0
    assert read_json(made.folder / export_folder.RECORD)["spec"] != older

    (made.folder / "notes.txt").write_text("mine")
    code, output = made.start()

    assert code == 2
    assert output.splitlines()[-2:] == [
        f"export: {made.folder}: notes.txt in it was not written by an export",
        f"hint: `mv {made.folder} {made.folder}.old`, then "
        + RunDir(made.root).hint("{meditron resume}"),
    ]
    assert (made.folder / "notes.txt").read_text() == "mine"


REFUSED = [
    ({"checkpoint": "last", "target_step": 8}, "training is at step 4 of 8; no unfinished model"),
    ({"checkpoint": "3"}, "no valid checkpoint of step 3; the newest is of step 4"),
    ({"model": spec_of("qwen 3")}, "its model has another architecture than this run's"),
]


@pytest.mark.parametrize(("changes", "problem"), REFUSED)
def test_what_cannot_be_exported_is_refused_and_nothing_remains(task, changes, problem):
    made = task(**changes)

    code, output = made.start()

    assert code == 2
    assert problem in output.splitlines()[-2]
    assert output.splitlines()[-1].startswith("hint: ")
    assert [path.name for path in made.root.iterdir() if "export" in path.name.split("-")[0]] == [
        path.name for path in made.root.glob("export-*.log")
    ]


def test_another_registry_or_tokenizer_than_the_checkpoint_s_is_refused(task, pairs):
    own = tokenizer_of(pairs, "grown")
    registry = dataclasses.replace(own.vocabulary, new_rows="mean")
    others = {
        "its added tokens, their roles or their first rows differ": {"vocabulary": registry},
        "the tokenizer has changed since the run was made": {"sha256": "0" * 64},
    }

    for problem, changes in others.items():
        code, output = task(tokenizer=dataclasses.replace(own, **changes)).start()

        assert code == 2
        assert problem in output


def test_a_changed_byte_of_the_checkpoint_ends_the_export(task, tmp_path):
    made = task()
    shards = list(tmp_path.glob("checkpoints/iter_0000000/*.distcp"))
    for shard in shards:
        content = bytearray(shard.read_bytes())
        content[::500] = bytes(byte ^ 1 for byte in content[::500])  # in each item
        shard.write_bytes(content)

    code, output = made.start()

    assert code == 2
    assert ".distcp has the right size, but its content has changed" in output
    assert not made.folder.exists()
    assert not (made.root / ".export.part").exists()


def test_too_little_space_is_noticed_before_the_first_byte(task, tmp_path):
    with mounted(tmp_path / "run", "8m"):
        made = task()

        code, output = made.start()

        assert code == 2
        assert "the export takes 64 MiB, " in output
        assert not (made.root / ".export.part").exists()


def test_an_export_requested_to_stop_leaves_nothing(task):
    made = task()
    stopping = "import os, signal, sys\nfrom jobs.stages import export\n" + KILLED.replace(
        "SIGKILL", "SIGTERM"
    )

    code, output = made.start(stopping, "3")

    assert code == 130, output
    assert "export: stop requested; the export starts from scratch in the next attempt" in output
    assert not made.folder.exists()
    assert not (made.root / ".export.part").exists()


def test_the_checkpoint_is_leased_while_it_is_exported(task, tmp_path):
    task().start(KILLED, "6")

    leases = tmp_path.glob("checkpoints/leases/*")
    assert [path.name.partition(".")[0] for path in leases] == ["iter_0000000"]


def test_an_export_has_the_figures_of_its_verification(tmp_path, pairs, fork_server):
    """A checkpoint in float32 is exported in bfloat16: both are compared with rounded weights."""
    changes = {"checkpoint": "4", "dtype": "bf16", "verify": VerifySpec(True, 16)}
    task = new_task(tmp_path / "run", pairs, fork_server, "grown", **changes)

    code, output = task.start()

    result = read_json(task.folder / "verification.json")
    recorded = read_json(task.root / "verification/export-4.json")
    card = (task.folder / "README.md").read_text()
    assert (code, output) == (0, "")
    assert result["problems"] == []
    assert result["rounded_to"] == ["bfloat16"]
    assert result["rows"] == 260
    assert result["added_rows"] is None
    assert result["generation"]["rates"].keys() == {"weights", "checkpoint", "base"}
    assert recorded["weights"] == str(task.folder)
    assert (result["weights"], result["checkpoint"]) == (".", "run/iter_0000004")
    assert "compared on a CPU: both compute the same. `meditron verify ./ run:4 " in card
    assert "| largest difference of a logit |" in card
    assert "| rate | weights | checkpoint | base |" in card
    assert "| 4-grams of the prompt |" in card
    assert "| tensors that differ | 0 |" in card
    assert "Not verified yet" not in card
    assert task.start()[0] == 0  # its own files are no reason not to replace it
