"""In a folder of results only what is on its list is replaced or removed."""

import json

import pytest

from poolformer_jax import own_files

NAMES = ("metrics.json", "index.html")


def test_what_was_claimed_may_be_written_again(tmp_path):
    folder = tmp_path / "new"
    own_files.claim(folder, NAMES)
    (folder / "index.html").write_text("own")
    own_files.check(folder, NAMES)
    own_files.claim(folder, ["report.html"])
    assert own_files.listed(folder) == {*NAMES, "report.html"}
    (folder / "notes.txt").write_text("somebody's")
    own_files.check(folder, NAMES)


@pytest.mark.parametrize("listed", [False, True])
def test_a_file_that_is_not_on_the_list_is_in_the_way(tmp_path, listed):
    if listed:
        own_files.claim(tmp_path, NAMES[:1])
    (tmp_path / "index.html").symlink_to("nowhere")
    for function in (own_files.check, own_files.claim):
        with pytest.raises(FileExistsError, match=r"index.html is in the way and is kept: "):
            function(tmp_path, NAMES)
    own_files.claim(tmp_path, NAMES, own=["index.html"])  # Known otherwise.
    own_files.check(tmp_path, NAMES)


@pytest.mark.parametrize(
    "content", ['{"files": "ab"}', "{", "[]", '{"files": 3}', '{"files": [3]}', "\xff", "[" * 10**5]
)
def test_a_damaged_list_claims_nothing(tmp_path, content):
    (tmp_path / own_files.LIST_FILE).write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"written_files.json is damaged, .* choose another"):
        own_files.check(tmp_path, NAMES)


def test_names_never_lead_out_of_the_folder(tmp_path):
    names = ["../mine", "/etc/passwd", "..", ".", "", "sub/mine", "a.wav"]
    (tmp_path / own_files.LIST_FILE).write_text(json.dumps({"files": names}))
    assert own_files.listed(tmp_path) == {"a.wav"}


def test_links_and_half_written_files_are_removed_themselves(tmp_path):
    (tmp_path / "mine").write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.wav").symlink_to(tmp_path / "mine")
    own_files.remove(folder, ["a.wav", "missing.wav"])
    for name in ("a.wav.12.part", "a.wav.part", "b.wav.12.part"):
        (folder / name).touch()
    own_files.remove_half_written(folder, ["a.wav"])
    assert sorted(path.name for path in folder.iterdir()) == ["a.wav.part", "b.wav.12.part"]
    assert (tmp_path / "mine").read_text() == "mine"
