"""Stories of attacks on a secure sum: by the server, by a site, by somebody between them."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.errors import InputError, SecureSumError
from smallhold.privacy.secure_sum import SecureSumConfig, SecureSumServer, SecureSumSite
from smallhold.privacy.secure_sum.envelope import SERVER, Kind, join_parts, join_set, seal, split_parts
from smallhold.privacy.shamir import SHARE_BYTES


def as_server(world, kind, body):
    """What a lying server signs."""
    return seal(kind, body, context=world.config.context(), sender=SERVER, key=world.server_key)


def as_site(world, name, kind, body):
    return seal(kind, body, context=world.config.context(), sender=name, key=world.keys[name])


def body_of(message, sender=""):
    return message[14 + len(sender) : -64]


def until(world, last):
    for step in ("advertise", "share", "send", "confirm"):
        getattr(world, step)()
        if step == last:
            return world
    raise AssertionError(last)


# The server


def test_a_server_that_invents_a_site_is_found_out(cohort):
    world = until(cohort(5), "advertise")
    invented = Ed25519PrivateKey.generate()
    stranger = seal(Kind.ADVERTISE, bytes(range(96)), context=world.config.context(), sender="zz", key=invented)
    roster = as_server(world, Kind.ROSTER, body_of(world.roster) + join_parts([stranger]))
    with pytest.raises(SecureSumError, match="'zz', who is not expected to take part"):
        world.sites["site-000"].share_keys(roster)


def test_a_server_cannot_put_its_own_keys_in_a_members_name(cohort):
    world = until(cohort(5), "advertise")
    parts = split_parts(body_of(world.roster))
    forged = seal(
        Kind.ADVERTISE, bytes(range(96)), context=world.config.context(), sender="site-003", key=world.server_key
    )
    roster = as_server(world, Kind.ROSTER, join_parts([*parts[:3], forged, parts[4]]))
    with pytest.raises(SecureSumError, match="a ADVERTISE message in the name of 'site-003' is not signed by it"):
        world.sites["site-000"].share_keys(roster)


def test_a_server_that_keeps_only_a_few_sites_is_refused(cohort):
    world = until(cohort(6), "advertise")
    parts = split_parts(body_of(world.roster))
    with pytest.raises(SecureSumError, match="too few sites: expected at least 5, the roster has 2"):
        world.sites["site-000"].share_keys(as_server(world, Kind.ROSTER, join_parts(parts[:2])))


def test_a_server_that_names_a_site_twice_is_refused(cohort):
    world = until(cohort(5), "advertise")
    parts = split_parts(body_of(world.roster))
    with pytest.raises(SecureSumError, match="names 'site-001' twice or out of order"):
        world.sites["site-000"].share_keys(
            as_server(world, Kind.ROSTER, join_parts([*parts[:2], parts[1], *parts[2:]]))
        )


def test_a_server_that_exchanges_a_sites_own_keys_is_refused(cohort):
    world = cohort(5)
    twin = SecureSumSite(world.config, site="site-002", key=world.keys["site-002"])  # an older, aborted start
    old = twin.advertise()
    world.advertise()
    parts = split_parts(body_of(world.roster))
    roster = as_server(world, Kind.ROSTER, join_parts([*parts[:2], old, *parts[3:]]))
    with pytest.raises(SecureSumError, match="does not hold this site's own keys"):
        world.sites["site-002"].share_keys(roster)


def test_a_server_that_asks_for_both_masks_of_a_site_gets_neither(cohort):
    """It tells one half that site-000 sent its vector and the other half that it did not."""
    world = until(cohort(9), "send")
    everybody = join_set(world.sites, sorted(world.sites))
    without = join_set(sorted(world.sites)[1:], sorted(world.sites))
    views = {name: everybody if place < 5 else without for place, name in enumerate(world.alive)}
    signed = {name: world.sites[name].confirm(as_server(world, Kind.SURVIVORS, views[name])) for name in world.alive}
    confirmations = as_server(
        world,
        Kind.CONFIRMATIONS,
        join_parts([place.to_bytes(2, "big") + signed[name][-64:] for place, name in enumerate(world.alive)]),
    )
    with pytest.raises(SecureSumError, match="a CONFIRM message in the name of 'site-005' is not signed by it"):
        world.sites["site-001"].open_shares(confirmations)
    # Only those of the own view: too few on either side, since the threshold is over two thirds.
    few = as_server(
        world,
        Kind.CONFIRMATIONS,
        join_parts(
            [place.to_bytes(2, "big") + signed[name][-64:] for place, name in enumerate(world.alive) if place < 5]
        ),
    )
    with pytest.raises(SecureSumError, match="too few sites confirm the survivors: expected at least 7, got 5"):
        world.sites["site-002"].open_shares(few)


def test_one_signature_many_times_is_one(cohort):
    world = until(cohort(6), "send")
    signed = world.sites["site-000"].confirm(world.survivors)[-64:]
    world.sites["site-001"].confirm(world.survivors)
    parts = join_parts([(0).to_bytes(2, "big") + signed] * 6)
    with pytest.raises(SecureSumError, match="expected at least 5, got 1"):
        world.sites["site-001"].open_shares(as_server(world, Kind.CONFIRMATIONS, parts))


def test_a_second_set_of_survivors_is_refused_and_ends_the_session(cohort):
    world = until(cohort(6), "send")
    site = world.sites["site-001"]
    site.confirm(world.survivors)
    other = as_server(world, Kind.SURVIVORS, join_set(sorted(world.sites)[1:], sorted(world.sites)))
    with pytest.raises(SecureSumError, match="out of turn: expected OPENED, got CONFIRM"):
        site.confirm(other)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (slice(0, 3), "too few survivors: expected at least 5, got 3"),
        (slice(1, 6), "leave this site out"),
    ],
)
def test_survivor_sets_that_would_open_single_sites_are_refused(cohort, names, message):
    world = until(cohort(6), "send")
    chosen = sorted(world.sites)[names]
    with pytest.raises(SecureSumError, match=message):
        world.sites["site-000"].confirm(as_server(world, Kind.SURVIVORS, join_set(chosen, sorted(world.sites))))


def test_survivors_who_never_sent_shares_are_refused(cohort):
    world = cohort(6)
    world.advertise()
    world.drop(["site-005"])
    world.share()
    world.send()
    with pytest.raises(SecureSumError, match="name 'site-005', who never sent shares"):
        everybody = join_set(world.sites, sorted(world.sites))
        world.sites["site-000"].confirm(as_server(world, Kind.SURVIVORS, everybody))


def test_survivors_of_a_sparse_graph_must_hang_together(cohort):
    world = cohort(12, neighbors=2, share_threshold=2)
    world.advertise(), world.share()
    for name in world.alive:
        world.deliver(name, world.sites[name].mask(world.inboxes[name], world.vectors[name]))
    world.server.close_inputs()
    ring = world.server._roster.neighbors
    left, right = ring["site-000"]
    far = next(name for name in ring if name not in {"site-000", left, right, *ring[left], *ring[right]})
    survivors = set(ring) - {far, left}  # two gaps cut the ring, and the second neighbour is missing
    with pytest.raises(SecureSumError, match="too few of this site's neighbours are left: expected at least 2, got 1"):
        world.sites["site-000"].confirm(as_server(world, Kind.SURVIVORS, join_set(survivors, sorted(ring))))


def test_gaps_elsewhere_on_the_ring_are_seen_too(cohort):
    world = cohort(14, neighbors=2, share_threshold=2)
    world.advertise(), world.share()
    for name in world.alive:
        world.deliver(name, world.sites[name].mask(world.inboxes[name], world.vectors[name]))
    world.server.close_inputs()
    ring = world.server._roster.neighbors
    order = ["site-000"]
    while len(order) < len(ring):
        order.append(next(name for name in ring[order[-1]] if name not in order))
    survivors = set(ring) - {order[3], order[-4]}
    with pytest.raises(SecureSumError, match="fall into groups without common masks"):
        world.sites["site-000"].confirm(as_server(world, Kind.SURVIVORS, join_set(survivors, sorted(ring))))


def test_a_site_is_not_left_with_neighbours_that_may_all_be_corrupt(cohort):
    """The server hides the neighbours' shares from one site, which would then send its vector without their masks."""
    world = cohort(30, neighbors=8, share_threshold=5)
    world.advertise(), world.share()
    neighbors = world.server._roster.neighbors["site-000"]
    parts = split_parts(body_of(world.inboxes["site-000"]))
    kept = set(world.sites) - set(neighbors[:4])
    body = join_parts([join_set(kept, sorted(world.sites)), *parts[5:]])
    with pytest.raises(SecureSumError, match="too few of this site's neighbours are left: expected at least 5, got 4"):
        world.sites["site-000"].mask(as_server(world, Kind.INBOX, body), world.vectors["site-000"])


def test_an_inbox_of_too_few_sites_is_refused(cohort):
    world = until(cohort(6), "share")
    parts = split_parts(body_of(world.inboxes["site-000"]))
    short = join_parts([join_set(["site-000", "site-001"], sorted(world.sites)), parts[1]])
    with pytest.raises(SecureSumError, match="too few sites sent shares: expected at least 5, got 2"):
        world.sites["site-000"].mask(as_server(world, Kind.INBOX, short), world.vectors["site-000"])


def test_shares_given_to_the_wrong_site_are_not_opened(cohort):
    world = until(cohort(5), "share")
    own, other = (split_parts(body_of(world.inboxes[name])) for name in ("site-000", "site-001"))
    swapped = as_server(world, Kind.INBOX, join_parts([own[0], *own[1:3], other[3], *own[4:]]))
    with pytest.raises(SecureSumError, match="shares from 'site-003' are not what it encrypted for this site"):
        world.sites["site-000"].mask(swapped, world.vectors["site-000"])


# Between server and sites


def test_a_message_of_another_session_is_refused_by_both_sides(cohort):
    world = cohort(5)
    world.advertise()
    old_roster = world.roster
    world.settings["session"] = "job 1 round 2"
    world.begin()
    world.sites["site-000"].advertise()
    with pytest.raises(SecureSumError, match="the server belongs to another session: replayed"):
        world.sites["site-000"].share_keys(old_roster)


def test_a_replayed_message_is_refused(cohort):
    world = cohort(5)
    message = world.sites["site-000"].advertise()
    world.server.receive(message)
    with pytest.raises(SecureSumError, match="'site-000' has sent its ADVERTISE message already: replayed"):
        world.server.receive(message)
    for name in world.alive[1:]:
        world.server.receive(world.sites[name].advertise())
    world.server.close_advertising()
    with pytest.raises(SecureSumError, match="expected SHARES, got ADVERTISE: out of turn"):
        world.server.receive(message)


@pytest.mark.parametrize("at", [0, 4, 6, 13, 20, 60, -30])
def test_a_flipped_bit_anywhere_is_refused(cohort, at):
    world = cohort(4)
    message = bytearray(world.sites["site-000"].advertise())
    message[at] ^= 1
    with pytest.raises(SecureSumError):
        world.server.receive(bytes(message))
    assert "site-000" in world.server.waiting_for  # nothing was taken: the true message still counts


@pytest.mark.parametrize("size", [0, 3, 13, 70, 100])
def test_a_cut_message_is_refused(cohort, size):
    world = cohort(4)
    with pytest.raises(SecureSumError, match=r"cut short|not signed|malformed"):
        world.server.receive(world.sites["site-000"].advertise()[:size])


def test_a_stranger_and_a_member_with_another_key_are_refused(cohort):
    world = cohort(4)
    with pytest.raises(InputError, match="'site-000' is not a member with this key"):
        SecureSumSite(world.config, site="site-000", key=Ed25519PrivateKey.generate())
    with pytest.raises(InputError, match=r"not the private half of config.server_key"):
        SecureSumServer(world.config, key=Ed25519PrivateKey.generate())
    stranger = seal(
        Kind.ADVERTISE, bytes(96), context=world.config.context(), sender="x", key=Ed25519PrivateKey.generate()
    )
    with pytest.raises(SecureSumError, match="'x', who is not expected to take part"):
        world.server.receive(stranger)


def test_other_settings_are_another_session(cohort):
    world = cohort(4)
    other = SecureSumConfig(**{**world.settings, "bits": 21})
    site = SecureSumSite(other, site="site-000", key=world.keys["site-000"])
    with pytest.raises(SecureSumError, match="replayed, or settings differ"):
        world.server.receive(site.advertise())


# A site


def test_a_site_that_missed_a_step_cannot_come_back(cohort):
    world = cohort(5)
    world.advertise()
    late = world.sites["site-000"].share_keys(world.roster)
    world.drop(["site-000"])
    world.share()
    with pytest.raises(SecureSumError, match="out of turn"):
        world.server.receive(late)
    assert "site-000" not in world.server.waiting_for
    with pytest.raises(SecureSumError, match="'site-000' is no longer part of the session"):
        world.server.receive(as_site(world, "site-000", Kind.INPUT, bytes(100)))


@pytest.mark.parametrize("body", [b"", bytes(99), bytes(101)])
def test_a_vector_of_another_size_is_refused(cohort, body):
    world = until(cohort(5), "share")
    with pytest.raises(SecureSumError, match=f"'site-001' sent a vector of {len(body)} bytes, expected 100"):
        world.server.receive(as_site(world, "site-001", Kind.INPUT, body))


def test_shares_and_openings_of_another_size_are_refused(cohort):
    world = until(cohort(5), "advertise")
    with pytest.raises(SecureSumError, match="'site-001' sent 5 bytes of shares, expected 4 times 82"):
        world.server.receive(as_site(world, "site-001", Kind.SHARES, bytes(5)))
    world = until(cohort(5), "confirm")
    with pytest.raises(SecureSumError, match="'site-001' opens 5 bytes, expected 5 shares"):
        world.server.receive(as_site(world, "site-001", Kind.OPENED, bytes(5)))


def test_one_wrong_share_is_found_and_left_out(cohort):
    world = until(cohort(6), "confirm")
    for name in world.alive:
        message = world.sites[name].open_shares(world.confirmations)
        if name == "site-002":
            message = as_site(world, name, Kind.OPENED, bytes(6 * SHARE_BYTES))
        world.server.receive(message)
    assert world.server.close().tolist() == world.expected(world.alive)


def test_wrong_shares_without_any_to_spare_are_refused_instead_of_a_wrong_sum(cohort):
    world = cohort(6)
    world.advertise(), world.share()
    world.drop(["site-005"])
    world.send(), world.confirm()
    for name in world.alive:
        message = world.sites[name].open_shares(world.confirmations)
        if name == "site-002":
            message = as_site(world, name, Kind.OPENED, bytes(6 * SHARE_BYTES))
        world.server.receive(message)
    with pytest.raises(
        SecureSumError, match="shares of the secret of 'site-000' do not give back what it committed to"
    ):
        world.server.close()


@pytest.mark.parametrize("step", ["advertise", "share", "send", "confirm"])
def test_too_few_at_any_step_end_the_session(cohort, step):
    world = cohort(6)
    for name in ("advertise", "share", "send", "confirm"):
        if name == step:
            world.drop(2)
            with pytest.raises(SecureSumError, match="expected at least 5, got 4"):
                getattr(world, name)()
            return
        getattr(world, name)()


def test_too_few_to_open_end_the_session(cohort):
    world = until(cohort(6), "confirm")
    world.drop(2)
    with pytest.raises(SecureSumError, match="too few shares of the secret of 'site-000': expected at least 5, got 4"):
        world.open()


def test_steps_cannot_be_skipped(cohort):
    world = cohort(5)
    with pytest.raises(SecureSumError, match="out of turn: INPUT cannot be closed while ADVERTISE is collected"):
        world.server.close_inputs()
    with pytest.raises(SecureSumError, match="out of turn: expected ADVERTISE, got OPENED"):
        world.sites["site-000"].open_shares(b"")
