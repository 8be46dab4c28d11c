"""Questions to the Hugging Face Hub, each answered or refused in one sentence. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from geometry_bench.errors import GeometryBenchError

Kind = Literal["model", "dataset"]
COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_S = 20.0


def commit_of(name: str, revision: str | None, kind: Kind = "model") -> tuple[str, tuple[str, ...] | None]:
    """Commit of the revision (default branch when None) and the repository's file names (None from the cache).

    Raises GeometryBenchError where there is no such repository or revision, it is gated, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub import errors as hub

    what, api = _what(name, kind), HfApi()
    try:
        info = (api.model_info if kind == "model" else api.dataset_info)(name, revision=revision, timeout=_TIMEOUT_S)
    except hub.RevisionNotFoundError as error:
        raise GeometryBenchError(
            f"{what} has no revision {revision!r} on the Hub; check the name or commit."
        ) from error
    except hub.GatedRepoError as error:
        raise gated(name, kind) from error
    except hub.RepositoryNotFoundError as error:
        absent = "folder and no Hub repository" if kind == "model" else "data set"
        raise GeometryBenchError(
            f"There is no {absent} {name!r} on the Hub (or it is private: log in with `hf auth login`)."
        ) from error
    except hub.HFValidationError as error:
        raise GeometryBenchError(f"{name!r} is neither an existing folder nor a valid Hub id; check it.") from error
    except network_errors() as error:  # offline mode, no network, time-out, a failing Hub
        return _cached_commit(name, revision, kind, error), None
    if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
        raise GeometryBenchError(f"The Hub returned no commit for {name}; name one as its revision.")
    siblings = getattr(info, "siblings", None)
    return info.sha, None if siblings is None else tuple(file.rfilename for file in siblings)


def network_errors() -> tuple[type[BaseException], ...]:
    """What an unreachable or failing Hub raises: OSError (also the offline mode) and the HTTP client's own base class.

    The client has changed between versions of huggingface_hub, so its class is read off the error they share.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *HfHubHTTPError.__bases__)


def _what(name: str, kind: Kind) -> str:
    return name if kind == "model" else f"The data set {name}"


def gated(name: str, kind: Kind = "model") -> GeometryBenchError:
    """The refusal of a gated repository."""
    other = "" if kind == "model" else ", or give a file"
    return GeometryBenchError(
        f"{_what(name, kind)} is gated on the Hub; accept its terms there and log in with `hf auth login` (or set "
        f"HF_TOKEN){other}."
    )


def _cached_commit(name: str, revision: str | None, kind: Kind, cause: BaseException) -> str:
    """Commit in the local Hub cache, used when the Hub cannot be asked."""
    from huggingface_hub import constants, try_to_load_from_cache

    if kind == "model":
        found = try_to_load_from_cache(name, "config.json", revision=revision)
        commit = Path(found).parent.name if isinstance(found, str) else ""
    else:  # the library for data sets keeps no file of a known name
        folder = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
        reference = folder / "refs" / (revision or "main")
        commit = reference.read_text().strip() if reference.is_file() else ""
    if COMMIT.fullmatch(commit):
        return commit
    wanted = f"{name} at revision {revision!r}" if revision is not None else name
    raise GeometryBenchError(
        f"The Hub cannot be reached ({type(cause).__name__}) and {wanted} is not in the local cache; go online, or give "
        f"a local {'folder' if kind == 'model' else 'file'}."
    ) from cause


def config_file(name: str, commit: str) -> Path:
    """The local copy of ``config.json`` at a commit, downloaded where the Hub cache lacks it."""
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=commit)
    if isinstance(found, str):
        return Path(found)
    try:
        return Path(hf_hub_download(name, "config.json", revision=commit))
    except hub.GatedRepoError as error:
        raise gated(name) from error
    except hub.RemoteEntryNotFoundError as error:
        raise GeometryBenchError(
            f"{name} is not a model repository: it has no config.json at {commit[:12]}."
        ) from error
    except network_errors() as error:
        raise GeometryBenchError(
            f"config.json of {name} cannot be downloaded ({type(error).__name__}: {error}); try again later."
        ) from error


def snapshot(name: str, commit: str, patterns: Sequence[str]) -> Path:
    """The local snapshot folder of a commit, downloaded where the Hub cache lacks files matching ``patterns``."""
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=list(patterns)))
    except hub.GatedRepoError as error:
        raise gated(name) from error
    except network_errors() as error:
        raise GeometryBenchError(
            f"{name} at {commit[:12]} cannot be downloaded ({type(error).__name__}) and is not whole in the local cache; go "
            "online, free disk space, or give a local folder."
        ) from error


def data_set(name: str, config: str | None, split: str | None, revision: str | None) -> Any:
    """The rows of a data set's configuration, as ``datasets`` holds them.

    Raises GeometryBenchError where ``datasets`` is not installed or the rows cannot be had.
    """
    try:
        import datasets
    except ImportError:
        raise GeometryBenchError(
            f"The data set {name} needs the library datasets, which is not installed; run: pip install "
            "'geometry-bench[data]'."
        ) from None
    try:
        return datasets.load_dataset(name, config, split=split, revision=revision)
    except (ValueError, RuntimeError, datasets.exceptions.DatasetsError, *network_errors()) as error:
        if "gated" in str(error).lower():
            raise gated(name, "dataset") from error
        first = (str(error).splitlines() or [""])[0].strip().rstrip(".") or type(error).__name__
        raise GeometryBenchError(
            f"The data set {name} cannot be loaded ({first}); check its name, configuration, split and the connection, or "
            "save its rows to a file and name that."
        ) from error
