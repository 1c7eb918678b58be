import sqlite3
import stat

import pytest

from smallhold.errors import DataError
from smallhold.teach.endpoint.store import NAME, Spend, Store, Tokens


def test_a_request_counts_at_its_bound_until_its_true_tokens_are_known(tmp_path):
    with Store(tmp_path) as store:
        number = store.begin("k", "now", Tokens(100, 10))
        assert store.spend() == Spend(1, 1, Tokens(100, 10))
        store.answer(number, "k", "now", "body", Tokens(30, 4))
        assert store.spend() == Spend(1, 0, Tokens(30, 4))
        assert (store.response("k"), store.response("other")) == ("body", None)


def test_what_was_declined_costs_no_tokens_and_what_never_left_is_no_request(tmp_path):
    with Store(tmp_path) as store:
        store.end(store.begin("a", "now", Tokens(100, 10)), "refused")
        assert store.spend() == Spend(1, 0, Tokens(0, 0))
        store.end(store.begin("b", "now", Tokens(100, 10)), "unsent")
        assert store.spend() == Spend(1, 0, Tokens(0, 0))


def test_all_of_it_is_there_when_the_file_is_opened_again(tmp_path):
    with Store(tmp_path) as store:
        store.answer(store.begin("k", "now", Tokens(9, 9)), "k", "now", "body", Tokens(3, 4))
        store.begin("in flight", "now", Tokens(100, 10))
    with Store(tmp_path) as store:
        assert store.spend() == Spend(2, 1, Tokens(103, 14))
        assert store.response("k") == "body"


def test_response_and_true_tokens_are_written_together_or_not_at_all(tmp_path):
    with Store(tmp_path) as store:
        store.answer(store.begin("k", "now", Tokens(9, 9)), "k", "now", "body", Tokens(3, 4))
        number = store.begin("k", "now", Tokens(50, 5))
        with pytest.raises(DataError):  # a second response to the same key
            store.answer(number, "k", "now", "another", Tokens(1, 1))
        assert store.response("k") == "body"
        assert store.spend() == Spend(2, 1, Tokens(53, 9))


def test_a_second_process_is_told_to_wait(tmp_path):
    with Store(tmp_path), pytest.raises(DataError, match="locked") as raised:
        Store(tmp_path)
    assert "another process" in raised.value.hint
    Store(tmp_path).__exit__(None, None, None)


def test_only_the_owner_may_read_it(tmp_path):
    with Store(tmp_path) as store:
        store.begin("k", "now", Tokens(1, 1))
        modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o600}


def test_another_database_and_a_damaged_file_are_refused(tmp_path):
    with sqlite3.connect(tmp_path / NAME) as other:
        other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(DataError, match="another database"):
        Store(tmp_path)
    (tmp_path / NAME).write_bytes(b"not a database at all" * 100)
    with pytest.raises(DataError, match="not a database"):
        Store(tmp_path)
