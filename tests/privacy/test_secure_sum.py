"""Secure sums: exact whatever drops out, and nothing but the sum to be seen."""

import numpy as np
import pytest

from smallhold.errors import InputError, SecureSumError, ShapeError
from smallhold.privacy.packing import packed_size, unpack_bits, word_type
from smallhold.privacy.secure_sum import fit_graph
from smallhold.privacy.secure_sum.graph import is_connected, neighborhoods
from smallhold.privacy.secure_sum.masks import add_masks


@pytest.mark.parametrize("bits", [2, 8, 16, 20, 32, 45, 62])
def test_the_sum_is_exact_in_every_field(cohort, bits):
    world = cohort(4, bits=bits, length=11)
    world.advertise(), world.share(), world.send(), world.confirm()
    total = world.open()
    assert total.dtype == word_type(bits)
    assert total.tolist() == world.expected(world.keys)


@pytest.mark.parametrize("step", ["advertise", "share", "send", "confirm", "open"])
@pytest.mark.parametrize("gone", [1, 3])
def test_sites_may_drop_out_before_any_step(cohort, step, gone):
    world = cohort(10)
    included = None
    for name in ("advertise", "share", "send", "confirm", "open"):
        if name == step:
            world.drop(gone)
        if name == "send":
            included = list(world.alive)
        result = getattr(world, name)()
    assert result.tolist() == world.expected(included)
    assert world.server.survivors == set(included)


def test_fifty_sites_of_which_some_leave_at_every_step(cohort):
    world = cohort(50)
    world.drop(3)
    world.advertise()
    world.drop(4)
    world.share()
    world.drop(4)
    included = list(world.alive)
    world.send()
    world.drop(3)
    world.confirm()
    world.drop(2)
    assert world.open().tolist() == world.expected(included)


@pytest.mark.parametrize("gone", [0, 6])
def test_a_sparse_graph_gives_the_same_sum(cohort, gone):
    world = cohort(30, neighbors=12, share_threshold=7)
    world.advertise(), world.share()
    world.drop(world.alive[::4][:gone])
    world.send(), world.confirm()
    assert world.open().tolist() == world.expected(world.alive)
    dense = cohort(30)
    dense.advertise(), dense.share()
    assert world.sent["site-029"] < dense.sent["site-029"] + packed_size(40, 20) + 3000


def test_what_the_server_receives_looks_random(cohort):
    world = cohort(4, length=20_000, bits=16)
    for name in world.keys:
        world.vectors[name][:] = 7
    world.advertise(), world.share()
    first, second = (world.sites[name].mask(world.inboxes[name], world.vectors[name]) for name in world.alive[:2])
    body = np.frombuffer(first[-64 - 40_000 : -64], dtype=np.uint8)
    values = unpack_bits(body, 20_000, 16)
    assert abs(values.mean() / 2**16 - 0.5) < 0.01
    assert np.unique(values).size > 16_000
    assert first[-64 - 40_000 : -64] != second[-64 - 40_000 : -64]


def test_fifty_sites_of_which_fifteen_leave_at_the_worst_moment(cohort):
    """Shares were exchanged, so every survivor's vector carries masks that only the fifteen knew.

    At the size of a LoRA update, what a site sends in all is within five per cent of its update in the field.
    """
    world = cohort(50, length=108_544, bits=20)
    world.advertise(), world.share()
    world.drop(15)
    world.send(), world.confirm()
    assert world.open().tolist() == world.expected(world.alive)
    assert world.sent["site-049"] <= 1.05 * packed_size(108_544, 20)


def test_masks_of_a_pair_cancel_and_pieces_do_not_show():
    for size in (1, 65_535, 65_536, 65_537, 200_000):
        total = np.zeros(size, dtype=np.uint32)
        add_masks(total, [(b"k" * 32, 1)])
        whole = total.copy()
        add_masks(total, [(b"k" * 32, -1)])
        assert not total.any()
        longer = np.zeros(size + 100_000, dtype=np.uint32)
        add_masks(longer, [(b"k" * 32, 1)])
        np.testing.assert_array_equal(longer[:size], whole)


def test_every_site_has_its_neighbours_and_the_ring_is_random():
    sites = [f"{place:02d}" for place in range(21)]
    graph = neighborhoods(sites, b"a" * 32, 6)
    assert all(len(others) == 6 and site not in others for site, others in graph.items())
    assert all(site in graph[other] for site, others in graph.items() for other in others)
    assert graph != neighborhoods(sites, b"b" * 32, 6)
    assert neighborhoods(sites, b"a" * 32, None)["00"] == tuple(sites[1:])


def test_pieces_of_a_graph_are_seen():
    ring = {"a": ("b",), "b": ("a", "c"), "c": ("b", "d"), "d": ("c",)}
    assert is_connected(ring, ring)
    assert not is_connected({"a", "c", "d"}, ring)
    assert is_connected({"b"}, ring)


def test_a_graph_is_as_sparse_as_its_bounds_allow():
    size = fit_graph(1000, max_corrupt=0.1, max_dropped=0.1)
    assert 30 < size.neighbors < 120
    assert size.neighbors // 2 < size.share_threshold <= size.neighbors
    safer = fit_graph(1000, max_corrupt=0.2, max_dropped=0.1)
    assert safer.neighbors > size.neighbors
    with pytest.raises(InputError, match="no sparse graph of 20 sites"):
        fit_graph(20, max_corrupt=0.3, max_dropped=0.3)


@pytest.mark.parametrize("num_sites", [5, 10, 12])
@pytest.mark.parametrize("changes", [{}, {"trusts_server_to_follow_protocol": True}])
def test_thresholds_below_their_bound_are_refused(cohort, num_sites, changes):
    fewest = num_sites // 2 + 1 if changes else 2 * num_sites // 3 + 1
    cohort(num_sites, threshold=fewest, **changes)
    with pytest.raises(InputError, match=f"threshold: expected a whole number from {fewest} to {num_sites}"):
        cohort(num_sites, threshold=fewest - 1, **changes)


def test_settings_that_protect_nothing_are_refused(cohort):
    with pytest.raises(InputError, match="a sum of two shows each the other"):
        cohort(2)
    with pytest.raises(InputError, match="expected both or neither"):
        cohort(10, neighbors=4)
    with pytest.raises(InputError, match="expected an even number, got 5"):
        cohort(10, neighbors=5, share_threshold=4)
    with pytest.raises(InputError, match="share_threshold: expected a whole number from 3 to 4"):
        cohort(10, neighbors=4, share_threshold=2)
    with pytest.raises(InputError, match="session: expected 1 to 200 printable"):
        cohort(5, session="")


def test_a_vector_of_another_form_is_refused(cohort):
    for wrong, message in (
        (np.zeros(41, dtype=np.uint32), r"expected uint32 \(40,\), got uint32 \(41,\)"),
        (np.zeros(40, dtype=np.uint64), "got uint64"),
        (np.full(40, 2**20, dtype=np.uint32), "an entry has more than 20 bits: 1048576"),
    ):
        world = cohort(4)
        world.advertise(), world.share()
        with pytest.raises(ShapeError, match=message):
            world.sites["site-000"].mask(world.inboxes["site-000"], wrong)
        with pytest.raises(SecureSumError, match="over for this site"):  # and the site has left the session
            world.sites["site-000"].mask(world.inboxes["site-000"], world.vectors["site-000"])
