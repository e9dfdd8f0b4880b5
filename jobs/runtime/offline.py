"""Keep the Hugging Face libraries of a compute node off the network. Standard library only."""

from __future__ import annotations

import os

SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE")
"""Variables of huggingface_hub, transformers, datasets and evaluate, which read them at import."""


def work_offline() -> None:
    """Set the switches for this process and those that it starts.

    ``meditron fetch`` downloads on the login node; a rank that reaches for a file which is not
    there must fail at once, not wait for a network that compute nodes may not have.
    """
    os.environ.update(dict.fromkeys(SWITCHES, "1"))
