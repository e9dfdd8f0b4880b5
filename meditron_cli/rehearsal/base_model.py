"""Write a random base model in the Hugging Face format, with a SentencePiece tokenizer."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.contract.files import write_bytes
from meditron_cli.errors import ConfigError
from meditron_cli.rehearsal import miniature

if TYPE_CHECKING:
    from jobs.contract.stage_specs import ModelSpec, VocabularySpec

SEED = 7
SHARDS = 2


def write(root: Path, spec: ModelSpec, vocabulary: VocabularySpec) -> str:
    """Write ``base/`` below a folder: ``config.json``, two shards of random weights in bfloat16
    with their index, and ``tokenizer.model``, trained on the sample. Build ``tokenizer.json``
    beside it, with the added tokens.

    Returns:
        How the ids of the tokenizer were compared.

    Raises:
        ConfigError: a library of the extra ``weights`` is missing.
        TaskError: the tokenizer has other ids than its reference.
        OSError: the folder cannot be written.
    """
    try:
        weights = random_weights(spec, vocabulary.base_rows)
        tokenizer = train_tokenizer(texts(root / "sample" / "corpus"), base_roles(vocabulary))
    except ImportError as error:
        raise ConfigError(
            f"a rehearsal needs the library {error.name}, which is not installed",
            hint="`pip install 'meditron[all]'`",
        ) from error
    from jobs.conversion import hf_config
    from jobs.tokenization import tokenizer_build

    base = root / "base"
    for name, content in weights.items():
        write_bytes(base / name, content)
    write_bytes(base / "tokenizer.model", tokenizer)
    config = hf_config.write(spec, vocabulary.base_rows, "bfloat16")
    write_bytes(base / "config.json", json.dumps(config, indent=2).encode())
    built = tokenizer_build.build(base / "tokenizer.model", vocabulary)
    write_bytes(root / "tokenizer.json", built.data)
    return (
        f"{built.tokens} tokens; {built.comparison.texts} texts have the ids of {built.reference}"
    )


def random_weights(spec: ModelSpec, rows: int) -> dict[str, bytes]:
    """Return the files of random weights with ``rows`` in the embedding: norms of one, all else
    normal with ``init_std``.
    """
    import torch
    from safetensors.torch import save

    from jobs.conversion import weight_map

    generator = torch.Generator().manual_seed(SEED)
    shapes = weight_map.folder_shapes(spec, rows)
    tensors = {
        name: torch.ones(shape, dtype=torch.bfloat16)
        if "norm" in name
        else (torch.randn(shape, generator=generator) * spec.init_std).bfloat16()
        for name, shape in shapes.items()
    }
    names = sorted(tensors)
    parts = [names[number::SHARDS] for number in range(SHARDS)]
    files = [f"model-{number:05d}-of-{SHARDS:05d}.safetensors" for number in range(1, SHARDS + 1)]
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
        "weight_map": {
            name: file for file, part in zip(files, parts, strict=True) for name in part
        },
    }
    contents = {
        file: save({name: tensors[name] for name in part}, metadata={"format": "pt"})
        for file, part in zip(files, parts, strict=True)
    }
    return {**contents, "model.safetensors.index.json": json.dumps(index, indent=2).encode()}


def texts(corpus: Path) -> Iterable[str]:
    """Yield the texts of the sample's documents."""
    for path in sorted(corpus.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)["text"]


def base_roles(vocabulary: VocabularySpec) -> list[str]:
    """Return the tokens that the registry expects of the base vocabulary, besides those that every
    SentencePiece model has.
    """
    _, _, copied = vocabulary.new_rows.partition("copy:")
    roles = (vocabulary.eod_token, vocabulary.bos_token, vocabulary.eos_token, copied)
    known = {"", "<unk>", "<s>", "</s>", *vocabulary.added_tokens}
    return [token for token in dict.fromkeys(roles) if token not in known]


def train_tokenizer(sentences: Iterable[str], control_tokens: list[str]) -> bytes:
    """Return a SentencePiece BPE model as Llama 2's, byte fallback and a space before a text, with
    further control tokens.
    """
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="bpe",
        vocab_size=miniature.BASE_VOCABULARY,
        byte_fallback=True,
        control_symbols=control_tokens,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        max_sentence_length=1 << 16,
        minloglevel=2,
        num_threads=1,
    )
    return model.getvalue()
