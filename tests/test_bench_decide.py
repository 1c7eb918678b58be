"""The bench of decisions: what is computed from measurements, and that driver and worker answer as the backend does."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # the bench is no part of the package

from bench.decide.contestants import Driven, Starter
from bench.decide.llama_server import LlamaServer, Way
from bench.decide.machine import Energy, Stolen
from bench.decide.measure import take_turns
from bench.decide.process import ContestantError, Outcome, Process, cpu_seconds
from bench.decide.result import RATES, fastest, headline, paired, write_json
from bench.decide.turns import Turn, agreement, kept, summary
from bench.decide.workload import GGUF, Group, Workload
from tests.engine_library import build_engine

from smallhold.device.backends.engine import EngineBackend

ROWS = (8262, 8263)


def build_drivers() -> None:
    if shutil.which("cc") is None:
        pytest.skip("a C compiler is missing: make system")
    build_engine()


def turn(number: int, events: int, cpu: float, *, stolen: float = 0.0, joules: float | None = None) -> Turn:
    return Turn(number, events, cpu, tuple(1.0 + i for i in range(events)), stolen, joules)


def test_summary_of_two_turns() -> None:
    row = summary([turn(0, 3, 0.1, joules=6.0), turn(1, 3, 0.3, joules=3.0)])
    assert row["events_per_second_per_core"] == pytest.approx(20)  # of 30 and 10
    assert row["cpu_ms"] == pytest.approx(50)
    assert row["p50_ms"] == pytest.approx(2)
    assert row["p99_over_p50"] == pytest.approx(1.5)
    assert row["joules"] == pytest.approx(1.5)
    assert "joules" not in summary([turn(0, 3, 0.1)])


def test_turns_with_stolen_time_are_thrown_away() -> None:
    quiet, robbed = turn(0, 1, 1, stolen=0.01), turn(1, 1, 1, stolen=0.011)
    assert kept([quiet, robbed]) == [quiet]


def test_agreement_counts_choices_and_alerts_and_says_how_wide_a_disagreement_is() -> None:
    found = agreement([-2.0, -0.4, 0.5, 1.0], [-2.1, -0.6, -0.1, 1.0], alert=-0.5)
    assert found["equal_choices"] == 0.75
    assert found["equal_alerts"] == 0.75
    assert found["widest_disagreement"] == pytest.approx(0.5)
    assert found["largest_margin_difference"] == pytest.approx(0.6)
    text = agreement([-2.0, 0.5], [-math.inf, math.inf], alert=-0.5)
    assert text == {"decisions": 2, "equal_choices": 1.0, "widest_disagreement": 0.0}
    with pytest.raises(ValueError, match="same events"):
        agreement([1.0], [1.0, 2.0], alert=0.0)


def details(**rates: float) -> dict[str, Any]:
    """A run of two rounds in which the machine is half as fast in the second."""
    roles = {"engine": "engine", "a": "llama-server stock", "b": "llama-server stock"}
    rows = {
        name: {
            "role": roles[name],
            "events_per_second_per_core": rate,
            "rates": {"0": rate, "1": rate / 2},
            "p99_over_p50": 1.5,
        }
        for name, rate in rates.items()
    }
    conditions = [f"{kind}, 1 thread, {how}" for kind in ("stream", "window") for how in ("quiet", "beside a hog")]
    return {
        "turns": dict.fromkeys(conditions, rows),
        "rss_mb": {"engine": 10.0, "c": 40.0, "d": 20.0},
        "roles": roles | dict.fromkeys("cd", "our logic on llama.cpp"),
    }


def test_headline_takes_the_strongest_variant_of_a_peer_and_names_what_is_missing() -> None:
    result = headline(details(engine=40.0, a=5.0, b=8.0))
    assert set(result) == {*RATES, "rss_vs_llama", "p99_over_p50_hog"}
    assert result["event_vs_llama_server_stock"] == pytest.approx(5)
    assert result["rss_vs_llama"] == pytest.approx(0.5)
    assert result["p99_over_p50_hog"] == 1.5
    assert result["event_vs_genai_best"] is None


def test_ratios_are_paired_by_round() -> None:
    ratio = paired({"rates": {"0": 10.0, "1": 4.0}}, {"rates": {"1": 2.0, "0": 5.0, "2": 1.0}})
    assert ratio == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert paired({"rates": {"0": 1.0}}, {"rates": {"1": 1.0}}) is None
    assert fastest({"a": {"role": "x", "turns_thrown_away": 3}}, "x") is None


def test_results_are_whole_and_hold_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"a": math.nan, "b": [1.5, math.inf]})
    assert json.loads(path.read_text()) == {"a": None, "b": [1.5, None]}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text())["b"] == [1.5, None]
    assert list(tmp_path.iterdir()) == [path]


def test_stolen_time_is_a_share_of_all_cores(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 50 800 0 0 0 5 0 0\ncpu0 1 2 3\n")
    stolen = Stolen(stat)
    stat.write_text("cpu  150 0 60 836 0 0 0 9 0 0\ncpu0 1 2 3\n")
    assert stolen.share() == pytest.approx(0.04)


def test_energy_of_a_counter_that_wraps_and_of_none(tmp_path: Path) -> None:
    assert Energy(tmp_path).joules() is None
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "max_energy_range_uj").write_text("9999999\n")
    (zone / "energy_uj").write_text("9000000\n")
    energy = Energy(tmp_path)
    (zone / "energy_uj").write_text("1000000\n")
    assert energy.joules() == pytest.approx(2.0)


class Counting:
    """A contestant that says what it was asked and fails when told to."""

    pid = 0

    def __init__(self, fails_at: int = -1) -> None:
        self.asked: list[int] = []
        self._fails_at = fails_at

    def run(self, group: int) -> Outcome:
        if len(self.asked) == self._fails_at:
            raise ContestantError("gave up")
        self.asked.append(group)
        return Outcome(0.5, [2.0, 3.0], [0.0, 0.0])

    def first(self) -> None:
        self.run(0)

    def stop(self) -> None:
        pass


def test_everybody_answers_whole_passes_in_every_round_and_a_failure_is_said() -> None:
    said: list[str] = []
    able, failing = Counting(), Counting(fails_at=2)
    turns = take_turns({"able": able, "failing": failing}, [4, 7], rounds=3, seconds=0, is_hogged=True, say=said.append)
    assert able.asked == [4, 7] * 3
    assert [(t.round, t.events, t.cpu_seconds) for t in turns["able"]] == [(0, 4, 1.0), (1, 4, 1.0), (2, 4, 1.0)]
    assert len(turns["failing"]) == 1
    assert len(said) == 1
    assert "failing fell out: gave up" in said[0]


def test_a_process_that_is_silent_or_ends_is_an_error_with_what_it_wrote(tmp_path: Path) -> None:
    silent = Process([sys.executable, "-c", "import time; time.sleep(60)"], log=tmp_path / "a.txt")
    try:
        with pytest.raises(ContestantError, match="gave no answer in 0 s"):
            silent.hear(0.1)
    finally:
        silent.stop()
    ending = Process([sys.executable, "-c", "raise SystemExit('no model')"], log=tmp_path / "b.txt")
    with pytest.raises(ContestantError, match="ended, exit code 1: no model"):
        ending.hear()
    ending.stop()


def test_processor_time_of_another_process_is_read_from_outside(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass\nprint(time.process_time(), flush=True)\ninput()"
    busy = Process([sys.executable, "-c", burn], log=tmp_path / "a.txt")
    try:
        inside = busy.hear()
        assert cpu_seconds(busy.pid) == pytest.approx(inside, abs=0.05)
    finally:
        busy.stop()


@pytest.fixture(scope="module")
def workload() -> Workload:
    groups = [Group("stream", [1], [[40, 41], [42]]), Group("window", [1, 50], [[51, 52], [53, 54]])]
    return Workload(groups, ROWS, [], ())


#: Answers as llama.cpp 0.5.0 does (tools/server/server-task.cpp): a stand-in for a program that takes minutes to build.
_SERVER = """#!{python}
import http.server, json, sys
port, log = int(sys.argv[sys.argv.index("--port") + 1]), open(sys.argv[sys.argv.index("-m") + 1], "a")

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.reply({{"status": "ok"}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        print(json.dumps(body), file=log, flush=True)
        last = body["prompt"][-1]
        if body["n_predict"] == 0:
            self.reply({{"content": ""}})
        elif "n_probs" in body:
            top = [{{"id": 8263, "token": "", "prob": 0.75}}, {{"id": 8262, "token": "", "prob": 0.25}}]
            self.reply({{"completion_probabilities": [{{"id": 8263, "token": "", "prob": 0.75, "top_probs": top}}]}})
        else:
            self.reply({{"tokens": [last + 8200, 93, 4]}})

    def reply(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def ask_server(tmp_path: Path, way: Way) -> tuple[list[Outcome], list[dict[str, Any]]]:
    """Outcomes of a stream and a window, and what the server was sent."""
    program, received = tmp_path / "llama-server", tmp_path / "received.txt"
    program.write_text(_SERVER.format(python=sys.executable))
    program.chmod(0o755)
    groups = [Group("stream", [1, 50], [[51, 62], [63]]), Group("window", [1, 50], [[51, 62], [53, 63]])]
    server = LlamaServer(program, received, Workload(groups, ROWS, [], ()), way, answer=[93, 4], log=tmp_path / "log")
    try:
        outcomes = [server.run(group) for group in (0, 1)]
    finally:
        server.stop()
    return outcomes, [json.loads(line) for line in received.read_text().splitlines()]


def test_llama_server_is_sent_what_is_kept_and_what_is_new(tmp_path: Path) -> None:
    outcomes, sent = ask_server(tmp_path, "one token")
    assert [body["prompt"] for body in sent[:3]] == [[1, 50], [1, 50, 51, 62], [1, 50, 51, 62, 63]]
    assert [body["prompt"] for body in sent[3:]] == [[1, 50], [1, 50, 51, 62], [1, 50, 53, 63]]
    assert [body["n_predict"] for body in sent[:3]] == [0, 1, 1]
    assert all(body["cache_prompt"] for body in sent)
    for outcome in outcomes:
        assert outcome.margins == pytest.approx([math.log(3)] * 2)
        assert len(outcome.wall_ms) == 2
        assert 0 <= outcome.cpu_seconds < 10


def test_llama_server_s_text_says_a_choice_and_no_probability(tmp_path: Path) -> None:
    (stream, _), sent = ask_server(tmp_path, "json")
    assert stream.margins == [-math.inf, math.inf]  # the stand-in answers by the prompt's last token
    assert sent[1]["grammar"] == "root ::= (<[8262]> | <[8263]>) <[93]> <[4]>"
    assert sent[1]["n_predict"] == 3


def test_llama_server_without_a_grammar_is_lifted_to_the_choices(tmp_path: Path) -> None:
    _, sent = ask_server(tmp_path, "json, free")
    assert "grammar" not in sent[1]
    assert [row for row, _ in sent[1]["logit_bias"]] == list(ROWS)
    assert sent[1]["n_predict"] == 3


def test_llama_server_that_does_not_start_is_an_error_with_its_message(tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\necho no such model >&2\nexit 1\n")
    program.chmod(0o755)
    workload = Workload([], ROWS, [], ())
    with pytest.raises(ContestantError, match="ended before it was ready, exit code 1: no such model"):
        LlamaServer(program, tmp_path, workload, "one token", answer=[], log=tmp_path / "log")


def test_driver_and_worker_give_the_backend_s_logits(workload: Workload, tmp_path: Path) -> None:
    build_drivers()
    backend = EngineBackend(GGUF)
    starter = Starter(tmp_path, workload, lambda text: [ord(text[0])], margin=lambda probability: probability)
    for command in (starter.driver("engine", GGUF), starter.worker("engine", GGUF)):
        one = Driven(command, log=tmp_path / "log.txt")
        try:
            for number, group in enumerate(workload.groups):
                outcome = one.run(number)
                expected = []
                for event in range(len(group.events)):
                    prompt = group.prompt(event)
                    no, yes = backend.session().score(prompt, [len(prompt) - 1], ROWS)[0]
                    expected.append(float(yes) - float(no))
                assert outcome.margins == pytest.approx(expected, abs=1e-4)
                assert len(outcome.wall_ms) == 2
                assert 0 < outcome.cpu_seconds < 60
        finally:
            one.stop()


def test_driver_refuses_what_it_cannot_read(workload: Workload, tmp_path: Path) -> None:
    build_drivers()
    starter = Starter(tmp_path, workload, lambda text: [ord(text[0])], margin=lambda probability: probability)
    command = [str(word) for word in starter.driver("engine", GGUF)]
    for text, message in (
        ("begin 1 1\n", "expected `rows NO YES` first"),
        ("rows 1 2\nkeep 1 1\n", "expected a group to open with begin"),
        ("rows 1 2\nbegin 2 1\n", "expected 2 tokens"),
        ("rows 1 2\nbegin 1 1\nask 1 1\n", "expected begin, keep or try, got ask"),
    ):
        starter.events.write_text(text)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert message in done.stderr
