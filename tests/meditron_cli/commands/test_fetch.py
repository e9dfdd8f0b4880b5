"""`meditron fetch` against a hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobs.contract.base_folder import RECORD, commit_of, read_fetched
from meditron_cli.config import weights
from meditron_cli.config.weights import HubName
from meditron_cli.main import main
from meditron_cli.services import Services

from ...disks import fill, mounted
from ...hub_server import CHUNK, FakeHub, running
from ...ranks import PATIENCE, wait_until

ROOT = Path(__file__).parents[3]
NAME = "org/base"
SHARD = "model-00001-of-00002.safetensors"
INDEX = {"weight_map": {"a": SHARD, "b": "model-00002-of-00002.safetensors"}}
FILES = {
    "config.json": b"{}",
    SHARD: random.Random(1).randbytes(600_000),
    "model-00002-of-00002.safetensors": random.Random(2).randbytes(300_000),
    "model.safetensors.index.json": json.dumps(INDEX).encode(),
    "tokenizer.json": b'{"model": {}}',
    "tokenizer.model": b"pieces",
    "LICENSE": b"terms",
}
BLOCK = 10 * 1024**2
"""Bytes that the hub's library hands on at once (constants.py, DOWNLOAD_CHUNK_SIZE)."""
LARGE = random.Random(3).randbytes(1 << 20) * 25
OTHERS = {
    "pytorch_model.bin": b"pickle",
    "original/consolidated.00.pth": b"pickle",
    "consolidated.safetensors": b"the same weights",
    "flax_model.msgpack": b"the same weights",
    "modeling.py": b"code",
    ".gitattributes": b"",
    "sub/config.json": b"{}",
}
PROFILE = """\
name: mine
scheduler: local
device: cpu
models_dir: models
data_dir: data
environment: {{secrets_file: {secrets}}}
gpu_partition: {{name: here, nodes: 1, node: {{cpus: 8, memory_gb: 64}}}}
"""
EXPERIMENT = """\
model: {weights: org/base}
"""


@dataclass
class Site:
    """A folder with a profile and an experiment, and a hub."""

    folder: Path
    hub: FakeHub

    @property
    def model(self) -> Path:
        return self.folder / "models/org/base"

    @property
    def staging(self) -> Path:
        return self.folder / "models/org/.base.fetching"

    @property
    def words(self) -> list[str]:
        return ["fetch", "--cluster", "./mine.yaml", "--size", "tiny"]

    def environ(self) -> dict[str, str]:
        return {
            "HF_ENDPOINT": self.hub.address,
            "HF_HUB_CACHE": str(self.folder / "cache"),
            "HF_HUB_DOWNLOAD_TIMEOUT": "3600",  # a process waits for an answer that is held
        }

    def fetch(self, *more: str) -> Result:
        """Run `meditron fetch` in this process."""
        services = Services(environ=self.environ())
        return CliRunner().invoke(main, [*self.words, *more], obj=services)

    def start(self, *more: str) -> subprocess.Popen[str]:
        """Start `meditron fetch` in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "meditron_cli", *self.words, *more],
            cwd=self.folder,
            env={**os.environ, **self.environ(), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def use_token(self, token: str) -> None:
        """Write a token into the secrets file of the profile."""
        secrets = self.folder / "secrets"
        secrets.write_text(f"HF_TOKEN={token}\n")
        secrets.chmod(0o600)
        (self.folder / "mine.yaml").write_text(PROFILE.format(secrets="secrets"))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(PROFILE.format(secrets="null"))
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT)
    with running() as hub:
        hub.add(NAME, {**FILES, **OTHERS})
        yield Site(tmp_path, hub)


def wait_until_arrived(part: Path) -> None:
    """Wait until the first block of a file is on disk, which follows its arrival at the client."""
    wait_until(lambda: part.exists() and part.stat().st_size >= BLOCK)


def content(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder, without the record."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != RECORD)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def errors(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith(("error", "hint"))]


def test_a_model_arrives_whole_with_its_record_and_without_pickles(site: Site) -> None:
    result = site.fetch()

    assert result.exit_code == 0, result.stderr
    assert content(site.model) == FILES
    record = json.loads((site.model / "fetched.json").read_text())
    commit = site.hub.repositories["model", NAME].commit
    assert (record["repository"], record["revision"], record["commit"]) == (NAME, "main", commit)
    assert {file["path"]: file["sha256"] for file in record["files"]} == {
        path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()
    }
    assert weights.find(NAME, site.folder / "models", site.environ()).folder == site.model
    fetched = read_fetched(site.model)
    assert fetched is not None
    assert (fetched.repository, fetched.revision, commit_of(site.model)) == (NAME, "main", commit)
    assert not site.staging.exists()
    assert site.hub.tokens == []


def test_what_is_there_is_not_downloaded_again(site: Site) -> None:
    site.fetch()
    before = len(site.hub.ranges)

    result = site.fetch("--json")

    (item,) = json.loads(result.stdout)["items"]
    assert (item["state"], item["path"], item["download_bytes"]) == ("present", str(site.model), 0)
    assert item["commit"] == site.hub.repositories["model", NAME].commit
    assert len(site.hub.ranges) == before


def test_a_dry_run_shows_what_is_missing_and_writes_nothing(site: Site) -> None:
    result = site.fetch("--dry-run", "--json")

    (item,) = json.loads(result.stdout)["items"]
    size = sum(map(len, FILES.values()))
    assert (item["name"], item["state"], item["files"]) == (NAME, "missing", len(FILES))
    assert (item["bytes"], item["download_bytes"]) == (size, size)
    assert not (site.folder / "models").exists()
    assert site.hub.ranges == []


def test_a_named_revision_has_a_folder_of_its_own(site: Site) -> None:
    site.hub.repositories["model", NAME].tags = ("v2",)

    result = site.fetch("--set", f"model.weights={NAME}@v2")

    assert result.exit_code == 0, result.stderr
    folder = site.folder / "models/org/base@v2"
    assert content(folder) == FILES
    assert json.loads((folder / "fetched.json").read_text())["revision"] == "v2"


@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_a_connection_that_breaks_is_opened_again_where_it_was(
    site: Site, ignores_ranges: bool
) -> None:
    site.hub.repositories["model", NAME].files[SHARD] = LARGE
    site.hub.faults.cut_after, site.hub.faults.cut = BLOCK + 1000, [SHARD]
    site.hub.faults.ignores_ranges = ignores_ranges

    result = site.fetch()

    assert result.exit_code == 0, result.stderr
    assert content(site.model) == {**FILES, SHARD: LARGE}
    assert (SHARD, f"bytes={BLOCK}-") in site.hub.ranges
    assert result.stderr.splitlines()[-1].endswith("verified; 100% in all")


def test_after_a_kill_the_next_fetch_continues_in_the_middle_of_a_file(site: Site) -> None:
    site.hub.repositories["model", NAME].files[SHARD] = LARGE
    faults = site.hub.faults
    faults.hold_after = 2 * BLOCK + CHUNK
    process = site.start()
    part = site.staging / f"{SHARD}.part"
    wait_until_arrived(part)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not site.model.exists()
    kept = part.stat().st_size
    assert kept >= BLOCK
    faults.go_on.set()
    site.hub.ranges.clear()

    result = site.fetch()

    assert result.exit_code == 0, result.stderr
    assert content(site.model) == {**FILES, SHARD: LARGE}
    assert [item for item in site.hub.ranges if item[0] == SHARD] == [(SHARD, f"bytes={kept}-")]


def test_ctrl_c_ends_a_fetch_while_the_network_hangs(site: Site) -> None:
    site.hub.faults.hold_after = 0
    process = site.start()
    assert site.hub.faults.holding.wait(PATIENCE)

    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE)

    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "interrupted"
    assert not site.model.exists()


def test_an_interrupted_fetch_continues_with_its_commit_after_the_branch_moved(site: Site) -> None:
    faults, repository = site.hub.faults, site.hub.repositories["model", NAME]
    faults.damaged = {SHARD}
    assert site.fetch().exit_code == 1
    first, faults.damaged = repository.commit, set()
    repository.tags, repository.commit = (first,), "d" * 40

    assert site.fetch().exit_code == 0
    assert json.loads((site.model / "fetched.json").read_text())["commit"] == first


def test_two_fetches_at_once_are_one_download(site: Site) -> None:
    site.hub.faults.hold_after = 0
    first = site.start()
    assert site.hub.faults.holding.wait(PATIENCE)

    second = site.fetch()

    assert second.exit_code == 1
    assert errors(second)[0] == (f"error: another process downloads {NAME} to {site.model}")
    site.hub.faults.go_on.set()
    _, stderr = first.communicate(timeout=PATIENCE)
    assert first.returncode == 0, stderr
    assert content(site.model) == FILES
    assert sum(path == SHARD for path, _ in site.hub.ranges) == 1


def test_a_damaged_file_is_refused_and_downloaded_again(site: Site) -> None:
    site.hub.faults.damaged = {SHARD}

    result = site.fetch()

    assert result.exit_code == 1
    assert errors(result)[0].startswith(
        f"error: {SHARD} of {NAME} arrived damaged: its SHA-256 is "
    )
    assert not site.model.exists()
    assert not (site.staging / f"{SHARD}.part").exists()
    site.hub.faults.damaged = set()
    assert site.fetch().exit_code == 0
    assert content(site.model) == FILES


def test_a_gated_model_without_a_token_is_refused_with_what_to_do(site: Site) -> None:
    site.hub.repositories["model", NAME].token = "good"

    result = site.fetch()

    assert result.exit_code == 2
    assert errors(result) == [
        f"error: {NAME} is gated: the hub gives it only to accounts that accepted its licence",
        f"hint: accept it at {site.hub.address}/{NAME}, then write HF_TOKEN=… into a file that "
        "environment.secrets_file of the profile names",
    ]


def test_a_gated_model_needs_the_token_of_an_account_with_access(site: Site) -> None:
    site.hub.repositories["model", NAME].token = "good"
    site.use_token("other")

    result = site.fetch()

    assert result.exit_code == 2
    assert errors(result)[0] == (
        f"error: {NAME} is gated, and the account of HF_TOKEN has no access to it"
    )


def test_the_token_of_the_secrets_file_goes_to_the_hub_alone(site: Site) -> None:
    site.hub.repositories["model", NAME].token = "s3cret"
    site.use_token("s3cret")

    result = site.fetch("--json")

    assert result.exit_code == 0, result.stderr
    assert content(site.model) == FILES
    assert {token for _, token in site.hub.tokens} == {"Bearer s3cret"}
    assert not [path for path, _ in site.hub.tokens if "/cdn/" in path]
    assert "s3cret" not in result.output
    assert "s3cret" not in (site.model / "fetched.json").read_text()


def test_a_secrets_file_that_others_may_read_is_refused(site: Site) -> None:
    site.use_token("s3cret")
    (site.folder / "secrets").chmod(0o644)

    result = site.fetch()

    assert result.exit_code == 2
    assert "others may read this secret" in errors(result)[0]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("org/none", "has no model org/none that a request without a token may see"),
        (f"{NAME}@v9", f"{NAME} has no revision v9"),
    ],
)
def test_a_name_that_the_hub_does_not_have_is_refused(site: Site, named: str, message: str) -> None:
    result = site.fetch("--set", f"model.weights={named}")

    assert result.exit_code == 2
    assert message in errors(result)[0]
    assert not list(site.folder.glob("models/org/*"))


def test_a_model_with_pickles_alone_is_refused(site: Site) -> None:
    site.hub.add(NAME, {"config.json": b"{}", "pytorch_model.bin": b"pickle"})

    result = site.fetch()

    assert result.exit_code == 2
    assert "has no safetensors; other formats are pickles, which could run code" in result.stderr


def test_without_network_the_way_to_copy_a_model_is_named(site: Site) -> None:
    site.hub.address = "http://127.0.0.1:9"

    result = site.fetch()

    assert result.exit_code == 1
    error, hint = errors(result)
    assert error.startswith(f"error: {NAME} cannot be downloaded from http://127.0.0.1:9: ")
    assert f"hf download {NAME}" in hint


def test_a_hub_that_fails_is_named_with_its_status(site: Site) -> None:
    site.hub.faults.broken = 503

    result = site.fetch()

    assert result.exit_code == 1
    assert errors(result)[0].endswith(": HTTP 503")


def test_too_little_space_is_refused_before_the_first_byte(site: Site) -> None:
    site.hub.add("org/huge", FILES).sizes = {SHARD: 1 << 62}

    result = site.fetch("--set", "model.weights=org/huge")

    assert result.exit_code == 2
    assert "org/huge needs 4,294,967,296." in errors(result)[0]
    assert " GiB are free" in errors(result)[0]
    assert site.hub.ranges == []


def test_the_hub_s_own_command_downloads_to_where_the_model_is_looked_up(site: Site) -> None:
    words = shlex.split(weights.download_command(HubName.parse(NAME), None))
    assert words.pop(0) == "hf"
    program = [sys.executable, "-m", "huggingface_hub.cli.hf"]

    subprocess.run(
        [*program, *words],
        env={**os.environ, **site.environ(), "HF_HOME": str(site.folder / "home")},
        check=True,
        capture_output=True,
    )

    folder = weights.find(NAME, None, site.environ()).folder
    assert folder is not None
    assert set(FILES) <= set(content(folder))
    assert not list(folder.glob("**/*.bin"))
    assert commit_of(folder) == site.hub.repositories["model", NAME].commit


def test_a_disk_that_fills_up_keeps_what_arrived(site: Site) -> None:
    site.hub.repositories["model", NAME].files[SHARD] = LARGE
    site.hub.faults.hold_after = BLOCK + CHUNK
    with mounted(site.folder / "models", "40m") as disk:
        process = site.start()
        part = site.staging / f"{SHARD}.part"
        wait_until_arrived(part)
        ballast = fill(disk)
        site.hub.faults.go_on.set()
        _, stderr = process.communicate(timeout=PATIENCE)
        kept = part.stat().st_size
        ballast.unlink()

        again = site.fetch()

        assert process.returncode == 1
        assert (
            f"error: {site.model.parent}: No space left on device, during the download of {NAME}\n"
            "hint: free some space, then repeat the command, which continues the download\n"
        ) in stderr
        assert kept >= BLOCK
        assert again.exit_code == 0, again.stderr
        assert content(site.model) == {**FILES, SHARD: LARGE}


def test_without_the_hub_s_library_its_name_is_in_the_hint(site: Site) -> None:
    (site.folder / "huggingface_hub.py").write_text("raise ImportError")

    _, stderr = (process := site.start()).communicate(timeout=PATIENCE)

    assert process.returncode == 2
    assert stderr.splitlines() == [
        "error: downloads need the library huggingface_hub, which is not installed",
        "hint: `pip install huggingface_hub` installs it",
    ]


def test_without_models_dir_the_key_to_add_is_named(site: Site) -> None:
    text = PROFILE.format(secrets="null").replace("models_dir: models\n", "")
    (site.folder / "mine.yaml").write_text(text)

    result = site.fetch()

    assert result.exit_code == 2
    assert errors(result)[0] == (
        f"error: cluster mine: the profile has no models_dir to download {NAME} to"
    )


def test_a_folder_that_a_person_began_to_fill_is_left_alone(site: Site) -> None:
    site.model.mkdir(parents=True)
    (site.model / "config.json").write_text("mine")

    result = site.fetch()

    assert result.exit_code == 2
    assert errors(result) == [
        f"error: {site.model} exists, and is not the whole of {NAME}",
        f"hint: `mv {site.model} {site.model}.incomplete` moves it aside, then repeat the command",
    ]
    assert content(site.model) == {"config.json": b"mine"}


def test_random_weights_and_local_files_need_nothing(site: Site) -> None:
    result = site.fetch("--set", "model.weights=random")

    assert result.exit_code == 0
    assert "nothing to download" in result.stderr


BENCHMARKS = """\
model: {weights: random}
curate: {sources: ["hf://datasets/med/corpus/docs"]}
evaluate:
  benchmarks:
    - {name: one, path: "hf://datasets/med/quiz/test/a.jsonl"}
    - {name: two, path: "hf://datasets/med/quiz@v1/mmlu", kind: mmlu}
"""
QUIZ = {
    "README.md": b"about",
    "test/a.jsonl": b'{"id": "1"}\n',
    "mmlu/x_test.csv": b"q,a,b,c,d,A\n",
    "mmlu/x_dev.csv": b"q,a,b,c,d,B\n",
}


def test_documents_and_benchmarks_of_the_hub_arrive_in_data_dir_and_are_read_there(
    site: Site,
) -> None:
    (site.folder / "experiment.yaml").write_text(BENCHMARKS)
    site.hub.add("med/quiz", QUIZ, kind="dataset").tags = ("v1",)
    site.hub.add("med/corpus", {"docs/a.parquet": b"PAR1", "b.jsonl": b""}, kind="dataset")
    target = ("plan", "pipeline", "--cluster", "./mine.yaml", "--size", "tiny")
    before = CliRunner().invoke(main, target)
    one = site.folder / "data/med/quiz/test/a.jsonl"
    assert (
        f"hf://datasets/med/quiz/test/a.jsonl is not in data_dir: there is no {one}; download it "
        "on the login node with `meditron fetch --cluster ./mine.yaml --size tiny`" in before.stderr
    )

    result = site.fetch()

    assert result.exit_code == 0, result.stderr
    assert one.read_bytes() == QUIZ["test/a.jsonl"]
    two = site.folder / "data/med/quiz@v1/mmlu"
    assert sorted(path.name for path in two.iterdir()) == ["x_dev.csv", "x_test.csv"]
    record = json.loads((two.parent / ".mmlu.fetched.json").read_text())
    assert (record["repository"], record["revision"]) == ("med/quiz", "v1")
    documents = site.folder / "data/med/corpus/docs"
    assert [path.name for path in documents.iterdir()] == ["a.parquet"]
    assert "data_dir" not in CliRunner().invoke(main, target).stderr
    dry_run = CliRunner().invoke(main, ["submit", "pipeline", *target[2:], "--dry-run"])
    assert dry_run.exit_code == 0, dry_run.stderr
    again = json.loads(site.fetch("--json").stdout)["items"]
    assert [item["state"] for item in again] == ["present"] * 3


def test_a_file_that_a_data_set_lacks_is_refused_with_those_it_has(site: Site) -> None:
    (site.folder / "experiment.yaml").write_text(BENCHMARKS.replace("a.jsonl", "b.jsonl"))
    site.hub.add("med/quiz", QUIZ, kind="dataset").tags = ("v1",)
    site.hub.add("med/corpus", {"docs/a.parquet": b"PAR1"}, kind="dataset")

    result = site.fetch()

    assert result.exit_code == 2
    assert errors(result)[0] == "error: med/quiz has no test/b.jsonl"
    assert "mmlu/x_dev.csv" in errors(result)[1]
