from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bratsml.tracking import outbox as outbox_module
from bratsml.tracking.outbox import Outbox, RefusedError, StoreAwayError
from bratsml.tracking.spool import Entry, Spool


def entry(number: int) -> Entry:
    return {"kind": "metrics", "number": number}


class FakeStore:
    """Takes entries, unless away or made to refuse a number."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.contents: list[str] = []
        self.is_away = False
        self.refuses: int | None = None
        self.fails: int | None = None

    def deliver(self, entry: Entry, folder: Path) -> None:
        if self.is_away or entry["number"] == self.fails:
            raise StoreAwayError("no answer")
        if entry["number"] == self.refuses:
            raise RefusedError("no such run")
        self.taken.append(entry["number"])
        if "kept" in entry:
            self.contents.append((folder / entry["kept"]).read_text())

    def is_there(self) -> bool:
        return not self.is_away


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture
def fake() -> FakeStore:
    return FakeStore()


@pytest.fixture
def outbox(fake: FakeStore, tmp_path: Path) -> Outbox:
    return Outbox(fake.deliver, Spool(tmp_path / "run"), fake.is_there)


def test_spool_keeps_order_over_processes(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "run")
    for number in range(3):
        spool.append(entry(number))
    again = Spool(tmp_path / "run")
    assert len(again) == 3
    assert again.first() == entry(0)
    again.remove_first()
    assert Spool(tmp_path / "run").first() == entry(1)


def test_spool_drops_a_torn_last_line_and_goes_on(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "run")
    spool.append(entry(0))
    with (tmp_path / "run" / "entries.jsonl").open("ab") as stream:
        stream.write(b'{"kind": "metr')
    again = Spool(tmp_path / "run")
    again.append(entry(1))
    assert len(Spool(tmp_path / "run")) == 2


def test_spool_folder_goes_with_its_last_entry(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "run")
    spool.append(entry(0))
    spool.remove_first()
    assert not (tmp_path / "run").exists()


def test_kept_files_do_not_overwrite_each_other_after_a_restart(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    spool = Spool(tmp_path / "run")
    for number in range(2):
        source.write_text(str(number))
        kept = spool.keep_file(source)
        spool.append({**entry(number), "kept": kept})
        source.unlink()
    spool.remove_first()
    again = Spool(tmp_path / "run")
    source.write_text("2")
    kept = again.keep_file(source)
    assert (again.folder / kept).read_text() == "2"
    assert (again.folder / again.first()["kept"]).read_text() == "1"


def test_a_store_in_working_order_gets_everything_at_once(
    outbox: Outbox, fake: FakeStore, tmp_path: Path
) -> None:
    assert outbox.send(entry(0))
    assert fake.taken == [0]
    assert not (tmp_path / "run").exists()


def test_entries_wait_for_a_store_that_is_away_and_arrive_once_in_order(
    outbox: Outbox, fake: FakeStore, tmp_path: Path
) -> None:
    fake.is_away = True
    source = tmp_path / "a.txt"
    source.write_text("content")
    assert not outbox.send(entry(0))
    assert not outbox.send(entry(1), source)
    source.unlink()
    assert outbox.num_waiting == 2
    fake.is_away = False
    assert outbox.drain(5.0)
    assert outbox.send(entry(2))
    assert fake.taken == [0, 1, 2]
    assert fake.contents == ["content"]
    assert not (tmp_path / "run").exists()


def test_a_refused_entry_is_dropped_and_does_not_block_the_rest(
    outbox: Outbox, fake: FakeStore
) -> None:
    fake.is_away, fake.refuses = True, 1
    for number in range(3):
        outbox.send(entry(number))
    fake.is_away = False
    assert outbox.drain(5.0)
    assert fake.taken == [0, 2]


def test_an_entry_that_fails_on_a_store_that_answers_is_dropped(
    outbox: Outbox, fake: FakeStore
) -> None:
    fake.fails = 0
    outbox.send(entry(0))
    outbox.send(entry(1))
    assert outbox.drain(5.0)
    assert fake.taken == [1]


def test_the_caller_does_not_wait_for_a_slow_store(tmp_path: Path) -> None:
    asked, answer = threading.Event(), threading.Event()
    first = [True]

    def deliver(_: Entry, __: Path) -> None:
        if first:
            first.clear()
            raise StoreAwayError("no answer")
        asked.set()
        answer.wait(10.0)

    outbox = Outbox(deliver, Spool(tmp_path / "run"), lambda: False)
    outbox.send(entry(0))
    assert asked.wait(5.0)
    outbox.send(entry(1))  # returns although the store has not answered yet
    assert outbox.num_waiting == 2
    answer.set()
    assert outbox.drain(5.0)


def test_many_threads_lose_nothing(outbox: Outbox, fake: FakeStore) -> None:
    fake.is_away = True
    threads = [threading.Thread(target=outbox.send, args=(entry(n),)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fake.is_away = False
    assert outbox.drain(5.0)
    assert sorted(fake.taken) == list(range(20))


def test_what_an_earlier_process_left_is_delivered_first(fake: FakeStore, tmp_path: Path) -> None:
    left = Spool(tmp_path / "run")
    left.append(entry(0))
    outbox = Outbox(fake.deliver, Spool(tmp_path / "run"), fake.is_there)
    outbox.drain_here()
    outbox.send(entry(1))
    assert fake.taken == [0, 1]


def test_posted_entries_come_before_what_is_sent_after_them(
    outbox: Outbox, fake: FakeStore
) -> None:
    for number in range(5):
        outbox.post(entry(number))
    outbox.send(entry(5))
    assert fake.taken == [0, 1, 2, 3, 4, 5]


def test_posting_does_not_wait_for_the_store(tmp_path: Path) -> None:
    answer, taken = threading.Event(), []

    def deliver(entry: Entry, _: Path) -> None:
        answer.wait(10.0)
        taken.append(entry["number"])

    outbox = Outbox(deliver, Spool(tmp_path / "run"), lambda: True)
    for number in range(3):
        outbox.post(entry(number))  # returns although the store has not answered
    assert taken == []
    answer.set()
    outbox.flush()
    assert taken == [0, 1, 2]


def test_posted_entries_are_spooled_while_the_store_is_away(
    outbox: Outbox, fake: FakeStore, tmp_path: Path
) -> None:
    fake.is_away = True
    outbox.post(entry(0))
    outbox.flush()
    assert Spool(tmp_path / "run").first() == entry(0)
    fake.is_away = False
    outbox.post(entry(1))
    assert outbox.drain(5.0)
    assert fake.taken == [0, 1]


def test_an_entry_that_breaks_delivery_does_not_end_it(tmp_path: Path) -> None:
    taken = []

    def deliver(entry: Entry, _: Path) -> None:
        if entry["number"] == 0:
            raise ValueError("unforeseen")
        taken.append(entry["number"])

    outbox = Outbox(deliver, Spool(tmp_path / "run"), lambda: True)
    outbox.post(entry(0))
    outbox.post(entry(1))
    outbox.flush()
    assert taken == [1]
