"""The Hugging Face hub as a source of files: one revision's listing, and the bytes of a file.

``huggingface_hub`` speaks the protocol; it is imported by the first request. Its own download to a
folder starts a file anew after a kill (2.4, file_download.py), so only its stream with ranges is
used, into files that ``hub.download`` keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from meditron_cli import __version__
from meditron_cli.config.weights import HubName, download_command
from meditron_cli.errors import ConfigError, MeditronError

TOKEN = "HF_TOKEN"
"""Name of the token in the secrets file."""
INSTALL = "pip install huggingface_hub"


@dataclass(frozen=True)
class HubFile:
    """A file of a repository at one commit, with the digest that the hub states."""

    path: str
    """Within the repository."""
    bytes: int
    sha256: str
    """Of the content, for large files (LFS); empty for others."""
    git_id: str
    """SHA-1 of git's blob: of the content for small files, of a pointer for large ones."""


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit."""

    commit: str
    files: tuple[HubFile, ...]


def is_outside(path: PurePosixPath) -> bool:
    """Return whether a name, joined to a folder, may be the path of something outside of it."""
    return path.is_absolute() or ".." in path.parts


class Hub:
    """The hub at one address, with or without a token. Its methods may run in several threads.

    Args:
        endpoint: its address; empty for the library's own default, ``HF_ENDPOINT``.
        token: sent to the hub alone; empty for none.
        token_place: where a person writes the token, for messages.
    """

    def __init__(self, endpoint: str, token: str, token_place: str) -> None:
        try:
            from huggingface_hub import HfApi, constants
            from huggingface_hub.utils import disable_progress_bars, logging
        except ImportError as error:
            raise ConfigError(
                "downloads need the library huggingface_hub, which is not installed",
                hint=f"`{INSTALL}` installs it",
            ) from error
        disable_progress_bars()
        logging.set_verbosity_error()
        self.endpoint = endpoint.rstrip("/") or constants.ENDPOINT
        self._token = token
        self._token_place = token_place
        # False keeps the library from sending a token that a person stored for other programs.
        self._program = {"library_name": "meditron", "library_version": __version__}
        self._api = HfApi(endpoint=self.endpoint, token=token or False, **self._program)

    def listing(self, kind: str, name: HubName) -> Listing:
        """Return the files of a revision.

        Args:
            kind: ``model`` or ``dataset``.

        Raises:
            ConfigError: no such repository or revision, or no access to it.
            MeditronError: the hub does not answer.
        """
        with self.explained(kind, name):
            info = self._api.repo_info(
                name.repository, repo_type=kind, revision=name.revision or None
            )
            tree = self._api.list_repo_tree(
                name.repository, repo_type=kind, revision=info.sha, recursive=True
            )
            files = [
                HubFile(item.path, item.size, item.lfs.sha256 if item.lfs else "", item.blob_id)
                for item in tree
                if hasattr(item, "blob_id")  # folders have none
            ]
            outside = [file.path for file in files if is_outside(PurePosixPath(file.path))]
            if outside:
                raise MeditronError(f"{name}: the file name {outside[0]!r} leaves its folder")
            return Listing(str(info.sha), tuple(sorted(files, key=lambda file: file.path)))

    def read(
        self, kind: str, name: HubName, commit: str, file: HubFile, target: Any, present: int
    ) -> None:
        """Append the bytes of a file to one that has its first ``present`` bytes; connections that
        break are opened again.

        The hub redirects to other hosts, with links that expire; so each request starts at the hub,
        and only that one has the token.

        Raises:
            ConfigError: no access.
            MeditronError: the hub does not answer.
            OSError: the target cannot be written.
        """
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(
            name.repository, file.path, repo_type=kind, revision=commit, endpoint=self.endpoint
        )
        if file.bytes > constants.MAX_HTTP_DOWNLOAD_SIZE:
            raise ConfigError(
                f"{file.path} of {name} is larger than the hub serves over HTTP",
                hint=by_hand(kind, name),
            )
        headers = build_hf_headers(token=self._token or False, **self._program)
        headers["Accept-Encoding"] = "identity"
        with self.explained(kind, name):
            http_get(
                url,
                cast(BinaryIO, target),
                resume_size=present,
                headers=headers,
                expected_size=file.bytes,
            )

    @contextmanager
    def explained(self, kind: str, name: HubName) -> Iterator[None]:
        """Turn the library's errors about a repository into ours."""
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        try:
            yield
        except OfflineModeIsEnabled as error:
            raise ConfigError(
                f"{name} cannot be downloaded while HF_HUB_OFFLINE is set",
                hint="`unset HF_HUB_OFFLINE`, then repeat the command",
            ) from error
        except HfHubHTTPError as error:
            raise self.refused(kind, name, error) from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise self.broken(kind, name, str(error).splitlines()[0]) from error  # a short answer
        except Exception as error:  # which HTTP library the hub's client uses is its own affair
            if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore"):
                raise
            raise self.broken(kind, name, str(error) or type(error).__name__) from error

    def refused(self, kind: str, name: HubName, error: Any) -> MeditronError:
        """Return our error for an answer of the hub that is none."""
        from huggingface_hub import errors

        status = error.response.status_code
        page = f"{self.endpoint}/{'datasets/' if kind == 'dataset' else ''}{name.repository}"
        write = f"write {TOKEN}=… into {self._token_place}"
        if isinstance(error, errors.GatedRepoError):
            if self._token:
                message = f"{name} is gated, and the account of {TOKEN} has no access to it"
                return ConfigError(message, hint=f"accept its licence with this account at {page}")
            message = (
                f"{name} is gated: the hub gives it only to accounts that accepted its licence"
            )
            return ConfigError(message, hint=f"accept it at {page}, then {write}")
        if isinstance(error, errors.RevisionNotFoundError):
            message = f"{name.repository} has no revision {name.revision or 'main'}"
            return ConfigError(message, hint=f"{page}/tree/main lists its branches and tags")
        if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
            sees = f"the account of {TOKEN}" if self._token else "a request without a token"
            return ConfigError(
                f"{self.endpoint} has no {kind} {name.repository} that {sees} may see",
                hint="correct the name" + ("" if self._token else f", or {write} if it is private"),
            )
        if status in (401, 403):
            return ConfigError(
                f"{self.endpoint} refuses {TOKEN} for {name}"
                if self._token
                else f"{self.endpoint} gives {name} to no request without a token",
                hint=write,
            )
        return self.broken(kind, name, f"HTTP {status}")

    def broken(self, kind: str, name: HubName, reason: str) -> MeditronError:
        """Return the error for a hub that cannot be reached, with another way to get the files."""
        return MeditronError(
            f"{name} cannot be downloaded from {self.endpoint}: {reason}",
            hint=f"repeat the command to continue; without network, {by_hand(kind, name)}",
        )


def by_hand(kind: str, name: HubName) -> str:
    """Return how to get a repository where this program cannot."""
    setting = {"model": "models_dir", "dataset": "data_dir"}[kind]
    return (
        f"run `{download_command(name, Path(), kind)}` where it can be reached, and move "
        f"`{name.folder(Path())}` into {setting}"
    )
