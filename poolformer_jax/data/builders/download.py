"""Published archives from the Hugging Face Hub."""

from __future__ import annotations

import dataclasses
import logging
import pathlib

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubArchive:
    """An archive in a data set repository on the Hub.

    Attributes:
      repository: As "owner/name".
      file_names: Names that the archive has or had; the first that exists is taken.
    """

    repository: str
    file_names: tuple[str, ...]


def download_archive(archive: HubArchive) -> pathlib.Path:
    """Downloads into the Hub's cache folder, from which a second call takes it.

    An interrupted download goes on where it stopped.

    Raises:
      ImportError: If `huggingface_hub` is not installed.
      PermissionError: If the repository is gated and the token, if any, does not open it.
      OSError: If the Hub cannot be reached or has no such file.
    """
    try:
        from huggingface_hub import errors, hf_hub_download
    except ModuleNotFoundError as error:
        raise ImportError(
            "downloading needs huggingface_hub: pip install -e '.[download]'"
        ) from error
    page = f"huggingface.co/datasets/{archive.repository}"
    for file_name in archive.file_names:
        try:
            path = hf_hub_download(archive.repository, file_name, repo_type="dataset")
        except errors.GatedRepoError as error:
            raise PermissionError(
                f"{page} is gated: accept its terms there, make a token that may read it at "
                "huggingface.co/settings/tokens, and set it as HF_TOKEN or run `hf auth login`; "
                "then the same command again"
            ) from error
        except errors.LocalEntryNotFoundError as error:
            raise OSError(
                f"cannot reach {page} ({error}); get {file_name} by hand and pass its folder as "
                "--manual_dir"
            ) from error
        except errors.EntryNotFoundError:
            continue  # Perhaps under its other name.
        except Exception as error:  # The client's transport raises errors of its own.
            raise OSError(
                f"cannot download {file_name} from {page} ({type(error).__name__}: {error}); run "
                "the same command again, and it goes on where it stopped"
            ) from error
        _LOG.info("Downloaded %s", path)
        return pathlib.Path(path)
    raise OSError(
        f"{page} has no file {' or '.join(archive.file_names)} any more; get the archive elsewhere "
        "and pass its folder as --manual_dir"
    )
