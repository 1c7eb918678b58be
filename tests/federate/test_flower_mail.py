"""Answers that a SuperNode holds back until the next question; the grid here behaves as Flower's was seen to."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from smallhold.federate.engines.flower.mail import Mail


@dataclass
class Grid:
    """Nodes that answer at once, hold each answer back until the next message, have died, or never answer."""

    holds_back: set[int] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)
    silent: set[int] = field(default_factory=set)
    held: dict[int, list] = field(default_factory=dict)
    ready: dict[str, SimpleNamespace] = field(default_factory=dict)
    sent: list = field(default_factory=list)

    def push_messages(self, messages):
        ids = []
        for node, text in messages:
            id = f"m{len(self.sent)}"
            self.sent.append((node, text))
            ids.append(id)
            answer = SimpleNamespace(
                metadata=SimpleNamespace(reply_to_message_id=id),
                text=text,
                has_error=lambda node=node: node in self.dead,
            )
            if node in self.silent:
                continue
            if node in self.holds_back:
                for earlier in self.held.pop(node, []):
                    self.ready[earlier.metadata.reply_to_message_id] = earlier
                self.held[node] = [answer]
            else:
                self.ready[id] = answer
        return ids

    def pull_messages(self, ids):
        return [self.ready.pop(id) for id in ids if id in self.ready]


class Time:
    def __init__(self):
        self.now = 0.0

    def pause(self, seconds):
        self.now += seconds


def mail(grid, time):
    return Mail(grid, lambda node: (node, "nudge"), clock=lambda: time.now, pause=time.pause)


def asked(mail, about, nodes, timeout=100.0):
    return {node: answer.text for node, answer in mail.ask(about, {n: (n, about) for n in nodes}, timeout=timeout)}


def test_nodes_that_answer_are_heard_at_once_and_sent_nothing_more():
    grid, time = Grid(), Time()
    assert asked(mail(grid, time), "round 1", [7, 8]) == {7: "round 1", 8: "round 1"}
    assert (time.now, len(grid.sent)) == (0.0, 2)


def test_a_node_that_holds_its_answer_back_is_heard_in_every_round():
    grid, time = Grid(holds_back={8}), Time()
    post = mail(grid, time)
    waits = []
    for number in range(4):
        begun, about = time.now, f"round {number}"
        post.forget_all_but(about)
        assert asked(post, about, [7, 8]) == {7: about, 8: about}
        waits.append(time.now - begun)
    assert waits == [51.0, 6.0, 6.0, 6.0]  # half of the time while nobody knows, then no longer than it takes
    assert len(grid.sent) == 4 * 3


def test_an_answer_to_an_earlier_question_about_the_same_is_taken_and_the_node_known_from_then_on():
    grid, time = Grid(holds_back={8}), Time()
    post = mail(grid, time)
    assert asked(post, "round 1", [8], timeout=0.0) == {}  # given up before a nudge is due
    assert asked(post, "round 1", [8]) == {8: "round 1"} and time.now == 0.0
    assert asked(post, "round 2", [8]) == {8: "round 2"} and time.now == 6.0  # pushed behind the nudge


def test_what_is_of_no_more_use_is_no_answer():
    grid, time = Grid(holds_back={8}), Time()
    post = mail(grid, time)
    assert asked(post, "round 1", [8], timeout=0.0) == {}
    post.forget_all_but("round 2")
    assert asked(post, "round 2", [8], timeout=0.0) == {}
    assert asked(post, "round 2", [8]) == {8: "round 2"}


@pytest.mark.parametrize("held", [False, True])
def test_a_dead_node_is_told_and_its_earlier_answer_is_not(held):
    grid, time = Grid(dead={8}, holds_back={8} if held else set()), Time()
    post = mail(grid, time)
    answers = list(post.ask("round 1", {7: (7, "a"), 8: (8, "a")}, timeout=20.0))
    assert [node for node, answer in answers if answer.has_error()] == [8]


def test_silence_ends_with_the_time_and_nudges_are_few():
    grid, time = Grid(silent={9}), Time()
    assert asked(mail(grid, time), "round 1", [7, 9], timeout=600.0) == {7: "round 1"}
    assert 600 <= time.now <= 601 and len(grid.sent) <= 4
