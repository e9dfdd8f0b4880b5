"""`meditron tokenizer build`, from a SentencePiece file and from folders."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import AddedToken, Tokenizer, pre_tokenizers

from jobs.contract.files import sha256
from jobs.data.difficult_texts import DIFFICULT, difficult_texts
from jobs.data.sentencepiece_model import read_model, tokenizer_json

from ...conftest import Bench

SAMPLE = Path(__file__).parents[3] / "meditron_cli" / "sample" / "tokenizer.json"
PIECES = 600
ADDED = ("<EOD>", "<PAD>", "[fig]", "[/fig]")
CONTROL = ("<EOD>", "<PAD>")


@pytest.fixture(scope="session")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SentencePiece BPE with the settings of Llama 2's."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in DIFFICULT for line in text.split("\n") if line]),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.98,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("spm") / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return path


def words(size: int, *sources: Path | str, added: tuple[str, ...] = ADDED) -> list[str]:
    """Return the command for a base of so many tokens."""
    quoted = json.dumps(list(added))
    control = json.dumps([token for token in added if token in CONTROL])
    return [
        "tokenizer", "build", "--size", "tiny",
        "--set", f"model.vocab_size={size + len(added)}",
        "--set", f"vocabulary.added_tokens={quoted}",
        "--set", f"vocabulary.control_tokens={control}",
        *map(str, sources),
    ]  # fmt: skip


def test_a_sentencepiece_file_gets_the_tokens_at_their_ids(meditron: Bench, spm: Path) -> None:
    target = meditron.folder / "out" / "tokenizer.json"

    result = meditron(*words(PIECES, spm, "-o", target))

    assert result.exit_code == 0, result.output
    texts = difficult_texts(ADDED)
    assert result.stdout.startswith(
        f"{target}: 604 tokens, 4 of them added, SHA-256 {sha256(target)[:12]}\n"
        f"compared {len(texts)} texts of "
    )
    version = sentencepiece.__version__
    assert f" with sentencepiece {version} and tokenizer.model: identical ids" in result.stdout
    tokenizer = Tokenizer.from_file(str(target))
    assert [tokenizer.token_to_id(token) for token in ADDED] == [600, 601, 602, 603]
    special = {item.content: item.special for item in tokenizer.get_added_tokens_decoder().values()}
    assert [special[token] for token in ADDED] == [True, True, False, False]


def test_the_tokenizer_serves_a_run_with_the_same_registry(meditron: Bench, spm: Path) -> None:
    target = meditron.folder / "made.json"
    assert meditron(*words(PIECES, spm, "-o", target)).exit_code == 0
    settings = words(PIECES)[4:]

    served = meditron("plan", "tokenize", "--cluster", "local", "--size", "tiny",
                      "--set", "tokenize.tokenizer=made.json", *settings)  # fmt: skip
    other = meditron("plan", "tokenize", "--cluster", "local", "--size", "tiny",
                     "--set", "tokenize.tokenizer=made.json",
                     *words(PIECES, added=("<EOD>", "<PAD>", "[/fig]", "[fig]"))[4:])  # fmt: skip

    assert "vocabulary" not in served.stderr
    assert "vocabulary.added_tokens: " in other.stderr
    assert "'[/fig]' has the id 603, not 602" in other.stderr


def test_json_has_what_was_compared(meditron: Bench, spm: Path) -> None:
    target = meditron.folder / "tokenizer.json"  # where the experiment's tokenize.tokenizer is
    target.unlink()

    result = meditron(*words(PIECES, spm, "--json"))

    written = json.loads(result.stdout)
    assert written["file"] == str(target)
    assert written["sha256"] == sha256(target)
    assert (written["tokens"], written["added"]) == (604, 4)
    assert written["texts"] == len(difficult_texts(ADDED))
    assert written["compared_tokens"] > 1000


def folder_of_llama(root: Path, spm: Path, drop_merge: bool = False) -> Path:
    """Return a folder with a tokenizer.model and the tokenizer.json that equals it, or nearly."""
    folder = root / "llama"
    folder.mkdir()
    shutil.copy(spm, folder)
    content = tokenizer_json(read_model(spm.read_bytes()))
    if drop_merge:
        del content["model"]["merges"][0]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def test_of_a_folder_the_tokenizer_json_is_extended_and_the_model_is_the_reference(
    meditron: Bench, spm: Path, tmp_path: Path
) -> None:
    folder = folder_of_llama(tmp_path, spm)

    result = meditron(*words(PIECES, folder, "-o", "made.json"))

    assert result.exit_code == 0, result.output
    assert " and tokenizer.model: identical ids" in result.stdout


def test_the_first_difference_is_named_and_nothing_is_written(
    meditron: Bench, spm: Path, tmp_path: Path
) -> None:
    folder = folder_of_llama(tmp_path, spm, drop_merge=True)

    result = meditron(*words(PIECES, folder, "-o", "made.json"))

    assert result.exit_code == 2
    error, hint = result.stderr.splitlines()
    assert f"{folder}/tokenizer.json: differs from sentencepiece " in error
    assert " gives [" in error
    assert "], not [" in error
    assert hint == f"hint: build from {folder}/tokenizer.model itself"
    assert not Path("made.json").exists()


def test_a_folder_without_a_model_is_compared_with_its_own_file(
    meditron: Bench, tmp_path: Path
) -> None:
    shutil.copy(SAMPLE, tmp_path / "tokenizer.json")
    added = ("<CLS>", "[fig]")

    result = meditron(*words(4096, tmp_path, "-o", "made.json", added=added))

    assert result.exit_code == 0, result.output
    assert " and the unmodified tokenizer.json: identical ids" in result.stdout
    assert Tokenizer.from_file("made.json").token_to_id("[fig]") == 4097


def test_a_model_beside_it_that_is_no_sentencepiece_file_is_no_reference(
    meditron: Bench, tmp_path: Path
) -> None:
    """Llama 3 is published with a file of tiktoken under this name."""
    shutil.copy(SAMPLE, tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")

    result = meditron(*words(4096, tmp_path, "-o", "made.json", added=("[fig]",)))

    assert result.exit_code == 0, result.output
    assert " and the unmodified tokenizer.json: identical ids" in result.stdout


def test_a_pointer_beside_it_is_refused(meditron: Bench, tmp_path: Path) -> None:
    shutil.copy(SAMPLE, tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.model").write_text("version https://git-lfs.github.com/spec/v1\n")

    result = meditron(*words(4096, tmp_path, "-o", "made.json", added=("[fig]",)))

    assert result.exit_code == 2
    assert "tokenizer.model: a pointer of Git LFS" in result.stderr


def test_a_metaspace_that_marks_only_the_first_word_is_kept(
    meditron: Bench, tmp_path: Path, spm: Path
) -> None:
    """transformers 5 saves Llama tokenizers so."""
    source = folder_of_llama(tmp_path, spm) / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(source))
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.save(str(source))

    result = meditron(*words(PIECES, source, "-o", "made.json"))

    assert result.exit_code == 0, result.output
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ADDED])
    made = Tokenizer.from_file("made.json")
    assert made.encode("a[fig]b").ids == tokenizer.encode("a[fig]b").ids


def test_the_base_models_folder_is_the_default_source(
    meditron: Bench, spm: Path, tmp_path: Path
) -> None:
    folder = folder_of_llama(tmp_path, spm)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")

    result = meditron(*words(PIECES), "--set", f"model.weights={folder}", "-o", "made.json")

    assert result.exit_code == 0, result.output
    assert Path("made.json").exists()


def test_another_file_is_not_replaced(meditron: Bench, spm: Path) -> None:
    Path("made.json").write_text("mine")

    result = meditron(*words(PIECES, spm, "-o", "made.json"))

    assert result.exit_code == 2
    assert result.stderr == (
        "error: made.json exists and differs from the tokenizer that was built\n"
        "hint: write another file with --output, or `rm made.json` first\n"
    )
    assert Path("made.json").read_text() == "mine"
    assert meditron(*words(PIECES, spm, "-o", "other.json")).exit_code == 0
    assert meditron(*words(PIECES, spm, "-o", "other.json")).exit_code == 0


def test_added_tokens_follow_the_last_token_of_a_base_with_unused_rows(
    meditron: Bench, spm: Path
) -> None:
    rows = ("--set", f"model.vocab_size={PIECES + 40}", "--set", "vocabulary.unused_rows=40")
    result = meditron(*words(PIECES, spm, "-o", "made.json"), *rows)

    assert result.exit_code == 0, result.output
    made = Tokenizer.from_file("made.json")
    assert [made.token_to_id(token) for token in ADDED] == list(range(PIECES, PIECES + 4))
    for size, unused, less in ((44, 0, "the 4 of vocabulary.added_tokens"), (44, 5, "5 unused")):
        result = meditron(
            *words(PIECES, spm, "-o", "other.json"),
            *("--set", f"model.vocab_size={PIECES + size}"),
            *("--set", f"vocabulary.unused_rows={unused}"),
        )
        assert result.exit_code == 2
        assert f"it has 600 tokens, but model.vocab_size (644) less {less}" in result.stderr
        base = PIECES + 44 - max(4, unused) + unused
        assert result.stderr.splitlines()[-1] == (
            f"hint: if the base model has {base} rows for 600 tokens, set vocabulary.unused_rows "
            f"to {base - 600} and model.vocab_size to {base}"
        )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.model", b"hello", "not a SentencePiece model"),
        ("tokenizer.json", b"{", "not a tokenizer.json (Expecting property name enclosed in double "
         "quotes: line 1 column 2 (char 1))"),
        ("tokenizer.json", b"{}", "not a tokenizer.json (it has no model with a vocabulary)"),
        ("tokenizer.model", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
         "a pointer of Git LFS in place of the file; `git lfs pull` fetches it"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": 0}}}', "it has 1 token, but model.vocab_size"
         " (604) less the 4 of vocabulary.added_tokens is 600"),
    ],
)  # fmt: skip
def test_a_source_that_cannot_serve_is_refused(
    meditron: Bench, name: str, content: bytes, message: str
) -> None:
    Path("base").mkdir()
    (Path("base") / name).write_bytes(content)

    result = meditron(*words(PIECES, "base", "-o", "made.json"))

    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == f"error: base/{name}: {message}"
    assert not Path("made.json").exists()


def test_a_file_that_only_looks_like_a_tokenizer_is_refused(meditron: Bench) -> None:
    content = {"model": {"vocab": {f"{number}": number for number in range(PIECES)} | {"<s>": 0}}}
    Path("tokenizer.json").unlink()
    Path("base.json").write_text(json.dumps(content))

    result = meditron(*words(PIECES, "base.json"))

    assert result.exit_code == 2
    assert "base.json: not a tokenizer.json of Hugging Face tokenizers (" in result.stderr
    assert not Path("tokenizer.json").exists()


def test_a_folder_without_a_tokenizer_and_a_missing_file_are_refused(meditron: Bench) -> None:
    Path("base").mkdir()

    empty = meditron(*words(PIECES, "base"))
    missing = meditron(*words(PIECES, "gone.model"))

    assert (empty.exit_code, missing.exit_code) == (2, 2)
    assert "base: no tokenizer.json or tokenizer.model in this folder" in empty.stderr
    assert "gone.model: No such file or directory" in missing.stderr


def test_a_token_that_the_base_has_is_refused(meditron: Bench, spm: Path) -> None:
    result = meditron(*words(PIECES, spm, added=("<EOD>", "</s>")))

    assert result.exit_code == 2
    assert "it has '</s>' already, with the id 2" in result.stderr


def test_the_group_alone_lists_its_commands(meditron: Bench) -> None:
    result = meditron("tokenizer")

    assert (result.exit_code, result.stderr) == (0, "")
    assert "build  Add an experiment's tokens" in result.stdout


def test_random_weights_have_no_tokenizer(meditron: Bench) -> None:
    result = meditron(*words(PIECES))

    assert result.exit_code == 2
    assert result.stderr.startswith(
        "error: model.weights names no base model, so there is no tokenizer of it\n"
    )


def test_a_base_model_that_is_not_here_is_named(
    meditron: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))

    result = meditron("tokenizer", "build", "--size", "70b")

    assert result.exit_code == 2
    assert f"meta-llama/Llama-2-70b-hf is not in the hub's cache, {tmp_path}" in result.stderr
