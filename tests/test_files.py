"""Files are there whole or not at all."""

import json
import os

import pytest

from poolformer_jax.files import quoted, write_json, write_whole


def test_content_is_written_and_its_folder_made(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_whole(path, "Zoë\n")
    assert path.read_bytes() == "Zoë\n".encode()
    write_whole(path, b"\x00")
    assert path.read_bytes() == b"\x00"
    assert list(path.parent.iterdir()) == [path]


def test_json_is_indented_and_ends_with_its_line(tmp_path):
    write_json(tmp_path / "a.json", {"a": (1, 2)})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"a": [1, 2]}
    assert text.startswith('{\n  "a"') and text.endswith("}\n")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_whole(path, "old")

    def full(number):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)  # The content is written by then.
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_shown_of_a_file_is_quoted_and_short():
    assert quoted("a\nerror: \x1b[32mdone\u202e\udcff") == r"'a\nerror: \x1b[32mdone\u202e\udcff'"
    assert quoted("x" * 200) == "'" + "x" * 80 + "'..."
    assert quoted(("other", 1)) == "('other', 1)"
    nested = "\n"
    for _ in range(60):  # As text it would have 2^60 parts.
        nested = (nested, nested)
    assert len(quoted(nested)) < 90
