import gzip
import os
import random
import re
import struct
import tarfile
import tracemalloc
import warnings
import zipfile

import pytest

from poolformer_jax.data.builders.archive import open_archive
from tests.data.builders.published import write_folder, write_tar, write_zip

FILES = {"a/1.wav": b"one", "b/2.wav": b"two" * 1_000, "list.txt": b"a/1.wav\n"}
LAYOUT = {"file_names": ("clips.zip", "clips*.tar.gz"), "clip_pattern": r"[ab]/\d\.wav"}


def write(kind, folder, files=FILES, root=""):
    match kind:
        case "zip":
            return write_zip(folder / "clips.zip", files, root)
        case "tar.xz":
            return write_tar(folder / "clips.tar.xz", files, root)
        case "tar.gz":
            return write_tar(folder / "clips_v0.02.tar.gz", files, root)
        case "folder":
            return write_folder(folder / "clips", files, root)


@pytest.mark.parametrize("root", ["", "./", "inner/", "two/folders/"])
@pytest.mark.parametrize("kind", ["zip", "tar.xz", "tar.gz", "folder"])
def test_names_and_contents_do_not_depend_on_the_packing(tmp_path, kind, root):
    archive = open_archive(write(kind, tmp_path, root=root), **LAYOUT)
    assert archive.names == set(FILES)
    assert archive.clips == {"a/1.wav", "b/2.wav"}
    assert dict(archive.read(archive.names, max_bytes=50_000)) == FILES
    assert dict(archive.read(["b/2.wav"], max_bytes=50_000)) == {"b/2.wav": FILES["b/2.wav"]}


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "folder"])
def test_a_folder_that_holds_the_archive_will_do(tmp_path, kind):
    (tmp_path / "notes.txt").write_text("not part of it")
    write(kind, tmp_path)
    assert open_archive(tmp_path, **LAYOUT).clips == {"a/1.wav", "b/2.wav"}


def test_files_of_a_mac_are_no_clips(tmp_path):
    path = write_zip(tmp_path / "clips.zip", FILES | {"__MACOSX/a/._1.wav": b"junk"})
    assert open_archive(path, **LAYOUT).clips == {"a/1.wav", "b/2.wav"}


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_cut_off_archive_is_damaged(tmp_path, kind):
    path = write(kind, tmp_path, FILES | {"a/3.wav": bytes(range(256)) * 50})
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ValueError, match=rf"{path} is cut off or damaged .*get the archive again"):
        open_archive(path, **LAYOUT)


NOISE = {f"a/{i}.wav": random.Random(i).randbytes(3_000) for i in range(10)}


@pytest.mark.parametrize("kind", ["zip", "tar.xz", "tar.gz"])
@pytest.mark.parametrize("place", [0.1, 0.3, 0.5, 0.7])
def test_flipped_bit_is_found(tmp_path, kind, place):
    # In a tar it may make a header look like the end, or change samples and nothing else.
    path = write(kind, tmp_path, NOISE)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path} is cut off or damaged .*get the archive again"):
        archive = open_archive(path, **LAYOUT)
        dict(archive.read(archive.clips, max_bytes=50_000))


def test_damaged_header_is_not_the_end_of_a_tar(tmp_path):
    path = write("tar.gz", tmp_path, NOISE)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[content.index(b"a/5.wav")] ^= 1
    # Recompressed, only the original checksum can tell: put it back.
    packed = gzip.compress(content)
    path.write_bytes(packed[:-8] + path.read_bytes()[-8:])
    with pytest.raises(ValueError, match="is cut off or damaged"):
        open_archive(path, **LAYOUT)


@pytest.mark.parametrize("field", ["flags", "method"])
def test_zip_that_python_cannot_read_says_what_to_do(tmp_path, field):
    path = write("zip", tmp_path)
    content = bytearray(path.read_bytes())
    # Encrypted, or Deflate64: in every local header, and in every entry of the directory.
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for match in re.finditer(re.escape(signature), bytes(content)):
            start = match.start() + offset
            content[start if field == "flags" else start + 2] = 1 if field == "flags" else 9
    path.write_bytes(content)
    archive = open_archive(path, **LAYOUT)
    with pytest.raises(ValueError, match=r"clips.zip cannot be read by Python .*; extract it"):
        dict(archive.read(archive.clips, max_bytes=50_000))


def test_a_file_that_is_there_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("a/1.wav", "a/2.wav", "a/1.wav"):
            file.writestr(name, b"")
    with pytest.raises(ValueError, match=r"clips.zip holds a/1.wav twice; get the archive again"):
        open_archive(tmp_path, **LAYOUT)


def test_several_archives_are_ambiguous_unless_the_first_name_decides(tmp_path):
    for name in ("clips_1.tar.gz", "clips_2.tar.gz"):
        write_tar(tmp_path / name, FILES)
    with pytest.raises(ValueError, match=r"several archives; name one of them: clips_1.*, clips_2"):
        open_archive(tmp_path, **LAYOUT)
    write("zip", tmp_path)
    assert open_archive(tmp_path, **LAYOUT).path.name == "clips.zip"


def test_linked_folders_are_followed(tmp_path):
    write_folder(tmp_path / "elsewhere", {"1.wav": b"one"})
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a").symlink_to(tmp_path / "elsewhere")
    archive = open_archive(tmp_path / "clips", **LAYOUT)
    assert dict(archive.read(archive.clips, max_bytes=50_000)) == {"a/1.wav": b"one"}


def test_a_folder_that_leads_back_to_itself_is_named(tmp_path):
    clips, beside = write("folder", tmp_path), tmp_path / "beside"
    beside.mkdir()
    (beside / "back").symlink_to(clips)
    for link, target, culprit in (
        (clips / "b" / "loop", clips, "b/loop"),
        # One of the two, but not b/up/clips, which is the folder itself.
        (clips / "b" / "up", tmp_path, "b/up(/beside/back)?"),
        (clips / "b" / "out", beside, "b/out/back"),
    ):
        link.symlink_to(target)
        with pytest.raises(ValueError, match=rf"{clips}/{culprit} is a link that leads back to"):
            open_archive(clips, **LAYOUT)
        link.unlink()
    (clips / "b" / "1.wav").symlink_to("1.wav")  # To itself: no file.
    os.mkfifo(clips / "b" / "3.wav")
    assert open_archive(clips, **LAYOUT).clips == {"a/1.wav", "b/2.wav"}


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "folder"])
def test_a_file_that_is_too_long_is_named_unread(tmp_path, kind):
    archive = open_archive(write(kind, tmp_path), **LAYOUT)
    fault = r"b/2.wav in .*clips.* has 3,000 bytes, but no such file .* more than 2,999; get the"
    with pytest.raises(ValueError, match=fault):
        dict(archive.read(archive.clips, max_bytes=2_999))
    assert len(dict(archive.read(archive.clips, max_bytes=3_000))) == 2


def test_a_zip_that_lies_about_a_length_takes_no_memory(tmp_path):
    long = bytes(50_000_000)  # 50 kB packed.
    path = write_zip(tmp_path / "clips.zip", {"a/1.wav": long})
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = content.index(signature) + offset
        content[start : start + 4] = struct.pack("<I", 1_000)
    path.write_bytes(content)
    del long
    archive = open_archive(path, **LAYOUT)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"a/1.wav in .*clips.zip is cut off or damaged \(Bad CRC"):
        dict(archive.read(archive.clips, max_bytes=50_000))
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def tar_of(*headers):
    """A compressed tar of headers with their content, also such as tarfile would not write."""
    return gzip.compress(b"".join(headers) + bytes(1024))


def tar_member(name, content=b"", *, kind=tarfile.REGTYPE, size=None):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content) if size is None else size
    padding = bytes(-len(content) % 512)
    return info.tobuf(tarfile.GNU_FORMAT) + content + padding


GOOD = tar_member("a/1.wav", b"one")
LONG = b"y" * (2 << 20)
SPARSE = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"


@pytest.mark.parametrize(
    ("headers", "fault"),
    [
        # Python would read these into memory, or go back and read the same header for ever.
        ([tar_member("x", LONG, kind=tarfile.GNUTYPE_LONGNAME), GOOD], "of 2,097,152 bytes"),
        ([tar_member("x", LONG, kind=tarfile.XHDTYPE), GOOD], "of 2,097,152 bytes"),
        ([GOOD, tar_member("a/2.wav", size=-1024)], "of -1,024 bytes"),
        ([tar_member("x", b"14 size=-1024\n", kind=tarfile.XHDTYPE), GOOD], "of -1,024 bytes"),
        (
            [
                tar_member("x", SPARSE, kind=tarfile.XHDTYPE),
                tar_member("a/1.wav", b"9" * 5_000 + b"\n"),
            ],
            "not enough values",
        ),
    ],
)
def test_headers_of_a_tar_are_not_believed(tmp_path, headers, fault):
    (tmp_path / "clips.tar.gz").write_bytes(tar_of(*headers))
    with pytest.raises(ValueError, match=rf"clips.tar.gz is cut off or damaged \(.*{fault}"):
        open_archive(tmp_path / "clips.tar.gz", **LAYOUT)


def test_special_members_are_no_files(tmp_path):
    kinds = (tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE)
    special = [tar_member(f"a/{i}.wav", kind=kind) for i, kind in enumerate(kinds, start=2)]
    (tmp_path / "clips.tar.gz").write_bytes(tar_of(GOOD, *special))
    assert open_archive(tmp_path, **LAYOUT).names == {"a/1.wav"}


def test_names_do_not_reach_the_terminal(tmp_path):
    name = "\x1b[2J\nerror: none"
    path = write_zip(
        tmp_path / "clips.zip", dict.fromkeys((name, "\x1b[2J/a/1.wav", "a/1.wav"), b"")
    )
    with pytest.raises(ValueError, match="several folders") as error:
        open_archive(path, **LAYOUT)
    assert str(error.value).isprintable()
    with pytest.raises(ValueError, match="a different archive") as error:
        open_archive(write_zip(tmp_path / "clips.zip", {name: b""}), **LAYOUT)
    assert str(error.value).isprintable()


def test_other_archive_is_named_with_what_it_holds(tmp_path):
    path = write_zip(tmp_path / "clips.zip", {"cat.png": b"", "dog.png": b""})
    with pytest.raises(ValueError, match=r"clips.zip is a different archive: .* its 2 .*cat.png"):
        open_archive(path, **LAYOUT)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"none of its 0 files \(nothing\)"):
        open_archive(tmp_path / "empty", **LAYOUT)


def test_two_layouts_in_one_folder_are_ambiguous(tmp_path):
    write_folder(tmp_path, FILES, "one/")
    write_folder(tmp_path, FILES, "other/")
    with pytest.raises(ValueError, match="several folders: 'one/', 'other/'; name one"):
        open_archive(tmp_path, **LAYOUT)


def test_unknown_kind_is_refused(tmp_path):
    (tmp_path / "clips.rar").touch()
    with pytest.raises(ValueError, match=r"clips.rar is no archive; its name must end in .zip"):
        open_archive(tmp_path / "clips.rar", **LAYOUT)
