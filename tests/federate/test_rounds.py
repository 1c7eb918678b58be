"""A job in one process: what counts, what is refused, and what a crash leaves."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from smallhold.errors import FederationError, JournalError, QuorumError, UpdateRefused
from smallhold.federate.engines.in_process import run_in_process
from smallhold.federate.messages import Update
from smallhold.federate.server import JOURNAL


def silent(done, total, loss):
    pass


def run(federation, name=""):
    server = federation.server(f"server{name}")
    run_in_process(server, federation.sites(name), progress=silent)
    server.close()
    return server


def test_a_federation_learns_what_no_site_was_told(federation):
    server = run(federation)
    assert server.is_finished and server.round == 5
    weight = federation.model.layout.unflatten(server.model)["weight"]
    assert weight[0] > 3 * np.abs(weight[1:]).max()


def test_the_order_of_arrival_changes_no_bit(federation):
    server, other = federation.server(), federation.server("other")
    sites = federation.sites()
    while not server.is_finished:
        request = server.request()
        for name in server.cohort:
            server.receive(sites[name].respond(request))
        for name in reversed(other.cohort):
            other.receive(sites[name].respond(request))
        assert server.close_round().tobytes() == other.close_round().tobytes()


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("moment", range(1, 54, 4))
def test_a_server_that_is_killed_anywhere_ends_like_one_that_was_not(federation, monkeypatch, moment):
    whole = run(federation, "-whole")
    left = moment
    from smallhold.federate import journal, server

    def counted(function):
        def call(*args, **settings):
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            return function(*args, **settings)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(server, "write_durably", counted(server.write_durably))
        patch.setattr(journal.RoundJournal, "append", counted(journal.RoundJournal.append))
        try:
            first = federation.server()
            run_in_process(first, federation.sites(), progress=silent)
        except Killed:
            pass
        finally:
            left = -1
    if (federation.folder / "server" / JOURNAL).exists():
        patch_lock_away(federation)
    again = run(federation)
    assert again.model.tobytes() == whole.model.tobytes()
    closed = [e.body["round"] for e in again._journal.entries if e.kind == "round_closed"]
    counted_updates = [(e.body["round"], e.body["site"]) for e in again._journal.entries if e.kind == "update"]
    assert closed == [0, 1, 2, 3, 4]  # none twice
    assert len(counted_updates) == len(set(counted_updates)) == 20


def patch_lock_away(federation):
    """A process that ended holds no lock; the one of this test goes on, so its folder is taken as a copy."""
    folder = federation.folder / "server"
    shutil.copytree(folder, folder.with_name("copy"))
    shutil.rmtree(folder)
    folder.with_name("copy").rename(folder)


def test_a_line_that_was_cut_short_is_dropped_and_nothing_else_is(federation):
    run(federation)
    path = federation.folder / "server" / JOURNAL
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    assert federation.server().is_finished
    lines = data.splitlines(keepends=True)
    for name, damaged in {
        "edited": data.replace(b'"num_examples":40', b'"num_examples":41', 1),
        "removed": b"".join(lines[:3] + lines[4:]),
        "swapped": b"".join([lines[0], lines[2], lines[1], *lines[3:]]),
        "nonsense": b"[]\n" + data,
    }.items():
        folder = federation.folder / name
        folder.mkdir()
        (folder / JOURNAL).write_bytes(damaged)
        with pytest.raises(JournalError, match="line"):
            federation.server(name)


def test_a_model_file_that_was_changed_is_not_gone_on_from(federation):
    server = federation.server()
    request = server.request()
    for name, site in federation.sites().items():
        assert server.receive(site.respond(request), sender=name).site == name
    server.close_round()
    server.close()
    path = federation.folder / "server" / "models" / "1.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(JournalError, match="not the model"):
        federation.server()


def test_an_update_that_was_changed_after_it_was_accepted_stops_the_round(federation):
    server = federation.server()
    request = server.request()
    for site in federation.sites().values():
        server.receive(site.respond(request))
    path = federation.folder / "server" / "updates" / "0" / "north.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(JournalError, match="altered after"):
        server.close_round()


def test_a_full_disk_at_the_end_of_a_round_can_be_mended(federation, monkeypatch):
    whole = run(federation, "-whole")
    server, sites = federation.server(), federation.sites()
    request = server.request()
    for site in sites.values():
        server.receive(site.respond(request))
    from smallhold.federate import server as module

    with monkeypatch.context() as patch:

        def full(*args, **settings):
            raise OSError(28, "No space left on device")

        patch.setattr(module, "write_durably", full)
        with pytest.raises(OSError, match="No space left"):
            server.close_round()
    run_in_process(server, sites, progress=silent)
    assert server.model.tobytes() == whole.model.tobytes()


def test_two_servers_do_not_share_a_job(federation):
    first = federation.server()
    with pytest.raises(JournalError, match="another server"):
        federation.server()
    first.close()
    federation.server().close()


def test_another_job_is_not_mixed_into_a_folder(federation):
    federation.server().close()
    federation.job = replace(federation.job, seed=1)
    with pytest.raises(FederationError, match="another job"):
        federation.server()


def changed(blob, **members):
    update = Update.from_bytes(blob)
    return replace(update, **members).to_bytes()


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("malformed", lambda blob: blob[:-3]),
        ("malformed", lambda blob: b""),
        ("malformed", lambda blob: b"\xff" * 64),
        ("malformed", lambda blob: changed(blob, arrays={"delta": np.zeros(3, np.float32)})),
        ("malformed", lambda blob: changed(blob, arrays={"delta": np.ones(4, np.float64)})),
        ("malformed", lambda blob: changed(blob, arrays={"delta": np.array([1, 2, np.nan, 4], np.float32)})),
        ("malformed", lambda blob: changed(blob, arrays={"delta": np.array([1, 2, np.inf, 4], np.float32)})),
        ("malformed", lambda blob: changed(blob, encoding=("pickle",))),
        ("malformed", lambda blob: changed(blob, site="../../etc")),
        ("malformed", lambda blob: changed(blob, num_examples=-1)),
        ("empty", lambda blob: changed(blob, arrays={"delta": np.zeros(4, np.float32)})),
        ("empty", lambda blob: changed(blob, num_examples=0)),
        ("foreign", lambda blob: changed(blob, job="0" * 64)),
        ("unknown_site", lambda blob: changed(blob, site="elsewhere")),
        ("stale", lambda blob: changed(blob, round=1)),
        ("stale", lambda blob: changed(blob, base="0" * 64)),
    ],
)
def test_what_must_not_count_is_refused_by_name_and_the_round_goes_on(federation, reason, change):
    server = federation.server()
    blob = federation.site("east").respond(server.request())
    with pytest.raises(UpdateRefused, match=f"refused \\({reason}\\)") as refusal:
        server.receive(change(blob))
    assert refusal.value.reason == reason
    server.receive(blob)
    assert server.waiting_for == ("north", "south", "west")


def test_an_update_counts_once_and_under_its_own_name(federation):
    server = federation.server()
    blob = federation.site("east").respond(server.request())
    with pytest.raises(UpdateRefused, match="unknown_site"):
        server.receive(blob, sender="north")
    server.receive(blob, sender="east")
    with pytest.raises(UpdateRefused, match="replayed"):
        server.receive(blob, sender="east")
    assert len(server.accepted) == 1


def test_a_flood_of_nonsense_does_not_fill_the_journal(federation):
    server = federation.server()
    for _ in range(200):
        with pytest.raises(UpdateRefused):
            server.receive(b"nonsense", sender="east")
    lines = (federation.folder / "server" / JOURNAL).read_bytes().splitlines()
    assert len(lines) == 2 and json.loads(lines[1])["body"]["reason"] == "malformed"


def test_a_round_without_a_quorum_does_not_close_and_keeps_what_came(federation):
    server = federation.server()
    server.receive(federation.site("east").respond(server.request()))
    with pytest.raises(QuorumError, match="at least 4 updates, got 1; waiting for north, south, west"):
        server.close_round()
    server.close()
    assert federation.server().waiting_for == ("north", "south", "west")


def test_a_quorum_closes_without_the_sites_that_fail(make_federation):
    federation = make_federation(quorum=3)
    sites = federation.sites()
    for row in federation.rows["west"].group:
        sites["west"].consent.withdraw(row)
    server = federation.server()
    run_in_process(server, sites, progress=silent)
    assert server.is_finished
    assert {e.body["site"] for e in server._journal.entries if e.kind == "update"} == {"east", "north", "south"}


def test_cohorts_are_drawn_by_the_seed_and_cover_the_sites(make_federation):
    federation = make_federation(cohort=2, rounds=12)
    server = federation.server()
    cohorts = []
    sites = federation.sites()
    while not server.is_finished:
        cohorts.append(server.cohort)
        request = server.request()
        outsider = next(name for name in sites if name not in server.cohort)
        with pytest.raises(UpdateRefused, match="not in the cohort"):
            server.receive(sites[outsider].respond(request))
        for name in server.cohort:
            server.receive(sites[name].respond(request))
        server.close_round()
    assert {len(cohort) for cohort in cohorts} == {2} and set().union(*cohorts) == set(sites)
    assert len(set(cohorts)) > 2


def test_the_same_request_gets_the_same_bytes_and_trains_once(federation):
    server, site = federation.server(), federation.site("east")
    request = server.request()
    blob = site.respond(request)
    # Whoever trained again would fail.
    site._model = type("Untrained", (), {"layout": federation.model.layout})()
    assert site.respond(request) == blob


def test_a_withdrawal_holds_from_the_next_round_on_and_the_update_says_so(federation):
    server, site = federation.server(), federation.site("east")
    before = Update.from_bytes(site.respond(server.request()))
    for name, other in federation.sites().items():
        server.receive(other.respond(server.request()), sender=name)
    server.close_round()
    digest = site.consent.digest
    site.consent.withdraw("east-3")
    site.consent.withdraw("east-3")
    site.consent.withdraw("nobody here")
    assert site.consent.digest != digest
    after = Update.from_bytes(site.respond(server.request()))
    assert (before.num_examples, before.withdrawn) == (40, 0) and (after.num_examples, after.withdrawn) == (39, 1)


def test_a_list_of_withdrawals_that_cannot_be_read_stops_the_site(federation):
    site = federation.site("east")
    (federation.folder / "sites" / "east" / "withdrawals.jsonl").write_text("{")
    with pytest.raises(Exception, match="malformed list of withdrawals"):
        site.respond(federation.server().request())


def test_a_site_does_not_train_from_a_model_that_is_not_the_one_that_was_announced(federation):
    from smallhold.federate.messages import TrainRequest

    request = TrainRequest.from_bytes(federation.server().request())
    other = replace(request, arrays={"model": np.ones(4, np.float32)})
    with pytest.raises(UpdateRefused, match="malformed"):
        federation.site("east").respond(other.to_bytes())
    with pytest.raises(UpdateRefused, match="foreign"):
        federation.site("east").respond(replace(request, job="1" * 64).to_bytes())
