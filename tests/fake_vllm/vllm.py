"""A module vllm with the parts of its API that we call: it does not run here."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

__version__ = "0.0"


@dataclass(frozen=True)
class SamplingParams:
    """The settings of a request, by the names that vLLM gives them; others are refused."""

    n: int
    temperature: float
    top_p: float
    seed: int
    stop: list[str]
    stop_token_ids: list[int]
    max_tokens: int
    frequency_penalty: float
    logprobs: int


class LLM:
    """Record the settings, and answer each request at once, samples in the reverse order."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.requests: list[tuple[Any, Any]] = []

    def generate(self, prompts: Any, params: Any, *, use_tqdm: Any) -> list[Any]:
        bar = use_tqdm(total=len(prompts), desc="Processed prompts", dynamic_ncols=True)
        self.requests += zip(prompts, params, strict=True)
        answers = []
        for prompt in prompts:
            samples = [
                SimpleNamespace(
                    index=index,
                    text=f"text {index}",
                    token_ids=[*prompt["prompt_token_ids"], index],
                    cumulative_logprob=-1.5,
                    finish_reason=("length", "stop")[index % 2],
                )
                for index in (1, 0)
            ]
            answers.append(SimpleNamespace(outputs=samples))
            bar.update(1)
        return answers
