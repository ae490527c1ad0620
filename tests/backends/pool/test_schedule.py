"""Who is asked what next: batches, shares, losses, workers that come and go. Decisions only."""

from __future__ import annotations

from idefics_cli.backends.pool.schedule import Schedule, Seat, WorkerBatch


def seats(schedule: Schedule[int], count: int, window: int = 2) -> list[Seat[int]]:
    made = [Seat[int](f"worker {number}", window) for number in range(count)]
    for seat in made:
        schedule.join(seat)
    return made


def give(schedule: Schedule[int], now: float = 0.0) -> list[tuple[str, list[int]]]:
    return [(seat.name, list(batch.units)) for seat, batch in schedule.assign(now)]


def only(seat: Seat[int]) -> WorkerBatch[int]:
    (batch,) = seat.batches.values()
    return batch


def test_each_has_a_batch_before_anyone_has_two() -> None:
    schedule = Schedule[int](4)
    seats(schedule, 2)
    assert schedule.count_room() == 16
    schedule.add(range(16))
    assert [name for name, _ in give(schedule)] == ["worker 0", "worker 1", "worker 0", "worker 1"]
    assert (schedule.count_room(), schedule.held) == (0, 16)


def test_less_than_a_batch_waits_for_more_unless_somebody_has_nothing_to_do() -> None:
    schedule = Schedule[int](4)
    first, second = seats(schedule, 2)
    schedule.add(range(3))
    assert give(schedule) == [("worker 0", [0, 1]), ("worker 1", [2])]
    schedule.add([3, 4])
    assert give(schedule) == []
    schedule.finish(second, only(second), 1.0)
    assert give(schedule) == [("worker 1", [3, 4])]
    schedule.add([5])
    schedule.has_ended = True
    assert give(schedule) == [("worker 0", [5])]
    assert not first.is_lost


def test_what_a_lost_worker_had_goes_first_and_after_two_losses_one_by_one() -> None:
    schedule = Schedule[int](2)
    first, second, third = seats(schedule, 3, window=1)
    schedule.add(range(8))
    give(schedule)
    assert schedule.lose(first) == []
    assert give(schedule) == []
    schedule.finish(second, only(second), 1.0)
    assert give(schedule) == [("worker 1", [0, 1])]
    assert schedule.lose(second) == []
    schedule.bring_back(first)
    assert give(schedule) == [("worker 0", [0])]
    assert only(first).goes_alone
    schedule.finish(third, only(third), 1.0)
    assert give(schedule) == [("worker 2", [1])]
    given_up = schedule.lose(third)
    assert [list(batch.units) for batch in given_up] == [[1]]
    schedule.finish(first, only(first), 2.0)
    assert give(schedule) == [("worker 0", [6, 7])]


def test_a_worker_that_is_going_is_given_nothing_more() -> None:
    schedule = Schedule[int](1)
    first, _ = seats(schedule, 2)
    schedule.add(range(2))
    give(schedule)
    schedule.drain(first)
    schedule.add(range(2, 6))
    assert give(schedule) == [("worker 1", [2])]
    schedule.finish(first, only(first), 1.0)
    schedule.leave(first)
    assert (schedule.capacity, schedule.held) == (2, 5)
    seats(schedule, 1)
    assert [units for _, units in give(schedule)] == [[3], [4]]


def test_a_slow_worker_has_fewer_at_a_time_where_they_are_paced() -> None:
    schedule = Schedule[int](1, is_paced=True)
    fast, slow = seats(schedule, 2, window=4)
    schedule.add(range(2))
    give(schedule)
    schedule.finish(fast, only(fast), 1.0)
    schedule.finish(slow, only(slow), 4.0)
    assert (schedule.count_window(fast), schedule.count_window(slow)) == (4, 1)
    schedule.add(range(20))
    given = [name for name, _ in give(schedule)]
    assert (given.count("worker 0"), given.count("worker 1")) == (4, 1)
