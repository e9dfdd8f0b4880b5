"""A SentencePiece model as Llama 2 has one, trained here, and MEDITRON's tokens for it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import sentencepiece

from jobs.contract.stage_specs import VocabularySpec
from jobs.data import sentencepiece_model
from jobs.data.difficult_texts import DIFFICULT
from jobs.tokenization.tokenizer_build import with_added_tokens

from ...model_specs import vocabulary_spec

CONTROL = ("<CLS>", "<SEP>", "<EOD>", "<MASK>", "<PAD>")
MARKUP = ("bib_ref", "fig_ref", "bib", "fig", "table", "formula")
MEDITRON = (*CONTROL, *(token for name in MARKUP for token in (f"[{name}]", f"[/{name}]")))
PIECES = 700


def train(**options: object) -> bytes:
    """Return a SentencePiece BPE of a few texts, with the settings of Llama 2's."""
    texts = [line for text in DIFFICULT for line in text.split("\n") if line] * 3
    model = io.BytesIO()
    settings: dict[str, object] = {
        "model_type": "bpe",
        "vocab_size": PIECES,
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "character_coverage": 0.98,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, **settings | options
    )
    return model.getvalue()


@pytest.fixture(scope="session")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ``tokenizer.model``."""
    path = tmp_path_factory.mktemp("spm") / "tokenizer.model"
    path.write_bytes(train())
    return path


@pytest.fixture(scope="session")
def vocabulary() -> VocabularySpec:
    """Return MEDITRON's registry on the small base."""
    return vocabulary_spec(PIECES, added_tokens=MEDITRON, control_tokens=CONTROL)


@pytest.fixture(scope="session")
def llama(spm: Path, vocabulary: VocabularySpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tokenizer.json of the model and the registry."""
    path = tmp_path_factory.mktemp("llama") / "tokenizer.json"
    content = sentencepiece_model.tokenizer_json(sentencepiece_model.read_model(spm.read_bytes()))
    path.write_text(json.dumps(with_added_tokens(content, vocabulary)))
    return path
