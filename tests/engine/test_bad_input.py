"""Input that training refuses, with one sentence and exit code 2."""

from __future__ import annotations

import dataclasses

import pytest

from ..model_specs import corpus_spec, tokenizer_ref

pytestmark = pytest.mark.engine


def refusal(run) -> str:
    ranks = run.start()
    assert set(ranks.wait()) == {2}, ranks.output()
    assert "Traceback" not in ranks.output()
    return ranks.output()


def test_no_tokens_at_all(make_run):
    run = make_run(corpora=corpus_spec("tokens/train/00001"))

    assert "no training tokens in 1 indexed dataset\n" in refusal(run)


def test_a_token_beyond_the_vocabulary(make_run, replace_tokens):
    run = make_run()
    replace_tokens(run, "tokens/train/00002", "beyond")

    assert "00002.bin holds token 96, the model has a vocabulary of 96" in refusal(run)


def test_a_batch_without_a_scored_token(make_run, replace_tokens):
    prefixes = ("tokens/train/00000",)
    run = make_run(corpora=corpus_spec(*prefixes), eod_mask_loss=True)
    replace_tokens(run, prefixes[0], "ends")

    assert "the batch of step 1 scores no token: each of them ends a document" in refusal(run)


def test_a_missing_file_on_every_rank(make_run, layout):
    run = make_run(parallel=layout(data=2))
    (run.root / "tokens/train/00002.idx").unlink()

    assert refusal(run).count("00002.idx is missing") == 2


def test_a_file_cut_short(make_run):
    run = make_run()
    binary = run.root / "tokens/train/00002.bin"
    binary.write_bytes(binary.read_bytes()[:-10])

    assert "by its index it has" in refusal(run)


def test_an_altered_token_in_a_file_of_the_same_length(make_run):
    run = make_run()
    binary = run.root / "tokens/train/00002.bin"
    tokens = bytearray(binary.read_bytes())
    tokens[100] ^= 1  # another token of the vocabulary
    binary.write_bytes(tokens)

    words = refusal(run)
    assert f"{binary} is not what tokenize wrote: its content has changed since" in words
    assert f"hint: `rm {binary}`, then `{run.files.command('resume')}` makes it again" in words


def test_an_index_cut_short(make_run):
    run = make_run()
    index = run.root / "tokens/train/00002.idx"
    index.write_bytes(index.read_bytes()[:-1])

    assert "00002.idx is not a complete index of tokens" in refusal(run)


def test_tokens_made_with_another_vocabulary_registry(make_run):
    run = make_run()
    run.change(tokenizer=tokenizer_ref("tokenizer.json", run.spec.tokenizer.sha256, "</s>"))

    assert "was tokenized with another vocabulary registry than this run's" in refusal(run)


def test_a_tokenizer_that_is_not_that_of_the_registry(make_run, tokens):
    run = make_run()
    run.change(
        corpora=corpus_spec(str(tokens / "train-0")),
        tokenizer=tokenizer_ref("tokenizer.json", run.spec.tokenizer.sha256, "</s>"),
    )

    words = refusal(run)
    assert "tokenizer.json: no token '</s>' in the vocabulary" in words
    assert "hint: set vocabulary.eod_token to one it has (its added tokens: <EOD>)" in words


@pytest.mark.parametrize("digest", ["0" * 64, ""])
def test_a_tokenizer_that_is_not_the_one_the_run_was_made_with(make_run, digest):
    run = make_run()
    run.change(tokenizer=dataclasses.replace(run.spec.tokenizer, sha256=digest))

    assert "tokenizer.json: the tokenizer has changed since the run was made" in refusal(run)


def test_a_checkpoint_beyond_the_target(make_run):
    run = make_run(train_steps=2)
    run.finish()
    run.change(train_steps=1)

    words = refusal(run)
    assert "iter_0000002: it is of step 2, beyond the target of this training, step 1" in words


def test_too_many_epochs(make_run):
    run = make_run(max_epochs=0.1)

    words = refusal(run)
    assert "and pretrain.max_epochs is 0.1, which 2 steps would keep to" in words
    command = run.files.command("submit", "pretrain", "--set", "pretrain.max_epochs=1", "--run")
    assert f"hint: `{command}` allows it" in words


def test_a_batch_that_does_not_divide(make_run, layout):
    run = make_run(parallel=layout(data=2), global_batch_size=6)

    assert "global batch 6 is not a multiple of micro-batch 2 x data 2" in refusal(run)


def test_layers_that_do_not_divide(make_run, layout):
    run = make_run(parallel=layout(pipeline=3))

    assert "2 layers do not divide into 3 pipeline stages" in refusal(run)


def test_a_training_whose_samples_are_not_indexed(make_run):
    run = make_run()
    run.indexes = False

    words = refusal(run)
    assert "tokens/index: the index of samples is missing or incomplete" in words
    assert f"hint: `{run.files.command('submit', 'index', '--run')}` builds it" in words
