"""Server and sites behind sockets: the same job, the same bytes, and what happens when one of them goes."""

import socket
import threading
import time

import pytest

from smallhold.errors import FederationError, QuorumError, UpdateRefused
from smallhold.federate.engines.in_process import run_in_process
from smallhold.federate.resident import answer_for_server, answer_for_site, ask, ask_patiently, listening


@pytest.fixture
def short(tmp_path_factory):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory(prefix="sh-") as folder:  # pytest's own folders are too long for a socket
        yield Path(folder)


def question(path, head, blob=b"", timeout_seconds=20.0):
    return ask(path, head, blob, timeout_seconds=timeout_seconds)


def test_a_job_over_sockets_gives_the_bytes_of_the_oracle(federation, short):
    oracle = federation.server("oracle")
    run_in_process(oracle, federation.sites("-oracle"), progress=lambda *_: None)
    server, sites = federation.server(), federation.sites()
    from contextlib import ExitStack

    with ExitStack() as stack:
        stack.enter_context(listening(short / "server", answer_for_server(server)))
        for name, site in sites.items():
            stack.enter_context(listening(short / name, answer_for_site(site)))
            assert question(short / name, {"ask": "name"})[0] == {"site": name}
        while not (status := question(short / "server", {"ask": "status"})[0])["is_finished"]:
            _, request = question(short / "server", {"ask": "request"})
            for name in status["cohort"]:
                _, blob = question(short / name, {"ask": "respond"}, request)
                question(short / "server", {"ask": "receive", "sender": name}, blob)
            question(short / "server", {"ask": "close_round", "round": status["round"]})
            again, _ = question(short / "server", {"ask": "close_round", "round": status["round"]})
            assert again["round"] == status["round"] + 1  # a question that is asked twice closes one round
    assert server.model.tobytes() == oracle.model.tobytes()
    assert not (short / "server").exists()


def test_errors_keep_their_names_on_the_way(federation, short):
    server = federation.server()
    with listening(short / "server", answer_for_server(server)):
        with pytest.raises(UpdateRefused, match=r"refused \(malformed\)") as refused:
            question(short / "server", {"ask": "receive"}, b"nonsense")
        assert refused.value.reason == "malformed"
        with pytest.raises(QuorumError, match="at least 4 updates, got 0") as missing:
            question(short / "server", {"ask": "close_round", "round": 0})
        assert "run the same command again" in missing.value.hint
        with pytest.raises(FederationError, match="no such question 'pickle'"):
            question(short / "server", {"ask": "pickle"})


def test_nonsense_on_the_wire_does_not_stop_a_resident_process(federation, short):
    path = short / "site"
    with listening(path, answer_for_site(federation.site("east"))):
        for data in (b"", b"\x00" * 3, (1 << 60).to_bytes(8, "big"), (5).to_bytes(8, "big") + b"[1]\nx", b"\xff" * 40):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.connect(str(path))
                connection.sendall(data)
        assert question(path, {"ask": "name"})[0] == {"site": "east"}


def test_a_wait_has_an_end(short):
    path = short / "slow"

    def slowly(frame):
        time.sleep(1.5)
        return {}, b""

    with listening(path, slowly), pytest.raises(TimeoutError):
        question(path, {"ask": "name"}, timeout_seconds=0.2)
    with pytest.raises(OSError):
        question(path, {"ask": "name"})


def test_a_socket_that_a_killed_process_left_is_taken_over_and_a_living_one_is_not(federation, short):
    path = short / "site"
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(str(path))
    left.close()
    answer = answer_for_site(federation.site("east"))
    with listening(path, answer):
        with pytest.raises(FederationError, match="answers there already"), listening(path, answer):
            pass
        assert question(path, {"ask": "name"})[0] == {"site": "east"}
    assert path.parent.stat().st_mode & 0o077 == 0
    with pytest.raises(FederationError, match="too long"), listening(short / ("x" * 120), answer):
        pass


def test_a_folder_that_others_may_enter_is_refused_and_left_as_it_is(federation, short):
    folder = short / "shared"
    folder.mkdir()
    folder.chmod(0o755)
    answer = answer_for_site(federation.site("east"))
    with pytest.raises(FederationError, match=r"mode 755\), expected 700"), listening(folder / "site", answer):
        pass
    assert folder.stat().st_mode & 0o777 == 0o755
    with listening(short / "new" / "site", answer):
        assert (short / "new").stat().st_mode & 0o777 == 0o700


def test_who_asks_patiently_waits_for_a_process_that_is_started_again(federation, short):
    path, found = short / "site", []
    head = {"ask": "name"}
    thread = threading.Thread(target=lambda: found.append(ask_patiently(path, head, timeout_seconds=20.0)[0]))
    thread.start()
    time.sleep(0.7)
    with listening(path, answer_for_site(federation.site("east"))):
        thread.join(timeout=20)
    assert found == [{"site": "east"}]
    with pytest.raises(OSError):
        ask_patiently(path, head, timeout_seconds=1.2)


def test_many_ask_at_once(federation, short):
    path, found = short / "site", []
    with listening(path, answer_for_site(federation.site("east"))):
        request = federation.server().request()
        threads = [
            threading.Thread(target=lambda: found.append(question(path, {"ask": "respond"}, request)[1]))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
    assert len(found) == 8 and len(set(found)) == 1
