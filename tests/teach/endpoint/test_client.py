"""The client against a real server that misbehaves: each fault is survived, counted and named."""

import asyncio
import json
import logging
import signal
import subprocess
import sys
import threading
import time

import pytest

from smallhold.errors import EndpointError
from smallhold.sectors.data_sets import Privacy
from smallhold.teach.endpoint.client import Client, Question
from smallhold.teach.endpoint.recipe import CapChoice, EndpointChoice, PaceChoice
from smallhold.teach.endpoint.responses import StopAskingError
from smallhold.teach.endpoint.store import Store, Tokens

KEY = "sk-test-0123456789abcdef"


def question(number=0, *, text="made up", most=8):
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": f"Text:\n{text} {number}\n\nAnswer with"},
    ]
    body = {"model": "test-model", "messages": messages, "max_tokens": most}
    return Question(path="/chat/completions", body=body, sample=0, privacy=Privacy.PUBLIC)


class Asked:
    """A folder of answers and a way to ask; each call is a run of its own."""

    def __init__(self, folder, url):
        self.folder, self.url = folder, url
        self.events = self.spend = self.stopped = None

    def __call__(self, questions, *, key="", **settings):
        caps = {"requests": 1000, "tokens": 10_000_000}
        paces = {"connect_seconds": 10.0, "read_seconds": 20.0, "total_seconds": 20.0, "first_backoff_seconds": 0.02}
        for name, value in settings.items():
            (caps if name in CapChoice.__slots__ else paces)[name] = value
        endpoint = EndpointChoice(model="test-model", base_url=self.url, api_key_env="TEST_KEY" if key else "")
        answers = {}
        with Store(self.folder) as store:
            client = Client(endpoint, CapChoice(**caps), PaceChoice(**paces), store, environment={"TEST_KEY": key})
            self.stopped = asyncio.run(client.ask_all(questions, answers.__setitem__))
            self.events, self.spend = client.events, store.spend()
        return answers


@pytest.fixture
def ask(tmp_path, teacher):
    return Asked(tmp_path, teacher.url)


FAULTS = [
    ("status:500", "http_500"),
    ("status:502", "http_502"),
    ("status:408", "http_408"),
    ("status:409", "http_409"),
    ("retry_after:0", "http_429"),
    ("no_bytes", "broken_connection"),
    ("truncated_body", "broken_connection"),
    ("broken_stream", "broken_connection"),
    ("truncated_json", "malformed_json"),
    ("html", "wrong_content_type"),
    ("event_stream", "wrong_content_type"),
    ('json:{"choices": []}', "empty_choices"),
    ('json:{"answer": 3}', "wrong_shape"),
    ("json:[1, 2]", "wrong_shape"),
    ('json:{"choices": [{"message": 7}]}', "wrong_shape"),
    ("json:" + "[" * 5000, "malformed_json"),
    ("huge", "response_too_large"),
    ("slow_head", "timeout"),
    ("slow_body", "timeout"),
    ("silent", "timeout"),
]


@pytest.mark.parametrize(("fault", "name"), FAULTS, ids=[fault[:24] for fault, _ in FAULTS])
def test_a_fault_is_survived_counted_and_named(ask, teacher, fault, name):
    teacher.script = [fault]
    # Short deadlines only where one must pass: on a busy machine a good answer may take a second, too.
    deadlines = {"read_seconds": 1.0, "total_seconds": 2.0} if name == "timeout" else {}
    (answer,) = ask([question()], **deadlines).values()
    assert answer["choices"][0]["message"]["content"] == '{"label": "access"}'
    assert (dict(ask.events), len(teacher.seen), ask.stopped) == ({name: 1}, 2, None)
    # What may have been paid for counts at its bound; what the server declined costs no tokens.
    declined = name in ("http_408", "http_409", "http_429")
    assert ask.spend.maybe_paid == (0 if declined else 1)
    assert ask.spend.tokens == (Tokens(40, 6) if declined else Tokens(40, 6) + question().bound)


def test_a_slow_server_cannot_hold_a_request_longer_than_its_deadline(ask, teacher):
    teacher.script = ["slow_body"] * 3  # a byte every 50 ms for 10 s: no read ever waits long
    begun = time.monotonic()
    (answer,) = ask([question()], attempts=1, read_seconds=1.0, total_seconds=0.5).values()
    assert answer == "timeout"
    assert time.monotonic() - begun < 6


def test_an_answer_that_never_comes_is_a_named_failure_and_others_go_on(ask, teacher):
    teacher.script = ["status:500"] * 3
    answers = ask([question(n) for n in range(3)], attempts=3, concurrency=1)
    assert answers[0] == "http_500"
    assert all(isinstance(answers[n], dict) for n in (1, 2))


def test_a_refusal_of_one_question_is_not_repeated(ask, teacher):
    teacher.script = ["status:400", "good"]
    assert ask([question(0), question(1)], concurrency=1)[0] == "http_400:rate_limited"
    assert len(teacher.seen) == 2


@pytest.mark.parametrize(
    ("script", "least"), [("retry_after:1", 1.0), ("retry_date:2", 0.9), ("github:1", 1.0)], ids=["s", "date", "github"]
)
def test_a_pause_that_the_server_asks_for_is_kept_by_all(ask, teacher, script, least):
    teacher.script = [script]
    begun = time.monotonic()
    ask([question(n) for n in range(4)], concurrency=1)
    assert time.monotonic() - begun >= least
    assert len(teacher.seen) == 5


def test_a_used_up_limit_on_a_good_answer_is_waited_for(ask, teacher):
    teacher.extra_headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "400ms"}
    begun = time.monotonic()
    ask([question(n) for n in range(3)], concurrency=1)
    assert time.monotonic() - begun >= 0.8


def test_a_pause_of_hours_ends_the_run_instead(ask, teacher):
    teacher.script = ["good", "retry_after:20000"]
    answers = ask([question(n) for n in range(9)], concurrency=1)
    assert len(answers) == 1
    assert len(teacher.seen) == 2
    assert "asks to be left alone for" in str(ask.stopped)
    assert len(ask([question(n) for n in range(9)], concurrency=1)) == 9
    assert len(teacher.seen) == 10


def test_no_more_requests_at_a_time_than_allowed(ask, teacher):
    def let_go_when_no_more_come():
        while teacher.most_at_once < 3:
            time.sleep(0.01)
        time.sleep(0.3)
        teacher.hold.set()

    teacher.hold.clear()
    threading.Thread(target=let_go_when_no_more_come, daemon=True).start()
    ask([question(n) for n in range(12)], concurrency=3)
    assert teacher.most_at_once == 3


def test_the_pace_of_requests_is_kept(ask, teacher):
    begun = time.monotonic()
    ask([question(n) for n in range(23)], requests_per_minute=120.0)  # a full bucket holds 20, then two a second
    assert time.monotonic() - begun >= 1.5


def test_an_answer_is_asked_for_once_over_all_runs(ask, teacher):
    first = ask([question(n) for n in range(5)])
    again = ask([question(n) for n in range(7)])
    assert [again[n] for n in range(5)] == [first[n] for n in range(5)]
    assert len(teacher.seen) == 7
    assert set(teacher.answered.values()) == {1}


@pytest.mark.parametrize("cap", [1, 7, 20])
def test_no_request_is_sent_beyond_the_cap_on_requests(ask, teacher, cap):
    teacher.script = ["status:500", "no_bytes", "retry_after:0"]
    answers = ask([question(n) for n in range(30)], requests=cap)
    assert len(teacher.seen) <= cap
    assert ask.spend.requests == len(teacher.seen) == cap
    assert "the cap is reached" in str(ask.stopped)
    assert ask([question(n) for n in range(30)], requests=cap) == {
        n: answer for n, answer in answers.items() if isinstance(answer, dict)
    }
    assert len(teacher.seen) == cap  # a second run spends nothing more


def test_the_cap_on_tokens_holds_although_the_bound_is_found_before(ask, teacher):
    bound = question().bound.total
    cap = 5 * 46 + bound  # room for five settled answers and one more at its bound
    ask([question(n) for n in range(30)], tokens=cap, concurrency=4)
    assert len(teacher.seen) == 6
    assert ask.spend.tokens.total == 6 * 46 <= cap
    assert f"of {cap:,} tokens" in str(ask.stopped)


def test_the_cap_on_money_holds(ask, teacher):
    price = {"prompt_price": 1e6, "completion_price": 2e6}  # 1 for a token of a question, 2 for one of an answer
    bound = question().bound
    cap = 3 * (40 + 12) + bound.prompt + 2 * bound.completion
    ask([question(n) for n in range(30)], money=float(cap), concurrency=2, **price)
    assert len(teacher.seen) == 4
    assert "in money" in str(ask.stopped)


def test_the_bound_is_one(ask, teacher):
    """A token of a byte-level vocabulary stands for at least one byte: the body's bytes are at least its tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    worst = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))  # knows single bytes alone
    worst.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in ("plain", "Ünïcödé 漢字 🩺", '"quoted"\n\t\\'):
        asked = question(text=text)
        tokens = sum(len(worst.encode(message["content"]).ids) for message in asked.body["messages"])
        assert tokens < asked.bound.prompt
        assert asked.bound.completion == 8


def test_a_server_that_counts_more_than_the_bound_is_named(ask, teacher):
    teacher.script = [
        'json:{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 99999, "completion_tokens": 5}}'
    ]
    ask([question()])
    assert dict(ask.events) == {"more_tokens_than_the_bound": 1}
    assert ask.spend.tokens == Tokens(99999, 5)


@pytest.mark.parametrize(
    "usage", ['{"prompt_tokens": -4}', '{"prompt_tokens": 1' + 30 * "0" + ', "completion_tokens": 1}', "[]", "null"]
)
def test_a_server_that_does_not_count_costs_the_bound(ask, teacher, usage):
    teacher.script = ['json:{"choices": [{"message": {"content": "x"}}], "usage": ' + usage + "}"]
    ask([question()])
    assert dict(ask.events) == {"usage_not_told": 1}
    assert ask.spend.tokens == question().bound


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_refusal_of_everything_ends_the_run_at_once(ask, teacher, status):
    teacher.script = [f"status:{status}"]
    assert ask([question(n) for n in range(9)], concurrency=1) == {}
    assert len(teacher.seen) == 1
    assert f"({status})" in str(ask.stopped)


def test_a_redirect_is_not_followed(ask, teacher):
    teacher.script = [f"redirect:{teacher.url}/chat/completions"]
    ask([question()], concurrency=1)
    assert len(teacher.seen) == 1
    assert "redirect" in str(ask.stopped)


def test_proxies_of_the_environment_are_not_used(ask, teacher, monkeypatch, sockets):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert isinstance(ask([question()])[0], dict)
    assert {address for event, address in sockets if event == "socket.connect"} == {("127.0.0.1", teacher.port)}


@pytest.mark.parametrize("script", ["good", "status:500", "quotes_key:401", "quotes_key:400", "no_bytes"])
def test_the_key_is_sent_and_shows_nowhere(ask, teacher, tmp_path, caplog, capfd, script):
    caplog.set_level(logging.DEBUG)
    teacher.script = [script]
    ask([question()], key=KEY)
    assert teacher.headers[0]["authorization"] == f"Bearer {KEY}"
    shown = [repr(ask.stopped), str(ask.stopped), repr(ask.events), caplog.text, *capfd.readouterr()]
    assert not [text for text in shown if KEY in text]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


@pytest.mark.parametrize("value", ["", "   ", "two words", "half\nline\nX-Injected: 1", "naïve"])
def test_a_key_that_is_none_is_refused_without_showing_it(ask, teacher, value):
    with Store(ask.folder) as store, pytest.raises(EndpointError, match="environment variable TEST_KEY") as raised:
        Client(
            EndpointChoice(model="m", base_url=ask.url, api_key_env="TEST_KEY"),
            CapChoice(requests=1, tokens=1),
            PaceChoice(),
            store,
            environment={"TEST_KEY": value},
        )
    assert not value.strip() or value not in f"{raised.value} {raised.value.hint}"


SERVER = """
import json, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print(listener.getsockname()[1], flush=True)
body = json.dumps({"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
while True:
    connection, _ = listener.accept()
    connection.recv(65536)
    connection.sendall(f"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nConnection: close\\r\\n"
                       f"Content-Length: {len(body)}\\r\\n\\r\\n{body}".encode())
    connection.close()
"""


def start_server(port=0):
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline())


def test_a_killed_server_ends_the_run_and_a_new_one_goes_on(tmp_path):
    server, port = start_server()
    ask = Asked(tmp_path, f"http://127.0.0.1:{port}/v1")
    assert len(ask([question(n) for n in range(3)])) == 3
    server.send_signal(signal.SIGKILL)
    server.wait(10)
    answers = ask([question(n) for n in range(50)], attempts=2, give_up_after=3, concurrency=2)
    assert [n for n, answer in answers.items() if isinstance(answer, dict)] == [0, 1, 2]
    assert "questions in a row had no answer, the last one: no_connection" in str(ask.stopped)
    assert set(ask.events) == {"no_connection"}
    assert ask.spend.requests == 3  # what never left is not counted
    server, _ = start_server(port)
    try:
        assert len(ask([question(n) for n in range(50)])) == 50
        assert (ask.stopped, ask.spend.requests) == (None, 50)
    finally:
        server.kill()
        server.wait(10)


def test_a_client_that_was_stopped_waits_for_what_is_in_flight(tmp_path, teacher):
    """And what it waits for is kept."""

    async def stop_midway(client, answers):
        teacher.hold.clear()
        task = asyncio.create_task(client.ask_all([question(n) for n in range(9)], answers.__setitem__))
        while len(teacher.seen) < 2:
            await asyncio.sleep(0.01)
        client.stop(StopAskingError("enough"))
        teacher.hold.set()
        return await task

    answers = {}
    with Store(tmp_path) as store:
        endpoint = EndpointChoice(model="m", base_url=teacher.url)
        client = Client(endpoint, CapChoice(requests=99, tokens=10**6), PaceChoice(concurrency=2), store)
        stopped = asyncio.run(stop_midway(client, answers))
        assert store.spend().maybe_paid == 0
    assert str(stopped) == "enough"
    assert sorted(answers) == [0, 1]
    assert len(teacher.seen) == 2


def test_a_body_is_what_the_key_is_made_of():
    one = question()
    assert one.key("a") == question().key("a")
    keys = {one.key("a"), one.key("b"), question(1).key("a"), question(most=9).key("a")}
    assert len(keys) == 4
    assert json.loads(json.dumps(one.body)) == one.body
