"""What a server is told that may be slow or gone: a thread sends it, in order; nobody who tells it something waits."""

from __future__ import annotations

import re
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

MOST_WAITING = 10_000  # records' batches
TRIES, BACK_OFF_S = 3, 1.0
PATIENCE_S = 10.0
GONE = 3  # failures one after the other, at the end

Send = Callable[[], object]


def one_line(error: BaseException | str) -> str:
    """What went wrong, short and without the password of a URL that it names."""
    said = str(error).strip().partition("\n")[0] or type(error).__name__
    return re.sub(r"://[^/@\s]*@", "://***@", said)[:300]


class Outbox:
    """Sends what is put. What fails is tried again a little, then dropped and counted; the next one's turn comes.

    Attributes:
        where: the server, for the one line on stderr that says that something was dropped.
        patience_s: how long the end waits without anything arriving.
        dropped: records that did not arrive.
    """

    def __init__(self, where: str, patience_s: float | None = None) -> None:
        self.where, self.patience_s, self.dropped = where, patience_s or PATIENCE_S, 0
        self._waiting: deque[tuple[Send, int]] = deque()
        self._sending: tuple[Send, int] | None = None
        self._sent = self._failures = 0  # failures: since something arrived
        self._ending = self._closed = self._given_up = self._told = False
        self._changed = threading.Condition()  # guards all of the above
        threading.Thread(target=self._work, name="outbox", daemon=True).start()  # a daemon: it never holds up an exit

    def put(self, send: Send, records: int = 1) -> None:
        """Returns at once; ``records``: how many are lost if it never arrives."""
        with self._changed:
            if self._given_up or len(self._waiting) >= MOST_WAITING:
                self._drop(records, "too much is waiting already")
            else:
                self._waiting.append((send, records))
                self._changed.notify_all()

    def settle(self) -> None:
        """Waits until everything has arrived or was dropped; gives up where nothing arrives any more."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
            while not self._is_idle():
                if not self._changed.wait_for(partial(self._is_further, self._sent), self.patience_s):
                    self._give_up(f"nothing arrived for {self.patience_s:g} s")
            self._ending = False

    def close(self) -> None:
        """``settle``, and the thread ends."""
        self.settle()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _is_further(self, sent: int) -> bool:
        return self._sent > sent or self._is_idle()

    def _is_idle(self) -> bool:
        return self._given_up or not (self._waiting or self._sending)

    def _work(self) -> None:
        while item := self._next():
            trouble = self._try(item[0])
            with self._changed:
                if self._given_up:  # meanwhile; this one was counted with the others
                    return
                self._sending = None
                if trouble is None:
                    self._sent, self._failures = self._sent + 1, 0
                else:
                    self._failures += 1
                    self._drop(item[1], trouble)
                    if self._ending and self._failures >= GONE:
                        self._give_up(trouble)
                self._changed.notify_all()

    def _next(self) -> tuple[Send, int] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed or self._given_up)
            self._sending = self._waiting.popleft() if self._waiting else None
            return self._sending

    def _try(self, send: Send) -> str | None:
        """What went wrong. Where something failed before, once is enough: others wait."""
        tries, trouble = 1 if self._failures else TRIES, ""
        for attempt in range(tries):
            try:
                send()
                return None
            except Exception as error:  # every server has errors of its own
                trouble = one_line(error)
            if attempt + 1 < tries:
                with self._changed:
                    self._changed.wait_for(lambda: self._ending, BACK_OFF_S * 2**attempt)
        return trouble

    def _give_up(self, trouble: str) -> None:
        left = [*self._waiting, *filter(None, [self._sending])]
        self._given_up = True
        self._waiting.clear()
        self._drop(sum(records for _, records in left), trouble)
        self._changed.notify_all()

    def _drop(self, records: int, trouble: str) -> None:
        self.dropped += records
        if not self._told and records:
            self._told = True
            print(f"{self.where}: some records are lost, and the job goes on without them: {trouble}", file=sys.stderr)
