"""The texts and prompts on which models are compared: our own words, the same for every model."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any


def texts() -> dict[str, str]:
    """Return short texts by name: medicine, several scripts, characters that tokenizers split."""
    return dict(_content()["texts"])


def prompts() -> tuple[str, ...]:
    """Return the beginnings of three texts, to be continued."""
    return tuple(_content()["prompts"])


@cache
def _content() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_bytes())
    return content
