import stat

import pytest

from smallhold.device.home import Home, init
from smallhold.device.trust import key_id, load_trusted_keys
from smallhold.errors import InputError


def test_the_home_is_where_the_environment_says(tmp_path):
    assert Home.default({"SMALLHOLD_HOME": str(tmp_path)}).path == tmp_path


def test_without_it_the_home_is_in_the_users_data_directory(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    assert Home.default({"XDG_DATA_HOME": str(tmp_path)}).path == tmp_path / "smallhold"
    assert Home.default({"XDG_DATA_HOME": "relative"}).path.parts[-3:] == (".local", "share", "smallhold")
    monkeypatch.setattr("sys.platform", "darwin")
    assert Home.default({}).path.parts[-2:] == ("Application Support", "smallhold")


def test_init_makes_private_folders_and_two_keys(tmp_path):
    home = Home(tmp_path / "new" / "home")
    init(home)
    for path in (home.path, home.keys, home.trust, home.slots):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert home.device_key().private_bytes_raw() != home.publisher_key().private_bytes_raw()
    assert set(load_trusted_keys(home.trust)) == {key_id(home.publisher_key().public_key())}


def test_init_again_changes_nothing(tmp_path):
    home = Home(tmp_path)
    init(home)
    before = {path: path.read_bytes() for path in home.path.rglob("*.pem")}
    init(home)
    assert {path: path.read_bytes() for path in home.path.rglob("*.pem")} == before


def test_trust_that_was_withdrawn_is_not_given_back(tmp_path):
    home = Home(tmp_path)
    init(home)
    for path in home.trust.iterdir():
        path.unlink()
    init(home)
    assert load_trusted_keys(home.trust) == {}


def test_a_damaged_key_is_named_and_kept(tmp_path):
    home = Home(tmp_path)
    init(home)
    home.device_key_path.write_bytes(b"")
    with pytest.raises(InputError, match=r"device\.pem is not a readable ed25519 private key"):
        init(home)
    assert home.device_key_path.read_bytes() == b""


def test_a_home_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        init(Home(tmp_path / "file" / "home"))
    with pytest.raises(InputError, match="no key at"):
        Home(tmp_path / "absent").device_key()
