"""The tokenizer of an export under both versions of transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, pre_tokenizers

from jobs.contract.stage_specs import TokenizerRef, VocabularySpec
from jobs.data.difficult_texts import DIFFICULT, difficult_texts
from jobs.data.exported_tokenizer import exported_files, replaced_part
from jobs.data.tokenizer_file import Encoder
from jobs.tokenization.tokenizer_build import build, with_added_tokens

from ...model_specs import vocabulary_spec
from ...transformers_versions import VERSIONS, run
from . import families
from .conftest import CONTROL, MEDITRON

SAMPLE = families.SAMPLE

REPORT = """
import json, sys
import transformers
reports = []
for folder, texts, options in json.load(open(sys.argv[1])):
    kind = getattr(transformers, options.pop("class", "AutoTokenizer"))
    added = options.pop("added", [])
    tokenizer = kind.from_pretrained(folder, **options)
    for text, special in added:
        token = transformers.AddedToken(text, special=special, normalized=False)
        tokenizer.add_tokens([token], special_tokens=special)
    ids = [tokenizer(text)["input_ids"] for text in texts]
    reports.append({
        "class": type(tokenizer).__name__,
        "ids": ids,
        "pair": tokenizer("a", "b")["input_ids"],
        "roles": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id],
        "size": len(tokenizer),
        "length": tokenizer.model_max_length,
        "decoded": [tokenizer.decode(one) for one in ids],
        "hidden": tokenizer.decode([tokenizer.eos_token_id], skip_special_tokens=True),
    })
json.dump(reports, sys.stdout)
"""


TYPES = {
    "llama": ("llama 3", "<|begin_of_text|>"),
    "mistral": ("llama 3", "<|begin_of_text|>"),
    "qwen2": ("qwen", "<|im_start|>"),
    "qwen3": ("qwen", "<|im_start|>"),
    "olmo2": ("olmo 2", "<|endoftext|>"),
}
"""A tokenizer of models of each type that is exported, and a token that may begin its texts."""

OF_TYPES = [f"{name} {bos}".strip() for name, (_, first) in TYPES.items() for bos in ("", first)]


class Case:
    """A tokenizer, its registry, and the folder of its export."""

    def __init__(
        self,
        folder: Path,
        source: Path,
        vocabulary: VocabularySpec,
        in_text: bool = False,
        model_type: str = "llama",
        **options: Any,
    ) -> None:
        self.folder = folder
        folder.mkdir()
        content = json.loads(source.read_text())
        files = exported_files(
            content, vocabulary, context_length=2048, special_tokens_in_text=in_text
        )
        for name, data in files.items():
            (folder / name).write_bytes(data)
        if model_type:  # whose class transformers takes, unless told otherwise
            config = json.dumps({"model_type": model_type, "vocab_size": 800})
            (folder / "config.json").write_text(config)
        self.options = options
        ref = TokenizerRef(str(source), "", vocabulary)
        self.encoder = Encoder.load(ref, special_tokens_in_text=in_text)
        self.texts = difficult_texts(vocabulary.added_tokens)

    def expected(self) -> list[list[int]]:
        bos = [] if self.encoder.bos is None else [self.encoder.bos]
        return [[*bos, *ids] for ids in self.encoder.encode_all(self.texts)]


@pytest.fixture(scope="module")
def cases(
    tmp_path_factory: pytest.TempPathFactory, llama: Path, spm: Path, vocabulary: VocabularySpec
) -> dict[str, Case]:
    root = tmp_path_factory.mktemp("exports")
    base = vocabulary.base_size
    added: dict[str, Any] = {
        "added_tokens": vocabulary.added_tokens,
        "control_tokens": vocabulary.control_tokens,
    }
    spaced = Tokenizer.from_file(str(SAMPLE))
    spaced.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    spaced.enable_truncation(4)
    spaced.enable_padding(length=64)
    spaced.save(str(root / "spaced.json"))
    sample = vocabulary_spec(4096)

    def family_case(name: str, model_type: str, bos: str = "", **options: Any) -> Case:
        registry = vocabulary_spec(families.size(name), **added, bos_token=bos)
        source = root / f"{name}{bool(bos)}.json"
        content = with_added_tokens(families.tokenizer_json(name), registry)
        source.write_text(json.dumps(content))
        folder = root / f"{name}-{model_type}-{bool(bos)}{len(options)}"
        return Case(folder, source, registry, bool(bos), model_type, **options)

    of_types = {
        f"{model_type} {bos}".strip(): family_case(name, model_type, bos)
        for model_type, (name, first) in TYPES.items()
        for bos in ("", first)
    }
    fast = {"class": "PreTrainedTokenizerFast"}
    return {
        **of_types,
        "replaced": family_case("llama 3", "qwen2"),
        "replaced, by class": family_case("llama 3", "qwen2", **fast),
        "replaced, alone": family_case("llama 3", ""),
        "mistral spm": Case(root / "f", llama, vocabulary, model_type="mistral"),
        "meditron": Case(root / "a", llama, vocabulary),
        "bos": Case(root / "b", llama, vocabulary_spec(base, **added, bos_token="<s>")),
        "in text": Case(root / "c", llama, vocabulary, in_text=True),
        "sample": Case(root / "d", SAMPLE, sample),
        "prefix space": Case(root / "e", root / "spaced.json", sample),
    }


CLASSES = {"llama 3": "PreTrainedTokenizerFast", "qwen": "Qwen2Tokenizer"}
"""What tokenizer_config.json of Llama 3 and Qwen 2 declares."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return folders of base models with byte-level tokenizers, as they are published."""
    root, found = tmp_path_factory.mktemp("bases"), {}
    for name, kind in CLASSES.items():
        folder = root / name
        folder.mkdir()
        content = families.tokenizer_json(name)
        decoder = {str(entry.pop("id")): entry for entry in map(dict, content["added_tokens"])}
        config = {"tokenizer_class": kind, "added_tokens_decoder": decoder}
        config |= {"eos_token": families.SPECIAL[name][-1], "clean_up_tokenization_spaces": False}
        (folder / "tokenizer.json").write_text(json.dumps(content))
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        model_type = "qwen2" if name == "qwen" else "llama"
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        found[f"base {name}"] = folder
    return found


def texts_of(name: str) -> list[str]:
    """Return difficult texts for a tokenizer: names of added tokens, and of its own."""
    own = [*families.SPECIAL[name], *families.PLAIN.get(name, ())]
    return [*difficult_texts(MEDITRON), *(f"a{token} b" for token in own)]


ADDITIONS = {"added": [[token, token in CONTROL] for token in MEDITRON]}
"""Tokens that transformers itself adds to a tokenizer it has loaded."""


@pytest.fixture(scope="module", params=VERSIONS)
def reports(
    request: pytest.FixtureRequest,
    cases: dict[str, Case],
    bases: dict[str, Path],
    spm: Path,
    tmp_path_factory: Any,
) -> dict[str, dict[str, Any]]:
    """Return what one version makes of every export, of a bare tokenizer.model, and of base models
    to which it adds the tokens itself.
    """
    folder = tmp_path_factory.mktemp("asked")
    shutil.copy(spm, folder)
    if request.param == "4.57":  # version 5 would take a class that encodes spaces differently
        (folder / "config.json").write_text('{"model_type": "llama"}')
    asked: list[Any] = [[str(case.folder), case.texts, case.options] for case in cases.values()]
    asked.append([str(folder), DIFFICULT, {"add_bos_token": False, "split_special_tokens": True}])
    options = {**ADDITIONS, "split_special_tokens": True}
    asked += [[str(root), texts_of(root.name), options] for root in bases.values()]
    (folder / "asked.json").write_text(json.dumps(asked))
    # Version 4.57 need not load torch for tokenizers, which takes longer than all of these.
    found = json.loads(run(request.param, REPORT, str(folder / "asked.json"), USE_TORCH="0"))
    return dict(zip([*cases, "tokenizer.model", *bases], found, strict=True))


@pytest.mark.parametrize(
    "name",
    [
        *("meditron", "bos", "in text", "sample", "prefix space", "mistral spm"),
        *OF_TYPES,
        *("replaced, by class", "replaced, alone"),
    ],
)
def test_transformers_gives_the_ids_and_texts_of_training(
    name: str, cases: dict[str, Case], reports: dict[str, dict[str, Any]]
) -> None:
    case, report = cases[name], reports[name]

    differing = [
        (text, found, wanted)
        for text, found, wanted in zip(case.texts, report["ids"], case.expected(), strict=True)
        if found != wanted
    ]
    assert differing == []
    decode = case.encoder.tokenizer.decode
    assert report["decoded"] == [decode(ids, skip_special_tokens=False) for ids in report["ids"]]
    assert report["pair"].count(case.encoder.bos) == (0 if case.encoder.bos is None else 2)
    assert report["roles"][:2] == [case.encoder.bos, case.encoder.eod]
    assert report["size"] == 1 + max(case.encoder.tokenizer.get_vocab().values())
    assert report["length"] == 2048
    assert report["hidden"] == ""


@pytest.mark.parametrize("name", CLASSES)
def test_a_built_tokenizer_gives_the_ids_of_transformers_own_additions(
    name: str, bases: dict[str, Path], reports: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    size = families.size(name)
    vocabulary = vocabulary_spec(size, added_tokens=MEDITRON, control_tokens=CONTROL)

    made = build(bases[f"base {name}"], vocabulary)

    (tmp_path / "tokenizer.json").write_bytes(made.data)
    ref = TokenizerRef(str(tmp_path / "tokenizer.json"), "", vocabulary)
    report, encoder = reports[f"base {name}"], Encoder.load(ref)
    first = [] if name == "qwen" else [families.TOKENS]  # Llama 3's own BOS before a text
    for text, ids in zip(texts_of(name), report["ids"], strict=True):
        assert [*first, *encoder.encode(text)] == ids, text
    assert report["size"] == made.tokens == size + len(MEDITRON)


def test_a_tokenizer_that_version_5_replaces_is_named(
    cases: dict[str, Case], reports: dict[str, dict[str, Any]]
) -> None:
    replaced = reports["replaced"]["ids"] != cases["replaced"].expected()

    assert replaced == (reports["replaced"]["class"] == "Qwen2Tokenizer")
    assert reports["qwen3"]["class"] in ("TokenizersBackend", "PreTrainedTokenizerFast")
    kinds = {"qwen": "", "llama 3": "normalizer", "olmo 2": "normalizer"}
    for name, part in kinds.items():
        assert replaced_part(families.tokenizer_json(name), "qwen2") == part
        for other in set(TYPES) - {"qwen2"}:
            assert replaced_part(families.tokenizer_json(name), other) == ""


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"pre_tokenizer": {"type": "ByteLevel"}}, "pre_tokenizer"),
        ({"decoder": None}, "decoder"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "ignore_merges": True}}, "model"),
        ({"added_tokens": []}, "unknown token"),
    ],
)
def test_each_part_that_version_5_replaces_is_named(changes: dict[str, Any], part: str) -> None:
    content = families.tokenizer_json("qwen") | changes

    assert replaced_part(content, "qwen2") == part


def test_transformers_converts_a_sentencepiece_file_to_the_same_ids(
    cases: dict[str, Case], reports: dict[str, dict[str, Any]]
) -> None:
    assert reports["tokenizer.model"]["ids"] == cases["meditron"].encoder.encode_all(DIFFICULT)


def test_roles_are_those_of_the_registry(reports: dict[str, dict[str, Any]]) -> None:
    eod, pad = 702, 704

    assert reports["meditron"]["roles"] == [None, eod, pad]
    assert reports["bos"]["roles"] == [1, eod, pad]
    assert reports["bos"]["pair"].count(1) == 2
    assert reports["sample"]["roles"] == [None, 0, 1]


def test_literal_control_tokens_follow_the_training(
    cases: dict[str, Case], reports: dict[str, dict[str, Any]]
) -> None:
    at = cases["meditron"].texts.index("a<EOD>b")

    assert 702 not in reports["meditron"]["ids"][at]
    assert 702 in reports["in text"]["ids"][at]


def test_an_export_of_byte_level_text_decodes_to_it(
    cases: dict[str, Case], reports: dict[str, dict[str, Any]]
) -> None:
    assert reports["sample"]["decoded"] == cases["sample"].texts


def test_a_token_that_only_the_model_has_becomes_special(llama: Path) -> None:
    content = json.loads(llama.read_text())
    content["added_tokens"] = [
        entry for entry in content["added_tokens"] if entry["content"] != "</s>"
    ]

    files = exported_files(content, vocabulary_spec(700, eod_token="</s>"), context_length=8)

    entries = json.loads(files["tokenizer.json"])["added_tokens"]
    (end,) = [entry for entry in entries if entry["content"] == "</s>"]
    assert (end["id"], end["special"]) == (2, True)
    config = json.loads(files["tokenizer_config.json"])
    assert config["added_tokens_decoder"]["2"]["content"] == config["eos_token"] == "</s>"
    roles = json.loads(files["special_tokens_map.json"])
    assert roles == {
        "eos_token": "</s>",
        "pad_token": "<PAD>",
        "cls_token": "<CLS>",
        "sep_token": "<SEP>",
        "mask_token": "<MASK>",
        "unk_token": "<unk>",
    }
