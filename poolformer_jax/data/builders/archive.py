"""Published archives: a zip, a compressed tar, or the folder that one was extracted to.

Nothing is extracted here. The clips may lie in a folder of their own inside the archive; names are
relative to it.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import itertools
import os
import pathlib
import re
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from poolformer_jax.files import plain, quoted

_ZIP_SUFFIXES = (".zip",)
_TAR_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")  # With checksums; a bare tar has none.

MAX_FILES = 1_000_000
"""Of an archive; Speech Commands has 105,835."""

_MAX_HEADER = 1 << 20  # Bytes of a long name, or of attributes, in a tar.


class _Fault(ValueError):
    """Something is wrong with an archive; the message says it all."""


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
      ValueError: If the archive is damaged, holds a file twice or too many, or holds no clip or
        several folders of clips.
    """

    def __init__(self, path: pathlib.Path, clip_pattern: str):
        self.path = path
        with self._damage():
            found = itertools.islice(self._list(), MAX_FILES + 1)
            paths = sorted(name.removeprefix("./") for name in found)
        self._check_count(len(paths))
        twice = [name for name, following in itertools.pairwise(paths) if name == following]
        if twice:
            raise ValueError(f"{path} holds {plain(twice[0])} twice; get the archive again")
        pattern = re.compile(rf"((?:.*/)?)({clip_pattern})")
        clips = [match for name in paths if (match := pattern.fullmatch(name))]
        roots = {match[1] for match in clips}
        if len(roots) > 1:
            raise ValueError(
                f"{path} holds clips in several folders: {_enumerate(sorted(roots), quoted)}; "
                "name one of them"
            )
        if not roots:
            shown = _enumerate(paths, plain) or "nothing"
            raise ValueError(
                f"{path} is a different archive: none of its {len(paths):,} files ({shown}) is "
                f"named like {clip_pattern!r}"
            )
        (self._root,) = roots
        self.names = frozenset(
            name.removeprefix(self._root) for name in paths if name.startswith(self._root)
        )
        self.clips = frozenset(match[2] for match in clips)

    def read(self, names: Collection[str], *, max_bytes: int) -> Iterator[tuple[str, bytes]]:
        """Yields (name, content) of these files, in the archive's own order, which is the fastest.

        Args:
          names: Of the files.
          max_bytes: A longer one is not read into memory, but an error.

        Raises:
          ValueError: If the archive is damaged, or a file is too long; it names the file.
        """
        assert self.names.issuperset(names)
        wanted = {self._root + name for name in names}
        with self._damage():
            for name, content in self._read(wanted, max_bytes):
                yield name.removeprefix("./").removeprefix(self._root), content

    @contextlib.contextmanager
    def _damage(self, name: str | None = None) -> Iterator[None]:
        """Turns what a reader of archives fails with, in the file `name` if given, into ValueError.

        The readers fail with whatever they trip over.
        """
        place = f"{self.path}" if name is None else f"{plain(name)} in {self.path}"
        try:
            yield
        except _Fault:
            raise
        except (NotImplementedError, RuntimeError) as error:  # An exotic or encrypted zip.
            raise _Fault(
                f"{place} cannot be read by Python ({plain(str(error))}); extract it, and name "
                "the folder"
            ) from error
        except Exception as error:
            # With a number they are of the file system, but that of a place before the start; those
            # of gzip and bzip2 have none.
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            what = plain(" ".join(str(error).split()))  # Those of tarfile have several lines.
            raise _Fault(
                f"{place} is cut off or damaged ({what}); get the archive again"
            ) from error

    def _check_count(self, count: int) -> None:
        if count > MAX_FILES:
            raise _Fault(f"{self.path} holds more than {MAX_FILES:,} files; name a smaller folder")

    def _check_size(self, name: str, size: int, max_bytes: int) -> None:
        if size > max_bytes:
            raise _Fault(
                f"{plain(name)} in {self.path} has {size:,} bytes, but no such file of this data "
                f"set has more than {max_bytes:,}; get the archive again"
            )

    @abc.abstractmethod
    def _list(self) -> Iterator[str]:
        """Paths of all files."""

    @abc.abstractmethod
    def _read(self, paths: Collection[str], max_bytes: int) -> Iterator[tuple[str, bytes]]:
        """Contents of some files; paths come without a leading "./"."""


def _enumerate(names: Sequence[str], show: Callable[[str], str]) -> str:
    return ", ".join([*map(show, names[:3]), *(["..."] if len(names) > 3 else [])])


class _Folder(Archive):
    """Links are followed; what is no file, such as a pipe, is left out."""

    def _list(self) -> Iterator[str]:
        found = 0
        # Folders to list, what lies above each, and the link that led there.
        rest: list[tuple[pathlib.Path, frozenset[tuple[int, int]], pathlib.Path]]
        rest = [(self.path, frozenset(), self.path)]
        while rest:
            folder, above, link = rest.pop()
            status = folder.stat()
            itself = status.st_dev, status.st_ino
            if itself in above:
                raise _Fault(
                    f"{plain(link)} is a link that leads back to a folder above it; remove the link"
                )
            with os.scandir(folder) as entries:
                for entry in entries:
                    # Folders count too: links between them can make more of them than files.
                    found += 1
                    self._check_count(found)
                    path = folder / entry.name
                    if os.path.isdir(path):  # Not of the entry: it fails for a link to itself.
                        rest.append((path, above | {itself}, path if path.is_symlink() else link))
                    elif os.path.isfile(path):
                        yield path.relative_to(self.path).as_posix()

    def _read(self, paths: Collection[str], max_bytes: int) -> Iterator[tuple[str, bytes]]:
        for path in sorted(paths):
            with open(self.path / path, "rb") as file:
                self._check_size(path, os.fstat(file.fileno()).st_size, max_bytes)
                content = file.read(max_bytes)
            yield path, content


class _Zip(Archive):
    def _list(self) -> Iterator[str]:
        with zipfile.ZipFile(self.path) as file:
            yield from (info.filename for info in file.infolist() if not info.is_dir())

    def _read(self, paths: Collection[str], max_bytes: int) -> Iterator[tuple[str, bytes]]:
        with zipfile.ZipFile(self.path) as file:
            for info in file.infolist():
                if info.filename.removeprefix("./") not in paths:
                    continue
                self._check_size(info.filename, info.file_size, max_bytes)
                with self._damage(info.filename):
                    # The others are unpacked without a limit, however short the file claims to be.
                    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                        raise NotImplementedError("its compression is not Deflate")
                    with file.open(info) as stream:
                        # One more byte than there are: only at the end is the checksum compared.
                        content = stream.read(info.file_size + 1)
                yield info.filename, content


class _Member(tarfile.TarInfo):
    """A member of a tar, refused where its header would take the memory or lead backwards."""

    _IN_MEMORY = (
        *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
        *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    )

    @classmethod
    def frombuf(cls, *args: Any, **kwargs: Any) -> _Member:
        member = super().frombuf(*args, **kwargs)
        if member.size < 0 or (member.type in cls._IN_MEMORY and member.size > _MAX_HEADER):
            raise tarfile.ReadError(f"a header of {member.size:,} bytes")
        return member


class _Tar(Archive):
    def _members(self, file: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        while (member := file.next()) is not None:
            if member.size < 0:  # From a long header, which is read after the other.
                raise tarfile.ReadError(f"a file of {member.size:,} bytes")
            # They are kept for random access, with all their attributes.
            file.members = []  # type: ignore[attr-defined]
            yield member

    def _list(self) -> Iterator[str]:
        with tarfile.open(self.path, tarinfo=_Member) as file:
            yield from (member.name for member in self._members(file) if member.isfile())
            # A damaged header looks like the end: only the checksum after the real end tells.
            assert file.fileobj is not None
            while file.fileobj.read(1 << 20):
                pass

    def _read(self, paths: Collection[str], max_bytes: int) -> Iterator[tuple[str, bytes]]:
        rest = set(paths)
        with tarfile.open(self.path, tarinfo=_Member) as file:
            for member in self._members(file):
                if member.isfile() and member.name.removeprefix("./") in rest:
                    rest.remove(member.name.removeprefix("./"))
                    self._check_size(member.name, member.size, max_bytes)
                    with self._damage(member.name):
                        content = file.extractfile(member)
                        assert content is not None  # It is a file.
                        data = content.read()
                    yield member.name, data
                    if not rest:
                        return


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
