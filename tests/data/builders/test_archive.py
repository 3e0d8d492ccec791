import pytest

from poolformer_jax.data.builders.archive import open_archive
from tests.data.builders.published import write_folder, write_tar, write_zip

FILES = {"a/1.wav": b"one", "b/2.wav": b"two" * 1_000, "list.txt": b"a/1.wav\n"}
LAYOUT = {"file_names": ("clips.zip", "clips*.tar.gz"), "clip_pattern": r"[ab]/\d\.wav"}


def write(kind, folder, files=FILES, root=""):
    match kind:
        case "zip":
            return write_zip(folder / "clips.zip", files, root)
        case "tar":
            return write_tar(folder / "clips.tar", files, root)
        case "tar.gz":
            return write_tar(folder / "clips_v0.02.tar.gz", files, root)
        case "folder":
            return write_folder(folder / "clips", files, root)


@pytest.mark.parametrize("root", ["", "./", "inner/", "two/folders/"])
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "folder"])
def test_names_and_contents_do_not_depend_on_the_packing(tmp_path, kind, root):
    archive = open_archive(write(kind, tmp_path, root=root), **LAYOUT)
    assert archive.names == set(FILES)
    assert archive.clips == {"a/1.wav", "b/2.wav"}
    assert dict(archive.read(archive.names)) == FILES
    assert dict(archive.read(["b/2.wav"])) == {"b/2.wav": FILES["b/2.wav"]}
    assert archive.read_text("list.txt") == "a/1.wav\n"


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


def test_flipped_bit_is_found(tmp_path):
    path = write("zip", tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(b"2.wav") + 8] ^= 1  # Within the compressed data of b/2.wav.
    path.write_bytes(content)
    archive = open_archive(path, **LAYOUT)
    with pytest.raises(ValueError, match=r"clips.zip is cut off or damaged"):
        dict(archive.read(archive.clips))


def test_other_archive_is_named_with_what_it_holds(tmp_path):
    path = write_zip(tmp_path / "clips.zip", {"cat.png": b"", "dog.png": b""})
    with pytest.raises(ValueError, match=r"clips.zip is another archive: none of its 2 .*cat.png"):
        open_archive(path, **LAYOUT)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"none of its 0 files \(nothing\)"):
        open_archive(tmp_path / "empty", **LAYOUT)


def test_two_layouts_in_one_folder_are_ambiguous(tmp_path):
    write_folder(tmp_path, FILES, "one/")
    write_folder(tmp_path, FILES, "other/")
    with pytest.raises(ValueError, match="several folders: 'one/', 'other/'; name one"):
        open_archive(tmp_path, **LAYOUT)


def test_missing_path_and_unknown_kind_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist; name clips.zip or"):
        open_archive(tmp_path / "nowhere", **LAYOUT)
    (tmp_path / "clips.rar").touch()
    with pytest.raises(ValueError, match=r"clips.rar is no archive; its name must end in .zip"):
        open_archive(tmp_path / "clips.rar", **LAYOUT)
