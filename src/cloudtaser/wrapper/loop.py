"""The loop: coroutines over one `poll`, so that nothing in the wrapper ever waits alone.

Signals, the network, timers and name look-ups all wake the same `poll` in the one thread that the wrapper
has. `async def` needs no asyncio: a coroutine here yields a `Wait`, and is resumed with True when its
descriptor is ready or its `wake` was called, with False when its deadline passed.
"""

import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

READ = select.POLLIN
WRITE = select.POLLOUT
# poll's own time stands still while the machine sleeps, the loop's does not: a deadline that passed meanwhile
# is noticed a minute after it woke at the latest.
_MAX_POLL_MS = 60_000


class Cancelled(BaseException):
    """Thrown into a coroutine whose task is cancelled."""


class Wait:
    """What a coroutine waits for: a descriptor (or -1 for none) until a deadline (or None) on the loop's
    clock.
    """

    __slots__ = ("deadline", "events", "fd", "woken")

    def __init__(self, fd: int, events: int, deadline: float | None) -> None:
        self.fd = fd
        self.events = events
        self.deadline = deadline
        self.woken = False

    def __await__(self) -> "Generator[Wait, bool, bool]":
        return (yield self)


class Task:
    """One running coroutine. When `done`, it has a `result` or an `error`."""

    __slots__ = ("coroutine", "done", "error", "result", "wait")

    def __init__(self, coroutine: "Coroutine[Wait, bool, object]") -> None:
        self.coroutine = coroutine
        self.wait: Wait | None = None
        self.done = False
        self.result: object = None
        self.error: BaseException | None = None

    def step(self, ready: bool | BaseException | None) -> None:
        """Run the coroutine to its next wait."""
        try:
            if isinstance(ready, BaseException):
                self.wait = self.coroutine.throw(ready)
            else:
                self.wait = self.coroutine.send(ready)  # type: ignore[arg-type]  # None starts a coroutine
        except StopIteration as stop:
            self.done, self.result, self.wait = True, stop.value, None
        except Cancelled:
            self.done, self.wait = True, None
        except BaseException as error:  # noqa: BLE001  # kept for whoever waits for the task
            self.done, self.error, self.wait = True, error, None

    def wake(self) -> None:
        """Resume the coroutine at the next turn, whatever it waits for."""
        if self.wait is not None:
            self.wait.woken = True

    def cancel(self) -> None:
        """End the coroutine now, at the place where it waits."""
        if not self.done:
            self.step(Cancelled())
            if not self.done:
                self.coroutine.close()
                self.done, self.wait = True, None


def _since_boot() -> float:
    """Never set, never back, and counting while the machine is suspended: leases end meanwhile too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Loop:
    """Runs tasks until one of them is done."""

    __slots__ = ("_clock", "_tasks")

    def __init__(self, clock: "Callable[[], float]" = _since_boot) -> None:
        self._clock = clock
        self._tasks: list[Task] = []

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        return self._clock()

    def spawn(self, coroutine: "Coroutine[Wait, bool, object]") -> Task:
        """Start a coroutine; it runs to its first wait at once."""
        task = Task(coroutine)
        task.step(None)
        if not task.done:
            self._tasks.append(task)
        return task

    def run(self, *tasks: Task) -> object:
        """Turn until one of the tasks is done; its result. Raises its error."""
        while True:
            for task in tasks:
                if task.error is not None:
                    raise task.error
                if task.done:
                    return task.result
            self._turn()

    def _turn(self) -> None:
        poller = select.poll()
        waiting: dict[int, Task] = {}
        deadline: float | None = None
        woken = False
        for task in self._tasks:
            wait = task.wait
            if wait is None:
                continue
            woken = woken or wait.woken
            if wait.fd >= 0:
                poller.register(wait.fd, wait.events)
                waiting[wait.fd] = task
            if wait.deadline is not None and (deadline is None or wait.deadline < deadline):
                deadline = wait.deadline
        ready = {fd for fd, _ in poller.poll(0 if woken else self._timeout(deadline))}
        now = self._clock()
        for task in list(self._tasks):
            wait = task.wait
            if wait is None or task.done:
                continue
            if wait.woken or (wait.fd in ready and waiting.get(wait.fd) is task):
                task.step(True)
            elif wait.deadline is not None and wait.deadline <= now:
                task.step(False)
        self._tasks = [task for task in self._tasks if not task.done]

    def _timeout(self, deadline: float | None) -> int | None:
        """Milliseconds to poll for, rounded up so that a deadline has passed when it returns; None: for
        ever.
        """
        if deadline is None:
            return None
        return max(0, min(_MAX_POLL_MS, int((deadline - self._clock()) * 1000) + 1))

    def sleep(self, seconds: float) -> Wait:
        """Wait for a time; True when woken early."""
        return Wait(-1, 0, self._clock() + seconds)

    def until(self, deadline: float | None) -> Wait:
        """Wait until a time on the loop's clock, or for ever; True when woken early."""
        return Wait(-1, 0, deadline)
