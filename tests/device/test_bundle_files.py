import os
import stat
import zipfile

import pytest

from smallhold.device.bundle_files import open_bundle_files, write_bundle_zip
from smallhold.errors import BundleError, IntegrityError


@pytest.fixture
def bundle(build):
    return build()


@pytest.fixture
def archive(bundle, tmp_path):
    write_bundle_zip(bundle, tmp_path / "bundle.zip")
    return tmp_path / "bundle.zip"


def test_directory_and_zip_hold_the_same(bundle, archive):
    folder, packed = open_bundle_files(bundle), open_bundle_files(archive)
    assert folder.names() == packed.names()
    for name in folder.names():
        assert folder.read(name) == packed.read(name) == (bundle / name).read_bytes()
        assert folder.read(name, limit=3) == packed.read(name, limit=3) == (bundle / name).read_bytes()[:3]


def test_any_zip_tool_reads_the_single_file(bundle, archive, tmp_path):
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        opened.extractall(tmp_path / "out")
    assert (tmp_path / "out/onnx/model.onnx").read_bytes() == (bundle / "onnx/model.onnx").read_bytes()


def test_the_same_files_give_the_same_zip(bundle, archive, tmp_path):
    os.utime(bundle / "card.md", (0, 0))
    (bundle / "card.md").chmod(0o755)
    write_bundle_zip(bundle, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()


def test_what_is_not_a_bundle_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("hello")
    with pytest.raises(IntegrityError, match="found neither"):
        open_bundle_files(tmp_path / "absent")
    with pytest.raises(IntegrityError, match=r"not a bundle: .* has no manifest\.json"):
        open_bundle_files(tmp_path / "empty")
    with pytest.raises(IntegrityError, match="neither a directory nor a readable ZIP"):
        open_bundle_files(tmp_path / "text")


@pytest.mark.parametrize("target", ["/etc/passwd", "card.md", "absent"])
def test_a_link_in_the_tree_is_refused(bundle, target):
    (bundle / "tasks/link.json").symlink_to(target)
    with pytest.raises(IntegrityError, match=r"'tasks/link\.json' is a symbolic link"):
        open_bundle_files(bundle)


def test_a_linked_folder_is_refused(bundle):
    (bundle / "more").symlink_to(bundle / "tasks")
    with pytest.raises(IntegrityError, match="symbolic link"):
        open_bundle_files(bundle)


def test_a_link_that_replaces_a_file_after_the_listing_is_not_followed(bundle):
    files = open_bundle_files(bundle)
    (bundle / "card.md").unlink()
    (bundle / "card.md").symlink_to("/etc/passwd")
    with pytest.raises(IntegrityError, match=r"'card\.md' cannot be read"):
        files.read("card.md")


def test_a_pipe_is_refused_and_not_waited_for(bundle):
    os.mkfifo(bundle / "pipe")
    with pytest.raises(IntegrityError, match="'pipe' is a special file"):
        open_bundle_files(bundle)


def test_a_name_that_is_not_in_the_bundle_is_refused(bundle, archive):
    for path in (bundle, archive):
        with pytest.raises(IntegrityError, match="has no file"):
            open_bundle_files(path).read("../secret")


def test_a_bundle_beyond_the_limit_is_refused(bundle, archive):
    for path in (bundle, archive):
        with pytest.raises(IntegrityError, match="too large: expected at most 100 bytes"):
            open_bundle_files(path, max_bytes=100)


def hand_made(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as opened:
        opened.writestr("manifest.json", b"{}")
        for name, data in members:
            opened.writestr(name, data)
    return path


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", "C:evil"])
def test_a_member_outside_the_bundle_is_refused(tmp_path, name):
    with pytest.raises(IntegrityError, match="unsafe path"):
        open_bundle_files(hand_made(tmp_path / "x.zip", [(name, b"x")]))


def test_a_compressed_member_is_refused(tmp_path):
    path = hand_made(tmp_path / "x.zip", [("a", b"x" * 1000)], zipfile.ZIP_DEFLATED)
    with pytest.raises(IntegrityError, match="is compressed, expected it stored"):
        open_bundle_files(path)


def test_an_encrypted_member_is_refused(archive):
    data = bytearray(archive.read_bytes())
    for mark, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        data[data.index(mark) + offset] |= 1
    archive.write_bytes(data)
    with pytest.raises(IntegrityError, match="is encrypted"):
        open_bundle_files(archive)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_occurs_twice_is_refused(tmp_path):
    with pytest.raises(IntegrityError, match="'a' occurs twice"):
        open_bundle_files(hand_made(tmp_path / "x.zip", [("a", b"1"), ("a", b"2")]))


def test_a_linked_member_is_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(IntegrityError, match="'link' is a symbolic link"):
        open_bundle_files(hand_made(tmp_path / "x.zip", [(link, b"/etc/passwd")]))


def test_a_zip_of_another_tool_is_refused_with_advice(tmp_path):
    with pytest.raises(IntegrityError, match="not laid out as a single-file bundle") as caught:
        open_bundle_files(hand_made(tmp_path / "x.zip", [("a", b"1")]))
    assert "smallhold bundle build" in str(caught.value.hint)


@pytest.mark.parametrize("change", [lambda data: data + b"\0", lambda data: b"\0" + data, lambda data: data[:-1]])
def test_bytes_before_after_or_missing_are_refused(archive, change):
    archive.write_bytes(change(archive.read_bytes()))
    with pytest.raises(BundleError):
        open_bundle_files(archive)
