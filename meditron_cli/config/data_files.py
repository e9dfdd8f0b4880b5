"""Names of files in data sets of the Hugging Face hub, and where this machine has them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from meditron_cli.config.weights import HubName

HUB_SCHEME = "hf://"
HUB_DATA = re.compile(
    r"hf://datasets/(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w.-]+))?"
    r"/(?P<path>(?!\.)[\w.+-]+(/(?!\.)[\w.+-]+)*)",
    re.ASCII,
)


@dataclass(frozen=True)
class HubData:
    """A file or a folder of a data set on the hub."""

    name: HubName
    path: str
    """Within the data set."""

    @staticmethod
    def parse(text: str) -> HubData | None:
        """Return the parts of ``hf://datasets/org/name@revision/path``; None for a local path."""
        match = HUB_DATA.fullmatch(text)
        if match is None:
            return None
        return HubData(HubName(match["repository"], match["revision"] or ""), match["path"])

    def __str__(self) -> str:
        return f"hf://datasets/{self.name}/{self.path}"

    def place(self, data_dir: Path) -> Path:
        """Return where ``meditron fetch`` puts it: below ``data_dir``, by the same name."""
        return data_dir / str(self.name) / self.path


def place(named: str, data_dir: Path | None) -> Path | None:
    """Return where a file is that an experiment names by a path or by its name on the hub; None for
    one on the hub while the profile has no ``data_dir``.
    """
    data = HubData.parse(named)
    if data is None:
        return Path(named)
    return data.place(data_dir) if data_dir else None
