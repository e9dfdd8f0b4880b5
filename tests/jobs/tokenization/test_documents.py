"""Documents cut at their markup tokens, and their ids."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import sentencepiece

from jobs.contract.errors import TaskError
from jobs.data import sentencepiece_model
from jobs.data.difficult_texts import DIFFICULT
from jobs.tokenization import assemble
from jobs.tokenization.counts import Counts, merged, tokens_of_sources, words_and_bytes
from jobs.tokenization.documents import Names, Reader
from jobs.tokenization.engine import EngineData, GigatokenEngine, TokenizersEngine
from jobs.tokenization.stretches import Stretch
from jobs.tokenization.tokenizer_build import with_added_tokens

from ...model_specs import vocabulary_spec

FIG, END = "[fig]", "<EOD>"


def reader(markup: dict[str, int] | None = None, characters: int = 1 << 20) -> Reader:
    names = Names([FIG, "[/fig]", END])
    return Reader("text", {FIG: 901, END: 902} if markup is None else markup, names, characters)


def shard(folder: Path, *records: dict[str, Any]) -> Stretch:
    path = folder / "shard.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return Stretch(path, 0, path.stat().st_size, 0)


def test_a_text_is_cut_at_its_spans_and_nowhere_else(tmp_path: Path) -> None:
    text = "a [fig] is[fig] Figure 1<EOD>"
    stretch = shard(
        tmp_path,
        {"text": text, "spans": [[10, 15], [24, 29]]},
        {"text": text},
        {"text": "[fig]", "spans": [[0, 5]]},
        {"text": "no token", "spans": [[0, 2]]},
    )

    (batch,) = reader().batches(stretch)

    assert batch.pieces == ["a [fig] is", " Figure 1", text, "no token"]
    assert batch.ends == [2, 3, 3, 4]
    assert batch.markup == [(0, 1, 901), (0, 2, 902), (2, 3, 901)]
    assert (batch.read, batch.literals) == (4, 4)


def test_where_texts_contain_their_tokens_spans_change_nothing(tmp_path: Path) -> None:
    stretch = shard(tmp_path, {"text": "[fig] x", "spans": [[0, 5]]})

    (batch,) = reader(markup={}).batches(stretch)

    assert (batch.pieces, batch.markup, batch.literals) == (["[fig] x"], [], 1)


def test_batches_end_after_a_number_of_characters_and_lose_nothing(tmp_path: Path) -> None:
    texts = ["", "abc", "d" * 30, "", "ef", ""]
    stretch = shard(tmp_path, *({"id": n, "text": text} for n, text in enumerate(texts)))

    found = list(reader(characters=10).batches(stretch))

    assert [batch.texts for batch in found] == [["abc", "d" * 30], ["ef"]]
    assert [batch.read for batch in found] == [3, 3]
    assert found[-1].position == stretch.end


def test_a_bad_line_is_named_by_its_number_in_the_shard(tmp_path: Path) -> None:
    path = tmp_path / "shard.jsonl"
    path.write_bytes(b'{"text": "a"}\n\n{"text": "b"}\noops\n')

    with pytest.raises(TaskError, match=r"shard\.jsonl:4: not JSON"):
        list(reader().batches(Stretch(path, 15, path.stat().st_size, 1)))


@pytest.mark.parametrize("bos", [None, 7])
def test_ids_tokens_and_ends_stand_in_their_order(bos: int | None, tmp_path: Path) -> None:
    """Every piece of n characters has the ids n, n, ….; a piece of spaces has none."""
    records = [
        {"text": "aaFIG"},
        {"text": "   "},
        {"text": "[fig][fig]bbb[fig]", "spans": [[0, 5], [5, 10], [13, 18]]},
        {"text": "  [fig]", "spans": [[2, 7]]},
    ]
    (batch,) = reader().batches(shard(tmp_path, *records))
    lengths = numpy.array([0 if piece.isspace() else len(piece) for piece in batch.pieces])
    encoded = assemble.Encoded(numpy.repeat(lengths, lengths).astype("u4"), lengths)

    found = assemble.documents(batch, encoded, numpy.dtype("<u2"), bos, 9)

    start = [] if bos is None else [bos]
    expected = [
        [*start, *[5] * 5, 9],
        [*start, 901, 901, 3, 3, 3, 901, 9],
        [*start, 901, 9],
    ]
    assert found.ids.tolist() == [token for ids in expected for token in ids]
    assert found.lengths.tolist() == [len(ids) for ids in expected]
    assert found.kept.tolist() == [True, False, True, True]
    assert found.ids.dtype == numpy.dtype("<u2")


@pytest.fixture(scope="module")
def spm() -> bytes:
    """Return a SentencePiece model as Llama 2 has one, trained here."""
    lines = [line for text in DIFFICULT for line in text.split("\n") if line] * 3
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=600,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        character_coverage=0.98, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


@pytest.mark.parametrize("make", [TokenizersEngine, GigatokenEngine])
def test_text_between_markup_is_encoded_as_sentencepiece_does(
    make: Any, spm: bytes, tmp_path: Path
) -> None:
    library = sentencepiece.SentencePieceProcessor(model_proto=spm)
    registry = vocabulary_spec(600, added_tokens=(END, FIG), control_tokens=(END,))
    base = sentencepiece_model.tokenizer_json(sentencepiece_model.read_model(spm))
    data = EngineData.of(with_added_tokens(base, registry), registry, False)
    # A literal beside each, and <s>, which SentencePiece reads as text.
    records = [
        {"text": f"{text}{FIG}{text}<s>{FIG} {END}", "spans": [[len(text), len(text) + 5]]}
        for text in DIFFICULT
    ]
    (batch,) = reader({FIG: 601}).batches(shard(tmp_path, *records))

    found = assemble.documents(
        batch, make(data).encode(batch.pieces), numpy.dtype("<u2"), None, 600
    )

    expected = [
        [*library.encode(text), 601, *library.encode(f"{text}<s>{FIG} {END}"), 600]
        for text in DIFFICULT
    ]
    ends = numpy.cumsum(found.lengths)[:-1]
    assert [part.tolist() for part in numpy.split(found.ids, ends)] == expected
    assert batch.literals == 2 * len(DIFFICULT)


def test_counts_are_summed_and_ratios_follow() -> None:
    first = Counts(documents=2, text_tokens=30, words=20, text_bytes=90, longest=20)

    whole = merged([first.to_json(), {"documents": 1, "longest": 25, "bytes": 7}])

    assert (whole.documents, whole.longest) == (3, 25)
    assert (whole.fertility, whole.bytes_per_token) == (1.5, 3.0)
    assert Counts().fertility is None


def test_words_are_what_spaces_and_line_ends_separate() -> None:
    texts = ["one two", " 500\u00a0mg\tdaily\n\nuntil ", "", "caf\u00e9"]

    assert words_and_bytes(texts) == (6, sum(len(text.encode()) for text in texts))


def test_tokens_are_counted_by_the_source_of_their_document() -> None:
    lengths = numpy.array([5, 7, 11])

    assert tokens_of_sources(["a", "b", "a"], lengths) == {"a": 16, "b": 7}
    assert tokens_of_sources(["a"] * 3, lengths) == {"a": 23}
    assert tokens_of_sources([], lengths[:0]) == {}

    whole = merged([{"sources": {"a": 2}}, {"sources": {"a": 1, "b": 4}}, {"documents": 1}])
    assert whole.sources == {"a": 3, "b": 4}
