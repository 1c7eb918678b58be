"""A part of an update at a time: what is left out comes later, once, whatever is asked twice or killed."""

import numpy as np
import pytest

from smallhold.errors import FederationError, RecipeError, UpdateRefused
from smallhold.federate import answer
from smallhold.federate.answer import ANSWER, read_answer
from smallhold.federate.engines.in_process import run_in_process
from smallhold.federate.filters import decode_delta, encode_delta
from smallhold.federate.job import AggregationChoice, FederatedJob, PrivacyChoice, UploadChoice
from smallhold.federate.messages import Update


def sparse_job(**settings):
    return FederatedJob(name="sparse", task="heart-disease", sites=("east",), **settings)


def sent(job, arrays, encoding, size):
    update = Update(job="0" * 64, site="east", round=0, base="0" * 64, num_examples=1, encoding=encoding, arrays=arrays)
    return decode_delta(update, job, size), len(update.to_bytes())


@pytest.mark.parametrize("bits", [0, 8, 4])
def test_what_is_sent_and_what_is_left_out_are_the_whole(bits):
    job, size = sparse_job(upload=UploadChoice(top_k=0.01, bits=bits)), 5000
    rng = np.random.default_rng(0)
    residual, total, came = None, np.zeros(size), np.zeros(size)
    for seed in range(30):
        delta = rng.normal(size=size).astype(np.float32)
        encoding, arrays, residual = encode_delta(delta, job, seed, residual)
        decoded, _ = sent(job, arrays, encoding, size)
        assert np.count_nonzero(decoded) <= 50
        total, came = total + delta, came + decoded
    assert np.allclose(came + residual, total, atol=1e-4)


def test_a_hundredth_of_the_numbers_at_four_bits_weighs_240_times_less():
    job, size = sparse_job(upload=UploadChoice(top_k=0.01, bits=4)), 1_000_000
    encoding, arrays, _ = encode_delta(np.random.default_rng(0).normal(size=size).astype(np.float32), job, 0)
    assert encoding == ("top-k", "quantized-4")
    assert 4 * size / sent(job, arrays, encoding, size)[1] > 240  # positions take about nine bits each


def test_no_site_sends_more_than_its_clip_norm_with_what_it_left_out():
    job = sparse_job(upload=UploadChoice(top_k=0.1), privacy=PrivacyChoice(clip_norm=1.0))
    residual = None
    for seed in range(5):
        encoding, arrays, residual = encode_delta(np.full(100, 9, np.float32), job, seed, residual)
        decoded, _ = sent(job, arrays, encoding, 100)
        assert np.linalg.norm(decoded) <= 1.0
    assert np.linalg.norm(residual) > 1.0  # and keeps it


def test_a_request_that_comes_again_trains_nothing_and_leaves_the_residual_alone(make_federation):
    federation = make_federation(upload=UploadChoice(top_k=0.3))
    server, site = federation.server(), federation.site("east")
    request = server.request()
    blob = site.respond(request)
    path = federation.folder / "sites" / "east" / ANSWER
    kept = path.read_bytes()
    assert federation.site("east").respond(request) == blob and path.read_bytes() == kept  # a restart, and asked again
    for name, other in federation.sites().items():
        server.receive(other.respond(request), sender=name)
    server.close_round()
    later = federation.site("east").respond(server.request())
    assert later != blob
    with pytest.raises(UpdateRefused, match=r"stale.*sent twice"):
        site.respond(request)
    assert read_answer(path).blob == later


def test_a_site_that_is_killed_before_its_answer_is_kept_answers_the_same(make_federation, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*arguments, **settings):
        raise Killed

    federation = make_federation(upload=UploadChoice(top_k=0.3, bits=8))
    server = federation.server()
    for number in range(3):
        request = server.request()
        with monkeypatch.context() as patch:
            patch.setattr(answer, "write_durably", killed)
            with pytest.raises(Killed):
                federation.site("east").respond(request)
        other = federation.site("east", "-whole")
        assert federation.site("east").respond(request) == other.respond(request), number
        for name, site in federation.sites().items():
            server.receive(site.respond(request), sender=name)
        server.close_round()


def test_leaving_out_and_sending_later_learns_what_sending_all_does(make_federation):
    found = {}
    for name, upload in {"all": UploadChoice(), "sparse": UploadChoice(top_k=0.3)}.items():
        federation = make_federation(upload=upload, rounds=40)
        server = federation.server(name)
        run_in_process(server, federation.sites(name), progress=lambda *_: None)
        found[name] = server.model
    assert np.abs(found["sparse"] - found["all"]).max() < 0.15 * np.abs(found["all"]).max()


@pytest.mark.parametrize("change", ["longer", "elsewhere", "twice", "another size"])
def test_a_sparse_update_that_is_none_is_refused(change):
    job, size = sparse_job(upload=UploadChoice(top_k=0.1)), 100
    encoding, arrays, _ = encode_delta(np.arange(1, 101, dtype=np.float32), job, 0)
    data = bytearray(arrays["delta"].tobytes())
    if change == "longer":
        data += b"\0"
    elif change == "another size":
        data[8:16] = (2**39).to_bytes(8, "little")  # a vector of two terabytes
    elif change == "elsewhere":
        data[24:30] = b"\xff" * 6
    else:
        data[-4:] = np.array([np.nan], np.float32).tobytes()
    with pytest.raises(UpdateRefused, match="malformed"):
        sent(job, {"delta": np.frombuffer(bytes(data), np.uint8)}, encoding, size)


def test_what_cannot_be_is_refused_by_the_name_of_its_key(tmp_path):
    with pytest.raises(RecipeError, match=r"upload.top_k: expected a share in \[0, 1\), got 1.5"):
        UploadChoice(top_k=1.5)
    with pytest.raises(RecipeError, match=r"upload\.top_k with aggregation\.method = 'trimmed_mean'"):
        FederatedJob(
            name="x", task="x", sites=tuple("abcde"), upload=UploadChoice(top_k=0.1),
            aggregation=AggregationChoice(method="trimmed_mean"),
        )  # fmt: skip
    path = tmp_path / ANSWER
    path.write_bytes(b"nonsense")
    with pytest.raises(FederationError, match="not a site's last answer"):
        read_answer(path)
