"""What an update passes on its way, and what a model may say about a site."""

from dataclasses import replace

import numpy as np
import pytest

from smallhold.device.trust import load_private_key
from smallhold.errors import BudgetExceeded, LedgerError, RecipeError, UpdateRefused
from smallhold.federate.engines.in_process import run_in_process
from smallhold.federate.filters import decode_delta, encode_delta
from smallhold.federate.job import AggregationChoice, PrivacyChoice, UploadChoice
from smallhold.federate.layout import Layout
from smallhold.federate.logistic import Logistic
from smallhold.federate.messages import TrainRequest, Update
from smallhold.federate.round_budget import LEDGER
from smallhold.privacy.accountant import Charge, compose_epsilon
from smallhold.privacy.ledger import read_ledger
from smallhold.privacy.randomness import UnsafeSeededRandom

pytest.importorskip("dp_accounting", reason="budgets need dp-accounting: pip install 'smallhold[dp]'")
PRIVATE = PrivacyChoice(clip_norm=0.5, noise_multiplier=2.0, epsilon=8.0, delta=1e-5)


def silent(done, total, loss):
    pass


def run(federation, **settings):
    server = federation.server(**settings)
    run_in_process(server, federation.sites(), progress=silent)
    return server


def test_eight_bits_weigh_a_quarter_and_teach_the_same(make_federation):
    exact = run(make_federation())
    rounded = make_federation(upload=UploadChoice(bits=8))
    rounded.folder = rounded.folder / "rounded"
    server = run(rounded)
    assert np.abs(server.model - exact.model).max() < 0.02 * np.abs(exact.model).max()
    rng = np.random.default_rng(0)
    large = Logistic(100_000)
    for bits, ratio in ((8, 3.9), (4, 7.6)):
        rounded.job = make_federation(upload=UploadChoice(bits=bits)).job
        delta = rng.normal(size=large.layout.size).astype(np.float32)
        encoding, arrays, _ = encode_delta(delta, rounded.job, seed=1)
        again = encode_delta(delta, rounded.job, seed=1)[1]
        update = Update(
            job="0" * 64, site="east", round=0, base="0" * 64, num_examples=1, encoding=encoding, arrays=arrays
        )
        assert 4 * large.layout.size / len(update.to_bytes()) > ratio
        assert np.array_equal(again["delta"], arrays["delta"])
        error = decode_delta(update, rounded.job, large.layout.size) - delta
        assert np.abs(error).max() < np.abs(delta).max() / (2 ** (bits - 1) - 1) * 1.001


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: {"delta": arrays["delta"][:-1]},
        lambda arrays: {"delta": arrays["delta"].astype(np.float32)},
        lambda arrays: {"delta": np.zeros_like(arrays["delta"])},
        lambda arrays: {"other": arrays["delta"]},
    ],
)
def test_a_rounded_update_that_is_none_is_refused(make_federation, change):
    federation = make_federation(upload=UploadChoice(bits=8))
    server = federation.server()
    update = Update.from_bytes(federation.site("east").respond(server.request()))
    with pytest.raises(UpdateRefused, match="malformed"):
        server.receive(replace(update, arrays=change(update.arrays)).to_bytes())
    with pytest.raises(UpdateRefused, match="encoded as"):
        server.receive(replace(update, encoding=()).to_bytes())


def test_no_site_outweighs_the_clip_norm_whatever_it_says(make_federation):
    federation = make_federation(privacy=PrivacyChoice(clip_norm=0.01), rounds=1)
    server = federation.server()
    request = TrainRequest.from_bytes(server.request())
    for name, site in federation.sites().items():
        if name == "west":
            delta = np.full(4, 1e6, np.float32)
            lie = Update(
                job=request.job, site=name, round=0, base=request.base, num_examples=10**9, arrays={"delta": delta}
            )
            server.receive(lie.to_bytes(), sender=name)
        else:
            server.receive(site.respond(server.request()), sender=name)
    assert np.linalg.norm(server.close_round()) <= 0.01


def test_noise_is_what_the_job_says_and_every_site_counts_alike(make_federation):
    federation = make_federation(privacy=PRIVATE, rounds=1)
    found = []
    for seed in range(200):
        server = federation.server(f"server-{seed}", random=UnsafeSeededRandom(seed))
        for name, site in federation.sites().items():
            server.receive(site.respond(server.request()), sender=name)
        found.append(server.close_round())
        server.close()
    spread = np.std(np.array(found), axis=0)  # noise_multiplier * clip_norm over four sites
    assert spread == pytest.approx(np.full(4, 2.0 * 0.5 / 4), rel=0.25)


def test_the_ledger_pays_for_every_round_and_is_signed(make_federation):
    federation = make_federation(privacy=PrivacyChoice(clip_norm=0.5, noise_multiplier=5.0, epsilon=8.0), rounds=3)
    run(federation)
    folder = federation.folder / "server"
    key = load_private_key(folder / "ledger.key").public_key()
    state = read_ledger((folder / LEDGER).read_bytes(), public_key=key)
    spent = [spend.epsilon["site"] for spend in state.spends]
    assert len(spent) == 3 and 0 < spent[0] < spent[1] < spent[2] < 8.0
    altered = (folder / LEDGER).read_bytes().replace(b'"epsilon"', b'"epsilom"', 1)
    with pytest.raises(LedgerError):
        read_ledger(altered, public_key=key)
    assert (folder / "ledger.key").stat().st_mode & 0o077 == 0


def test_a_job_beyond_its_budget_is_refused_before_anybody_is_asked(make_federation):
    federation = make_federation(privacy=PRIVATE, rounds=50)
    with pytest.raises(BudgetExceeded, match="50 rounds at noise_multiplier 2 cost epsilon"):
        federation.server()


def test_a_round_that_was_killed_between_paying_and_closing_is_paid_again_and_the_budget_ends(make_federation):
    once = compose_epsilon([Charge(noise_multiplier=2.0)], delta=1e-5)
    privacy = PrivacyChoice(clip_norm=0.5, noise_multiplier=2.0, epsilon=1.1 * once)
    federation = make_federation(privacy=privacy, rounds=1)
    server = federation.server()
    for name, site in federation.sites().items():
        server.receive(site.respond(server.request()), sender=name)
    server._spend()  # and then the process ended
    first = len((federation.folder / "server" / LEDGER).read_bytes().splitlines())
    with pytest.raises(BudgetExceeded):  # two models of this noise are beyond it
        server.close_round()
    assert server.round == 0 and len((federation.folder / "server" / LEDGER).read_bytes().splitlines()) == first


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_multiplier": 1.0}, "belong together"),
        ({"noise_multiplier": 1.0, "epsilon": 1.0}, "clip_norm"),
        ({"clip_norm": -1.0}, "0 or more"),
        ({"clip_norm": 1.0, "delta": 1.0}, "delta"),
    ],
)
def test_a_promise_that_nothing_stands_behind_is_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        PrivacyChoice(**settings)


def test_noise_under_a_robust_aggregator_is_refused(make_federation):
    with pytest.raises(RecipeError, match="sensitivity of trimmed_mean"):
        make_federation(privacy=PRIVATE, aggregation=AggregationChoice(method="trimmed_mean", trim=0.3))
    with pytest.raises(RecipeError, match="0, 4 or 8"):
        UploadChoice(bits=16)


def test_layouts_with_another_base_are_another_model():
    shapes = {"a": np.zeros(2, np.float32)}
    one, other = Layout.of(shapes, frozen="x"), Layout.of(shapes, frozen="y")
    assert one.digest_of(np.zeros(2, np.float32)) != other.digest_of(np.zeros(2, np.float32))
