"""Published archives: a zip, a compressed tar, or the folder that one was extracted to.

Nothing is extracted here. The clips may lie in a folder of their own inside the archive; names are
relative to it.
"""

from __future__ import annotations

import abc
import contextlib
import itertools
import lzma
import os
import pathlib
import re
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence

_ZIP_SUFFIXES = (".zip",)
_TAR_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")  # With checksums; a bare tar has none.


class Archive(abc.ABC):
    """Files under names.

    Args:
      path: A file or folder.
      clip_pattern: Regular expression of the path of a clip in the layout.

    Attributes:
      path: For messages.
      names: All files of the layout's folder, relative to it, with "/".
      clips: Those of them that match the pattern.

    Raises:
      ValueError: If the archive is damaged, holds a file twice, or holds no clip or several
        folders of clips.
    """

    def __init__(self, path: pathlib.Path, clip_pattern: str):
        self.path = path
        with self._damage():
            paths = sorted(name.removeprefix("./") for name in self._list())
        twice = [name for name, following in itertools.pairwise(paths) if name == following]
        if twice:
            raise ValueError(f"{path} holds {twice[0]} twice; get the archive again")
        pattern = re.compile(rf"((?:.*/)?)({clip_pattern})")
        clips = [match for name in paths if (match := pattern.fullmatch(name))]
        roots = {match[1] for match in clips}
        if len(roots) > 1:
            raise ValueError(
                f"{path} holds clips in several folders: {', '.join(map(repr, sorted(roots)))}; "
                "name one of them"
            )
        if not roots:
            shown = ", ".join(paths[:3]) or "nothing"
            raise ValueError(
                f"{path} is a different archive: none of its {len(paths):,} files ({shown}"
                f"{', ...' if len(paths) > 3 else ''}) is named like {clip_pattern!r}"
            )
        (self._root,) = roots
        self.names = frozenset(
            name.removeprefix(self._root) for name in paths if name.startswith(self._root)
        )
        self.clips = frozenset(match[2] for match in clips)

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yields (name, content) of these files, in the archive's own order, which is the fastest.

        Raises:
          ValueError: If the archive is damaged.
        """
        assert self.names.issuperset(names)
        wanted = {self._root + name for name in names}
        with self._damage():
            for name, content in self._read(wanted):
                yield name.removeprefix("./").removeprefix(self._root), content

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except (NotImplementedError, RuntimeError) as error:  # An exotic or encrypted zip.
            raise ValueError(
                f"{self.path} cannot be read by Python ({error}); extract it, and name the folder"
            ) from error
        except (
            *(zipfile.BadZipFile, tarfile.TarError, EOFError, OSError),
            *(zlib.error, lzma.LZMAError),
        ) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # Of the file system; those of gzip and bzip2 have no number.
            what = " ".join(str(error).split())  # Those of tarfile have several lines.
            raise ValueError(
                f"{self.path} is cut off or damaged ({what}); get the archive again"
            ) from error

    @abc.abstractmethod
    def _list(self) -> Iterator[str]:
        """Paths of all files."""

    @abc.abstractmethod
    def _read(self, paths: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Contents of some files; paths come without a leading "./"."""


class _Folder(Archive):
    def _list(self) -> Iterator[str]:
        for folder, _, files in os.walk(self.path, onerror=_raise, followlinks=True):
            prefix = pathlib.Path(folder).relative_to(self.path)
            yield from ((prefix / file).as_posix() for file in files)

    def _read(self, paths: Collection[str]) -> Iterator[tuple[str, bytes]]:
        for path in sorted(paths):
            yield path, (self.path / path).read_bytes()


def _raise(error: OSError) -> None:
    raise error


class _Zip(Archive):
    def _list(self) -> Iterator[str]:
        with zipfile.ZipFile(self.path) as file:
            yield from (info.filename for info in file.infolist() if not info.is_dir())

    def _read(self, paths: Collection[str]) -> Iterator[tuple[str, bytes]]:
        with zipfile.ZipFile(self.path) as file:
            for info in file.infolist():
                if info.filename.removeprefix("./") in paths:
                    yield info.filename, file.read(info)


class _Tar(Archive):
    def _list(self) -> Iterator[str]:
        with tarfile.open(self.path) as file:
            yield from (member.name for member in file if member.isfile())
            # A damaged header looks like the end: only the checksum after the real end tells.
            assert file.fileobj is not None
            while file.fileobj.read(1 << 20):
                pass

    def _read(self, paths: Collection[str]) -> Iterator[tuple[str, bytes]]:
        rest = set(paths)
        with tarfile.open(self.path) as file:
            while rest and (member := file.next()):
                if member.isfile() and member.name.removeprefix("./") in rest:
                    rest.remove(member.name.removeprefix("./"))
                    content = file.extractfile(member)
                    assert content is not None  # It is a file.
                    yield member.name, content.read()


def open_archive(
    manual_dir: str | os.PathLike[str], *, file_names: Sequence[str], clip_pattern: str
) -> Archive:
    """Opens what a user has of a published data set.

    Args:
      manual_dir: The archive, a folder that holds it, or the folder it was extracted to.
      file_names: Names of the archive, as globs; the first that matches counts.
      clip_pattern: Regular expression of the path of a clip.

    Raises:
      FileNotFoundError: If manual_dir does not exist.
      ValueError: If it is something else, or damaged.
    """
    path = pathlib.Path(manual_dir).expanduser()
    if path.is_dir():
        folder = path
        for name in file_names:
            archives = sorted(found for found in folder.glob(name) if found.is_file())
            if len(archives) > 1:
                names = ", ".join(found.name for found in archives)
                raise ValueError(f"{folder} holds several archives; name one of them: {names}")
            if archives:
                (path,) = archives
                break
    if path.is_dir():
        return _Folder(path, clip_pattern)
    if path.name.endswith(_ZIP_SUFFIXES):
        return _Zip(path, clip_pattern)
    if path.name.endswith(_TAR_SUFFIXES):
        return _Tar(path, clip_pattern)
    raise ValueError(
        f"{path} is no archive; its name must end in {', '.join(_ZIP_SUFFIXES + _TAR_SUFFIXES)}"
    )
