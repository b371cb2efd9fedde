"""The limiter on a virtual clock: it comes near what a server can take, recovers, and never freezes."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartloop.backends.base import RateLimits
from heartloop.backends.openai_errors import rate_limits
from heartloop.engine.limiter import START, ConcurrencyLimiter
from heartloop.engine.rates import Rates, TokenRate, request_rate
from heartloop.errors import UsageError


class World:
    """A server with ``slots`` behind a limiter, and more work than it can do.

    A call takes ``sigma``-lognormally long around a second; with ``batching``, each further call at work
    makes all of them that much slower. Above ``refuses_above`` calls it answers 429 at once.
    """

    def __init__(
        self,
        limit: int,
        slots: int = 1 << 30,
        *,
        sigma: float = 0.3,
        batching: float = 0.0,
        refuses_above: int | None = None,
        gauges: bool = False,
        seed: int = 0,
    ) -> None:
        self.now = 0.0
        self.slots, self.sigma, self.batching, self.refuses_above = slots, sigma, batching, refuses_above
        self.broken = False
        self.running = self.answers = self.refusals = 0
        self.queue: deque[tuple[int, float]] = deque()
        self.history: list[tuple[float, int]] = []
        self._rng = random.Random(seed)
        self._events: list[tuple[float, int, float, str]] = []
        self.limiter = ConcurrencyLimiter(
            limit,
            adaptive=True,
            queue=(lambda: (self.running, len(self.queue))) if gauges else None,
            clock=lambda: self.now,
        )

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        self._send()
        while self._events and self._events[0][0] < end:
            self.now, number, sent, what = heapq.heappop(self._events)
            if what == "answered":
                self.running -= 1
                self.answers += 1
                self.limiter.answered(self.now - sent, number)
                self.limiter.release()
                if self.queue:
                    self._start(*self.queue.popleft())
            elif what != "wake":
                if what == "429":
                    self.refusals += 1
                    self.limiter.rate_limited(number)
                    self.limiter.pause(0.2)
                else:
                    self.limiter.overloaded(number)
                self.limiter.release()
                heapq.heappush(self._events, (self.now + 0.2, 0, 0.0, "wake"))
            self.history.append((self.now, self.limiter.allowed))
            self._send()
        self.now = end

    def _send(self) -> None:
        while self.limiter.has_room():
            self.limiter.acquire()
            number = self.limiter.sent
            if self.broken:
                heapq.heappush(self._events, (self.now + 1, number, self.now, "timeout"))
            elif self.refuses_above is not None and self.running >= self.refuses_above:
                heapq.heappush(self._events, (self.now + 0.02, number, self.now, "429"))
            elif self.running < self.slots:
                self._start(number, self.now)
            else:
                self.queue.append((number, self.now))

    def _start(self, number: int, sent: float) -> None:
        self.running += 1
        seconds = 1 + self.batching * min(self.running, self.slots)
        seconds *= math.exp(self._rng.gauss(0, self.sigma) - self.sigma**2 / 2)
        heapq.heappush(self._events, (self.now + seconds, number, sent, "answered"))

    def usual(self, since: float) -> float:
        return median(allowed for at, allowed in self.history if at >= since)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("limit", "slots"), [(64, 8), (64, 20), (256, 64)])
def test_it_comes_near_what_a_server_can_take_and_keeps_it_busy(limit: int, slots: int, seed: int) -> None:
    world = World(limit, slots, seed=seed)
    world.run(2_000)
    done = world.answers
    world.run(1_000)
    assert world.answers - done >= 0.95 * slots * 1_000
    # From above, since what is too much only waits at the server, and what is too little is lost.
    assert 0.9 * slots <= world.usual(2_000) <= 3 * slots


def test_it_uses_all_that_is_allowed_where_nothing_speaks_against_it() -> None:
    for batching in (0.0, 0.02):  # a batching server is slower with each call, and still faster in all
        world = World(256, batching=batching)
        world.run(60)
        assert batching or world.usual(30) == 256
        done = world.answers
        world.run(300)
        assert world.answers - done >= 0.92 * 300 * 256 / (1 + 256 * batching)


def test_it_begins_below_a_high_limit_and_at_a_low_one() -> None:
    assert ConcurrencyLimiter(10_000, adaptive=True).allowed == START
    assert ConcurrencyLimiter(8, adaptive=True).allowed == 8
    assert ConcurrencyLimiter(10_000).allowed == 10_000


@pytest.mark.parametrize("slots", [8, 64])
def test_gauges_steer_it_closely(slots: int) -> None:
    world = World(256, slots, gauges=True)
    world.run(300)
    assert slots <= world.usual(100) <= 1.3 * slots + 1
    assert world.answers >= 0.95 * slots * 300


def test_refusals_hold_it_below_what_a_server_refuses_above() -> None:
    world = World(256, refuses_above=40)
    world.run(200)
    refused = world.refusals
    world.run(200)
    assert 20 <= world.usual(200) <= 42
    assert world.answers >= 0.7 * 40 * 400
    assert world.refusals - refused < 0.05 * 40 * 200


@pytest.mark.parametrize("trouble", ["429", "timeouts"])
def test_it_recovers_from_a_storm(trouble: str) -> None:
    world = World(64)
    world.run(30)
    assert world.limiter.allowed >= 48
    if trouble == "429":
        world.refuses_above = 0
    else:
        world.broken = True
    world.run(30)
    assert world.limiter.allowed == 1
    world.refuses_above, world.broken = None, False
    world.run(60)
    assert world.limiter.allowed >= 48


def test_one_event_lowers_it_once() -> None:
    limiter = ConcurrencyLimiter(64, adaptive=True)
    for _ in range(64):
        limiter.acquire()
    for number in range(1, 65):
        limiter.rate_limited(number)
    assert 40 <= limiter.allowed <= 48


def test_a_few_timeouts_are_faults_of_single_calls() -> None:
    limiter = ConcurrencyLimiter(64, adaptive=True)
    rng = random.Random(1)
    for _ in range(3_000):
        limiter.acquire()
        if rng.random() < 0.05:
            limiter.overloaded(limiter.sent)
        else:
            limiter.answered(1.0, limiter.sent)
        limiter.release()
    assert limiter.allowed == 64


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 200),
    st.lists(
        st.tuples(st.sampled_from(["ok", "429", "slow", "pause", "back"]), st.floats(0.001, 50)), max_size=150
    ),
)
def test_whatever_happens_calls_go_on(limit: int, story: list[tuple[str, float]]) -> None:
    now = [1_000.0]
    limiter = ConcurrencyLimiter(limit, adaptive=True, clock=lambda: now[0])
    for what, amount in story:
        if what == "back":
            now[0] -= amount  # a clock that goes backwards
        else:
            now[0] += amount / 10
        if limiter.has_room():
            limiter.acquire()
        if not limiter.running:
            continue
        if what == "429":
            limiter.rate_limited(limiter.sent)
        elif what == "slow":
            limiter.overloaded(limiter.sent)
        elif what == "pause":
            limiter.pause(amount)
        else:
            limiter.answered(amount, limiter.sent)
        limiter.release()
        assert 1 <= limiter.allowed <= limit
    now[0] += limiter.paused_for() + 0.001
    assert limiter.has_room()


# --- rates -----------------------------------------------------------------------------------------


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(60, 60_000), st.lists(st.integers(1, 3_000), min_size=1, max_size=60))
def test_tokens_a_minute_hold_whatever_calls_weigh(rate: int, weights: list[int]) -> None:
    clock = Clock()
    bucket = TokenRate(rate, clock=clock)
    sent: list[tuple[float, int]] = []
    for weight in weights:
        waited = 0
        while (seconds := bucket.wait(weight)) > 0:
            clock.now += seconds
            waited += 1
            assert waited < 5, "it must not ask to wait for ever"
        bucket.add(-weight)
        sent.append((clock.now, weight))
    begun, end = 50.0, clock.now
    # All but the last are paid for: a bucket's worth at the start, and what came since.
    assert sum(w for _, w in sent[:-1]) <= rate / 60 * (end - begun) + max(rate / 60, 0) + 1e-6 * rate


def test_calls_weigh_what_calls_have_cost() -> None:
    clock = Clock()
    rates = Rates(6_000, clock=clock)  # 100 a second
    served = 0
    while clock.now < 650:
        wait = rates.wait(2_000)
        if wait:
            clock.now += wait
            continue
        taken = rates.take(2_000)
        clock.now += 0.001
        rates.settle(2_000, taken, 100)
        served += 1
    assert 0.9 * 600 <= served <= 1.05 * 600


def test_a_refused_call_gives_its_tokens_back() -> None:
    clock = Clock()
    rates = Rates(6_000, clock=clock)
    for _ in range(50):
        assert rates.wait(90) == 0
        rates.settle(90, rates.take(90), 0)


def test_what_cannot_succeed_before_the_reset_is_not_sent() -> None:
    clock = Clock()
    rates = Rates(clock=clock)
    rates.take(100)
    left = rates.mark()
    rates.take(100)  # left after the call that is answered now
    rates.heed(RateLimits(remaining_requests=3, reset_requests=20.0), left)
    for _ in range(2):
        assert rates.wait(100) == 0
        rates.take(100)
    assert rates.wait(100) == pytest.approx(20)
    clock.now += 20
    assert rates.wait(100) == 0


def test_an_answer_to_an_earlier_call_does_not_undo_what_a_later_one_said() -> None:
    clock = Clock()
    rates = Rates(clock=clock)
    rates.take(10)
    early = rates.mark()
    rates.take(10)
    late = rates.mark()
    rates.heed(RateLimits(remaining_requests=0, reset_requests=5.0), late)
    rates.heed(RateLimits(remaining_requests=50, reset_requests=5.0), early)
    assert rates.wait(10) == pytest.approx(5)


def test_tokens_left_at_the_server_are_asked_for_the_call_at_hand() -> None:
    clock = Clock()
    rates = Rates(clock=clock)
    rates.take(100)
    rates.heed(RateLimits(remaining_tokens=500, reset_tokens=2.0), rates.mark())
    assert rates.wait(400) == 0
    assert rates.wait(600) == pytest.approx(2)


def test_headers_as_openai_sends_them() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-tokens": "6m0s",
    }
    assert rate_limits(headers) == RateLimits(59, 149984, 1.0, 360.0)
    assert rate_limits({"x-ratelimit-remaining-requests": "many"}) == RateLimits()
    assert rate_limits({"date": "today"}) is None


@pytest.mark.parametrize("rate", [0.0, -1.0, math.inf, math.nan])
def test_a_rate_is_a_positive_number(rate: float) -> None:
    with pytest.raises(UsageError):
        request_rate(rate)
    with pytest.raises(UsageError):
        Rates(rate)


@pytest.mark.parametrize("rate", [1.0, 59.0, 60.0, 150.0, 600.0, 100_000.0])
def test_a_window_of_requests_is_short_and_exact(rate: float) -> None:
    throttle = request_rate(rate)
    assert throttle is not None
    assert throttle.rate_limit / throttle.period == pytest.approx(rate / 60)
    assert throttle.period <= 1 or throttle.rate_limit == 1
