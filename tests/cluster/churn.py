"""Pods that come and go in a real API server, and who really has which address.

An address is used again ``REUSED`` after its pod was gone. A pod has its address ``ANNOUNCED``
before the API server knows of it, as it is with a kubelet that reports later; its
traffic ends before it is deleted. So whoever ``pair`` names is who sends and receives at that
moment, whatever the API server says, and when.
"""

from __future__ import annotations

import contextlib
import heapq
import http.client
import itertools
import math
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from tests.cluster.control_plane import Client, ControlPlane
from tests.cluster.pods import PODS, address_of, delete_pod, pod, running

Action: TypeAlias = Callable[[Client], object]

REUSED = 1.2  # s
ANNOUNCED = 0.1  # s
_EVENTS = 3  # of the API server for each pod that is replaced: delete, create, status
_WORKERS = 16  # the server answers in some 5 ms, on a busy machine in 50
_TICK = 0.002  # s
_SETTLED = 10.0  # s that a pod lives at least, so that its status is there before its end
_RECENT = 200  # addresses that changed last, which have a larger share of the traffic


class Churn:
    """``pods`` pods app-000000 and on, of which some are replaced all the time."""

    def __init__(self, plane: ControlPlane, pods: int, nodes: int) -> None:
        self._plane = plane
        self._nodes = nodes
        self._names = {address_of(i): f"app-{i:06d}" for i in range(pods)}
        self._since = dict.fromkeys(self._names, 0.0)
        self._addresses = list(self._names)
        self._recent: deque[str] = deque(maxlen=_RECENT)
        self._random = random.Random(7)
        self._lock = threading.Lock()
        self._due: list[tuple[float, int, Action]] = []
        self._todo: queue.SimpleQueue[Action | None] = queue.SimpleQueue()  # of what is due
        self._under_way = 0  # of what is due
        self._numbers = itertools.count()
        self.events = 0
        self.failures: list[Exception] = []

    def pair(self) -> tuple[tuple[str, str], tuple[str, str], float]:
        """Two addresses, their owners, and for how long the API server has known both (s)."""
        with self._lock:
            first, second = self._one(), self._one()
            names = self._names[first], self._names[second]
            known = time.monotonic() - max(self._since[first], self._since[second])
            return (first, second), names, max(0.0, known)

    def run(self, seconds: float, events: int) -> float:
        """So many events of the API server a second; returns when the last was answered.

        Returned is how many there were a second.
        """
        workers = [threading.Thread(target=self._work) for _ in range(_WORKERS)]
        for worker in workers:
            worker.start()
        began = time.monotonic()
        replaced = itertools.count()
        following = next(replaced)
        while not self.failures:
            now = time.monotonic()
            if now >= began + following * _EVENTS / events and now < began + seconds:
                self._replace_one()
                following = next(replaced)
            with self._lock:
                while self._due and self._due[0][0] <= now:
                    self._todo.put(heapq.heappop(self._due)[2])
                    self._under_way += 1
                at_rest = not self._due and not self._under_way
            if at_rest and now >= began + seconds:
                break
            time.sleep(_TICK)
        rate = self.events / (time.monotonic() - began)
        for _ in workers:
            self._todo.put(None)
        for worker in workers:
            worker.join()
        return rate

    def _one(self) -> str:
        while True:
            few = self._recent and self._random.random() < 0.1
            address = self._random.choice(self._recent if few else self._addresses)
            if address in self._names:
                return address

    def _replace_one(self) -> None:
        with self._lock:
            settled = time.monotonic() - _SETTLED
            while True:
                address = self._random.choice(self._addresses)
                if address in self._names and self._since[address] < settled:
                    break
            name = self._names.pop(address)  # no traffic from here on
        self._at(0.05, partial(self._delete, name, address))

    def _delete(self, name: str, address: str, client: Client) -> None:
        delete_pod(client, name)
        self._at(REUSED, partial(self._create, f"new-{next(self._numbers):06d}", address))

    def _create(self, name: str, address: str, client: Client) -> None:
        node = f"n{hash(name) % self._nodes:05d}"
        client.do("POST", PODS, pod(name, node, app=name[-2:]), unless=409)
        with self._lock:
            self._names[address], self._since[address] = name, math.inf
            self._recent.append(address)
        self._at(ANNOUNCED, partial(self._announce, name, address))

    def _announce(self, name: str, address: str, client: Client) -> None:
        client.do("PATCH", f"{PODS}/{name}/status", running(address))
        self._since[address] = time.monotonic()

    def _at(self, delay: float, action: Action) -> None:
        with self._lock:
            heapq.heappush(self._due, (time.monotonic() + delay, next(self._numbers), action))

    def _work(self) -> None:
        action: Action | None = None
        while not self.failures:
            with contextlib.suppress(OSError, http.client.HTTPException):  # the server is away
                with self._plane.client() as client:
                    while not self.failures:
                        # Whether the last one was done or not: it can be done again.
                        action = action or self._todo.get()
                        if action is None:
                            return
                        self._do(action, client)  # and it has said what is to be done next
                        action = None
            time.sleep(0.1)

    def _do(self, action: Action, client: Client) -> None:
        try:
            action(client)
        except (OSError, http.client.HTTPException):
            raise
        except Exception as error:  # noqa: BLE001 -- whoever runs us looks at them
            self.failures.append(error)
        with self._lock:
            self.events += 1
            self._under_way -= 1
