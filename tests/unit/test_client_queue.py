"""The queue's policy: no unit lost, none asked twice at once, no more held than is wise."""

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from volunteer_client.lease import Ref
from volunteer_client.queue import RESULTS_A_CALL, RETURN_AFTER_S, UNITS_HELD, Queue

LEASE_S = 60.0


def held(queue: Queue, count: int, now: float = 0.0) -> list[Ref]:
    refs = [Ref(1, number) for number in range(count)]
    for ref in refs:
        assert queue.hold(ref, now, LEASE_S)
    return refs


def finished(queue: Queue, count: int, now: float = 0.0, size: int = 100) -> list[Ref]:
    refs = held(queue, count, now)
    for ref in refs:
        queue.finish(ref, size, now)
    return refs


class QueueMachine(RuleBasedStateMachine):
    """Any order of events; beside the queue, a plain record of where each unit must be."""

    asking = Bundle("asking")
    fetching = Bundle("fetching")

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue(2)
        self.now = 0.0
        self.next_id = 1
        self.where: dict[Ref, str] = {}

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(rate=st.none() | st.floats(0.01, 100))
    def lease_what_is_wanted(self, rate: float | None) -> None:
        call = self.queue.plan(self.now, rate)
        for _ in range(call.want if call else 0):
            ref = Ref(1, self.next_id)
            self.next_id += 1
            assert self.queue.hold(ref, self.now, LEASE_S)
            self.where[ref] = "held"
        unfinished = [ref for ref, place in self.where.items() if place != "finished"]
        assert len(unfinished) <= UNITS_HELD

    @rule(target=fetching)
    def fetch(self) -> Ref | None:
        ref = self.queue.next_fetch(self.now)
        if ref is not None:
            assert self.where[ref] == "held"
            self.where[ref] = "fetching"
        return ref

    @rule(ref=consumes(fetching))
    def image_is_there(self, ref: Ref | None) -> None:
        if ref is not None:
            self.queue.fetched(ref, self.now)
            if self.where.get(ref) == "fetching":
                self.where[ref] = "ready"

    @rule(target=asking)
    def ask(self) -> Ref | None:
        ref = self.queue.next_ask(self.now)
        if ref is not None:
            assert self.where[ref] == "ready"
            self.where[ref] = "asking"
        return ref

    @rule(ref=consumes(asking))
    def endpoint_is_busy(self, ref: Ref | None) -> None:
        if ref is not None:
            self.queue.put_back(ref, self.now)
            if self.where.get(ref) == "asking":
                self.where[ref] = "ready"

    @rule(ref=consumes(asking), size=st.integers(1, 2_000_000))
    def answer(self, ref: Ref | None, size: int) -> None:
        if ref is not None:
            self.queue.finish(ref, size, self.now)
            self.where[ref] = "finished"

    @rule(data=st.data())
    def stop_some(self, data: st.DataObject) -> None:
        refs = data.draw(st.lists(st.sampled_from(sorted(self.where)), unique=True)) if self.where else []
        gone = self.queue.drop(refs)
        assert set(gone) == {ref for ref in refs if self.where[ref] != "finished"}
        for ref in gone:
            del self.where[ref]

    @rule()
    def return_and_settle(self) -> None:
        call = self.queue.plan(self.now, None)
        for ref in call.returns if call else ():
            assert self.where.pop(ref) == "finished"
        self.queue.settle(call.returns if call else ())

    @rule()
    def renew(self) -> None:
        self.queue.renew(self.queue.refs(), self.now, LEASE_S)
        self.queue.note_renewal(self.now)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        assert set(self.queue.refs()) == set(self.where)
        assert len(self.queue) == len(self.where)

    @invariant()
    def a_finished_answer_is_always_about_to_be_returned(self) -> None:
        if "finished" in self.where.values():
            assert self.queue.plan(self.now + RETURN_AFTER_S, None) is not None
            wake = self.queue.wake_in(self.now, None)
            assert wake is not None
            assert wake <= RETURN_AFTER_S


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestQueueMachine = QueueMachine.TestCase


def test_a_fresh_client_asks_for_a_few_units_for_each_request():
    call = Queue(2).plan(0.0, None)
    assert call is not None
    assert (call.want, call.returns) == (6, ())


def test_the_buffer_follows_the_measured_rate_and_stays_bounded():
    wants = [Queue(2).plan(0.0, rate) for rate in (0.1, 4.0, 1000.0)]
    assert [call.want for call in wants if call] == [6, 20, UNITS_HELD]


def test_a_slow_model_holds_no_more_than_its_leases_allow():
    queue = Queue(4)
    held(queue, 1)
    queue.drop([Ref(1, 0)])
    call = queue.plan(0.0, 0.01)
    assert call is not None
    assert call.want == 4


def test_more_is_asked_for_only_when_half_is_used_up():
    queue = Queue(2)
    held(queue, 4)
    assert queue.plan(0.0, None) is None
    queue.drop([Ref(1, 0)])
    call = queue.plan(0.0, None)
    assert call is not None
    assert call.want == 3


def test_answers_wait_for_company_but_not_for_long():
    queue = Queue(2)
    refs = held(queue, 6)
    queue.finish(refs[0], 10, 5.0)
    assert queue.plan(5.0, None) is None
    assert queue.wake_in(5.0, None) == RETURN_AFTER_S
    call = queue.plan(5.0 + RETURN_AFTER_S, None)
    assert call is not None
    assert call.returns == (refs[0],)


def test_a_call_carries_at_most_so_many_results_and_bytes():
    many, large = Queue(2), Queue(2)
    finished(many, 300)
    finished(large, 10, size=400_000)
    counts = [len(call.returns) for queue in (many, large) if (call := queue.plan(0.0, None))]
    assert counts == [RESULTS_A_CALL, 2]


def test_a_refused_batch_is_halved_down_to_one_and_grows_again():
    queue = Queue(2)
    finished(queue, 100)
    sizes = []
    for _ in range(8):
        call = queue.plan(0.0, None)
        assert call is not None
        sizes.append(len(call.returns))
        queue.halve_returns(len(call.returns))
    assert sizes == [100, 50, 25, 12, 6, 3, 1, 1]
    queue.returns_went_well()
    call = queue.plan(0.0, None)
    assert call is not None
    assert len(call.returns) == 2


def test_a_unit_whose_lease_has_ended_is_not_begun_until_it_is_renewed():
    queue = Queue(2)
    [ref] = held(queue, 1)
    assert queue.next_fetch(0.0) == ref
    queue.fetched(ref, 0.0)
    assert queue.next_ask(LEASE_S + 1) is None
    queue.renew([ref], LEASE_S + 1, LEASE_S)
    assert queue.next_ask(LEASE_S + 1) == ref


def test_leases_are_renewed_at_a_third_of_their_time_and_at_once_after_a_restart():
    queue, restarted = Queue(2), Queue(2)
    assert queue.renew_in(0.0) is None
    held(queue, 1)
    assert queue.renew_in(5.0) == LEASE_S / 3 - 5
    restarted.restore(Ref(1, 1), 0.0, 0.0)
    assert restarted.renew_in(0.0) == 0


def test_a_paused_queue_returns_but_leases_nothing():
    queue = Queue(2)
    queue.pause("draining")
    assert queue.plan(0.0, None) is None
    finished(queue, 1)
    call = queue.plan(0.0, None)
    assert call is not None
    assert (call.want, len(call.returns)) == (0, 1)
    queue.resume("draining")
    assert queue.wake_in(0.0, None) == 0


def test_the_coordinators_wish_to_be_left_alone_is_kept():
    queue = Queue(2)
    queue.no_lease_before(10.0)
    queue.no_lease_before(3.0)
    assert queue.plan(9.0, None) is None
    assert queue.wake_in(9.0, None) == 1
    assert queue.plan(10.0, None) is not None
    assert not math.isinf(queue.wake_in(10.0, None) or 0.0)


def test_a_busy_endpoints_unit_lets_the_others_go_first():
    queue = Queue(2)
    first, second = held(queue, 2)
    for _ in range(2):
        queue.fetched(queue.next_fetch(0.0) or first, 0.0)
    assert queue.next_ask(0.0) == first
    queue.put_back(first, 0.0)
    assert [queue.next_ask(0.0), queue.next_ask(0.0)] == [second, first]
