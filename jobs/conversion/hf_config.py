"""A Hugging Face ``config.json`` and our architecture, in both directions. Pure; no I/O.

Reading is strict: a field is used, or known to change nothing in what the model computes, or it is
refused by name. transformers 5 writes RoPE under ``rope_parameters`` alone, earlier versions under
``rope_theta`` and ``rope_scaling``; reading accepts both forms and refuses two that differ, writing
gives both.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.contract.stage_specs import ModelSpec, RopeScaling

ROPE_THETA = 10000.0
NORM_EPS = 1e-6
"""Defaults of transformers' classes of the model types below."""

OTHER_NORM_EPS = {"olmo2": 1e-5}
"""Where a type's default is another."""

QKV_BIAS = {"llama": False, "mistral": False, "qwen2": True, "qwen3": False, "olmo2": False}
"""Model types that are read, and whether q, k and v have biases."""

QK_NORM = ("qwen3",)
"""Model types whose query and key heads are normalised."""

POST_NORM = ("olmo2",)
"""Model types with norms behind attention and MLP."""

KV_HEADS = {"mistral": 8, "qwen2": 32, "qwen3": 32}
HEAD_DIM = {"qwen3": 128}
"""Where a type's default is not derived from ``num_attention_heads`` and ``hidden_size``."""

MISTRAL = "mistral"

CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
}

KEYS = {
    "layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "intermediate_size",
    "attention_heads": "num_attention_heads",
    "vocab_size": "vocab_size",
}
"""Our names of the sizes that every folder states."""

REFUSED_UNLESS: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "attention_dropout": (0, None),
    "partial_rotary_factor": (1, None),
    "is_encoder_decoder": (False, None),
    "is_decoder": (False, True, None),
    "add_cross_attention": (False, None),
    "pruned_heads": ({}, None),
    "chunk_size_feed_forward": (0, None),
    "quantization_config": (None,),
    "auto_map": (None,),
}
"""Fields that change what a model computes, with the values that we compute."""

WITHOUT_EFFECT = frozenset({
    "_name_or_path", "_attn_implementation_autoset", "architectures", "model_type",
    "transformers_version", "dtype", "torch_dtype", "use_bfloat16", "torchscript",
    "initializer_range", "max_position_embeddings", "pretraining_tp", "use_cache", "bos_token_id",
    "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "decoder_start_token_id",
    "prefix", "tokenizer_class", "task_specific_params", "problem_type", "finetuning_task",
    "id2label", "label2id", "return_dict", "return_dict_in_generate", "output_attentions",
    "output_hidden_states", "output_scores", "max_length", "min_length", "do_sample",
    "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k",
    "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens",
    "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values", "tf_legacy_loss",
})  # fmt: skip
"""Fields that change nothing in the next-token scores of a prompt: names, storage, generation."""

READ = frozenset(
    [
        *KEYS.values(),
        *("num_key_value_heads", "head_dim", "rms_norm_eps", "tie_word_embeddings"),
        *("rope_theta", "rope_scaling", "rope_parameters"),
        *("sliding_window", "use_sliding_window", "max_window_layers", "layer_types"),
    ]
)


class Unsupported(ValueError):
    """A ``config.json`` that describes another kind of model; the text continues ``PATH: …``."""


@dataclass(frozen=True)
class Described:
    """The model that a ``config.json`` describes."""

    architecture: dict[str, Any]
    """Fields of ``ModelSpec``: shapes, mathematics and ``vocab_size``."""
    window: int | None
    """Tokens that a position attends to; None for all before it. Up to this sequence length the
    window has no effect."""


def read(config: Mapping[str, Any]) -> Described:
    """Return the model of a ``config.json``.

    Raises:
        Unsupported: it lacks a size, contradicts itself, or has a field that is unknown to us or
            has a value that we do not compute.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in QKV_BIAS:
        raise Unsupported(f"model_type is {kind!r}; supported are {', '.join(QKV_BIAS)}")
    _refuse_fields(config)
    sizes = {ours: _whole(config, theirs) for ours, theirs in KEYS.items()}
    heads = sizes["attention_heads"]
    theta, scaling = _rope(config)
    architecture = {
        **sizes,
        "kv_heads": _whole(config, "num_key_value_heads", KV_HEADS.get(kind, heads)),
        "head_dim": _whole(config, "head_dim", HEAD_DIM.get(kind, sizes["hidden_size"] // heads)),
        "rope_theta": theta,
        "rope_scaling": scaling,
        "norm_eps": _number(config, "rms_norm_eps", OTHER_NORM_EPS.get(kind, NORM_EPS)),
        "tied_embeddings": _boolean(config, "tie_word_embeddings"),
        "qkv_bias": QKV_BIAS[kind],
        "qk_norm": kind in QK_NORM,
        "post_norm": kind in POST_NORM,
    }
    return Described(architecture, _window(config, sizes["layers"]))


def differences(described: Described, spec: ModelSpec, base: int) -> Iterator[str]:
    """Yield where a run's model differs from a folder's: ``layers is 32, not 80``.

    Args:
        described: of the folder.
        spec: of the run.
        base: rows that the run expects of its base model.
    """
    for name, value in described.architecture.items():
        own = base if name == "vocab_size" else getattr(spec, name)
        if own != value:
            label = "vocab_size without vocabulary.added_tokens" if name == "vocab_size" else name
            yield f"model.{label} is {_shown(own)}, the folder's is {_shown(value)}"
    if described.window is not None and described.window < spec.seq_length:
        yield (
            f"sequences have {spec.seq_length} tokens (model.seq_length, pretrain.phases, "
            "finetune.sequence_length, evaluate.seq_length), beyond "
            f"the folder's sliding window of {described.window} tokens, which is not supported"
        )


def write(spec: ModelSpec, rows: int, dtype: str, base: str = "") -> dict[str, Any]:
    """Return the ``config.json`` of a model, without the ids of tokens with a role.

    Args:
        spec: the model.
        rows: of the embedding.
        dtype: of the tensors, as torch names it: ``bfloat16``.
        base: model type of the base model. Mistral's is kept, which computes as Llama does.

    Raises:
        Unsupported: no class of transformers has two of: biases of q, k, v; norms of their heads;
            norms behind attention and MLP.
    """
    kinds = {"qkv_bias": "qwen2", "qk_norm": "qwen3", "post_norm": "olmo2"}
    special = [name for name in kinds if getattr(spec, name)]
    if len(special) > 1:
        raise Unsupported(f"no model of transformers has both {special[0]} and {special[1]}")
    kind = kinds[special[0]] if special else MISTRAL if base == MISTRAL else "llama"
    scaling = _written_scaling(spec.rope_scaling)
    context = spec.seq_length
    if spec.rope_scaling:  # the scaling is made for this length
        extended = spec.rope_scaling.original_max_position * spec.rope_scaling.factor
        context = max(context, int(extended))
    return {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        **{theirs: getattr(spec, ours) for ours, theirs in KEYS.items()},
        "vocab_size": rows,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": spec.norm_eps,
        "tie_word_embeddings": spec.tied_embeddings,
        "rope_theta": spec.rope_theta,
        "rope_scaling": scaling,
        "rope_parameters": {
            "rope_theta": spec.rope_theta, **(scaling or {"rope_type": "default"})
        },
        "max_position_embeddings": context,
        "initializer_range": spec.init_std,
        "attention_dropout": 0.0,
        **({"attention_bias": False, "mlp_bias": False} if kind == "llama" else {}),
        **({"sliding_window": None} if kind == MISTRAL else {}),
        **({"attention_bias": False} if kind in ("qwen3", "olmo2") else {}),
        "use_cache": True,
        "dtype": dtype,
        "torch_dtype": dtype,
    }  # fmt: skip


def _refuse_fields(config: Mapping[str, Any]) -> None:
    for name, value in config.items():
        if name in REFUSED_UNLESS:
            if value not in REFUSED_UNLESS[name]:
                raise Unsupported(f"{name} is {_shown(value)}, which is not supported")
        elif name not in READ and name not in WITHOUT_EFFECT and value is not None:
            raise Unsupported(
                f"the field {name} ({_shown(value)}) is unknown and may change what the model "
                "computes"
            )


def _whole(config: Mapping[str, Any], name: str, default: int | None = None, least: int = 1) -> int:
    """Return a whole number, ``least`` or more.

    Raises:
        Unsupported: it is missing and has no default, or is something else.
    """
    value = _or_default(config, name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        some = "one" if least else "zero"
        raise Unsupported(f"{name} is {_shown(value)}, not a number of {some} or more")
    return value


def _number(config: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """Return a positive number.

    Raises:
        Unsupported: it is missing and has no default, or is something else.
    """
    value = _or_default(config, name, default)
    most = sys.float_info.max  # a whole number in JSON may be larger
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= most:
        raise Unsupported(f"{name} is {_shown(value)}, not a number above zero")
    return float(value)


def _boolean(config: Mapping[str, Any], name: str) -> bool:
    """Return a switch, which is off where it is missing.

    Raises:
        Unsupported: it is something else.
    """
    value = _or_default(config, name, False)
    if not isinstance(value, bool):
        raise Unsupported(f"{name} is {_shown(value)}, not true or false")
    return value


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the fields of a section, none where it is missing.

    Raises:
        Unsupported: it is something else.
    """
    value = _or_default(config, name, {})
    if not isinstance(value, Mapping):
        raise Unsupported(f"{name} is {_shown(value)}, not an object")
    return value


def _or_default(config: Mapping[str, Any], name: str, default: Any) -> Any:
    value = config.get(name)
    return default if value is None else value


def _rope(config: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Return RoPE's base and scaling from the form, or the two equal forms, that a file has."""
    earlier, parameters = _section(config, "rope_scaling"), _section(config, "rope_parameters")
    sections = (earlier, parameters)
    stating = [place for place in (config, *sections) if place.get("rope_theta") is not None]
    stated = list(dict.fromkeys(_number(place, "rope_theta") for place in stating))
    if len(stated) > 1:
        raise Unsupported(f"rope_theta is stated twice, {stated[0]:g} and {stated[1]:g}")
    scalings = [
        _scaling(section)
        for section, there in zip(
            sections, (config.get("rope_theta") or earlier, parameters), strict=True
        )
        if there
    ]
    if len(set(scalings)) > 1:
        raise Unsupported(
            "rope_scaling and rope_parameters differ in how RoPE is scaled; versions of "
            "transformers compute different models from it"
        )
    return stated[0] if stated else ROPE_THETA, scalings[0] if scalings else None


def _scaling(section: Mapping[str, Any]) -> RopeScaling | None:
    kind = section.get("rope_type") or section.get("type") or "default"
    fields = {
        "factor": "factor",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
        "original_max_position": "original_max_position_embeddings",
    }
    known = {"rope_theta", "rope_type", "type"}
    if section.get("partial_rotary_factor") == 1:
        known.add("partial_rotary_factor")
    if kind == "llama3":
        known |= set(fields.values())
    elif kind != "default":
        raise Unsupported(f"RoPE of type {kind!r} is not supported, only 'llama3'")
    unknown = [name for name in section if name not in known and section[name] is not None]
    if unknown:
        raise Unsupported(
            f"the field {unknown[0]} of RoPE ({_shown(section[unknown[0]])}) is not supported"
        )
    if kind == "default":
        return None
    missing = [theirs for theirs in fields.values() if section.get(theirs) is None]
    if missing:
        raise Unsupported(f"RoPE of type 'llama3' has no {missing[0]}")
    original = _whole(section, fields.pop("original_max_position"))
    values = {ours: _number(section, theirs) for ours, theirs in fields.items()}
    return RopeScaling(**values, original_max_position=original)


def _written_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_max_position,
    }


def _window(config: Mapping[str, Any], layers: int) -> int | None:
    """Return the sliding window, None where no layer has one.

    Mistral has one in every layer; Qwen where ``use_sliding_window`` is true, from
    ``max_window_layers`` on or as ``layer_types`` lists.
    """
    kinds = config.get("layer_types")
    if kinds is not None:
        _require_kinds(kinds)
        if "sliding_attention" not in kinds:
            return None
    elif config["model_type"].startswith("qwen"):
        if not _boolean(config, "use_sliding_window"):
            return None
        if _whole(config, "max_window_layers", 28, least=0) >= layers:
            return None
    elif config["model_type"] == "llama":
        return None
    return None if config.get("sliding_window") is None else _whole(config, "sliding_window")


def _require_kinds(kinds: Any) -> None:
    """Refuse kinds of layers other than attention with and without a window.

    Raises:
        Unsupported: there is another one, or no list.
    """
    if not isinstance(kinds, list):
        raise Unsupported(f"layer_types is {_shown(kinds)}, not a list")
    unknown = [kind for kind in kinds if kind not in ("full_attention", "sliding_attention")]
    if unknown:
        raise Unsupported(f"layer_types has {unknown[0]!r}, which is not supported")


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
