"""stream.py: numbered messages, and what arrived of them."""

import threading
import time

from . import wire


class Sink(threading.Thread):
    """Reads what a client gets, and answers it, until it is told to stop."""

    def __init__(self, client):
        super().__init__(daemon=True)
        self.client, self.got, self.over = client, [], threading.Event()
        client.auto = True
        self.start()

    def run(self):
        while not self.over.is_set():
            try:
                p = self.client.read_packet(0.2)
            except wire.Late:
                continue
            except (wire.Closed, ValueError, OSError):  # closed by the test
                return
            if p.kind == wire.PUBLISH:
                self.got.append((p.name, int(p.payload.split()[0])))

    def numbers(self, topic=None):
        return [n for t, n in list(self.got) if topic in (None, t)]


def gather(sinks, n, deadline_s=60):
    """Until they got n messages together, and a moment more."""
    end = time.monotonic() + deadline_s
    while sum(len(s.got) for s in sinks) < n and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.2)
    for s in sinks:
        s.over.set()
        s.join()
    return [s.numbers() for s in sinks]


def whole(who, got, n, first=0):
    """first to n - 1, each once, in order."""
    lost = sorted(set(range(first, n)) - set(got))
    again = sorted(i for i in set(got) if got.count(i) > 1)
    assert not lost and not again, (who, n, "lost", lost, "again", again)
    assert got == list(range(first, n)), (who, "disorder")


def durable(node, client_id, **opts):
    opts.setdefault("auto", False)
    return node.client(client_id, clean=False,
                       props={"session_expiry_interval": 3600}, **opts)


class Feed(threading.Thread):
    """A client that publishes numbers, `window` of them unanswered at most,
    until finish()."""

    def __init__(self, client, topic, qos, window=20, pad=0, deadline_s=120):
        super().__init__(daemon=True)
        self.pad = b" " + pad * b"."
        client.deadline_s = deadline_s
        self.client, self.topic, self.qos = client, topic, qos
        self.window, self.deadline_s = window, deadline_s
        self.sent = self.answered = 0
        self.over, self.failed = threading.Event(), []
        self.start()

    def run(self):
        try:
            end = None
            while self.answered < self.sent or not self.over.is_set():
                if self.over.is_set() and end is None:
                    end = time.monotonic() + self.deadline_s
                while self.sent - self.answered < self.window and \
                        not self.over.is_set():
                    self.client.send_publish(
                        self.topic, b"%d" % self.sent + self.pad, self.qos,
                        1 + self.sent % 30000)
                    self.sent += 1
                self.one_answer()
                if end is not None and time.monotonic() > end:
                    raise AssertionError("%d of %d were never answered" % (
                        self.sent - self.answered, self.sent))
        except BaseException as e:
            self.failed.append(e)

    def one_answer(self):
        try:
            p = self.client.read_packet(0.2)
        except wire.Late:
            return
        if p.kind == wire.PUBREC:
            self.client.pubrel(p.pid)
        elif p.kind in (wire.PUBACK, wire.PUBCOMP):
            self.answered += 1

    def moved(self, n, deadline_s=60):
        """n more are answered."""
        end = time.monotonic() + deadline_s
        want = self.answered + n
        while self.answered < want:
            assert not self.failed, self.failed
            assert time.monotonic() < end, (
                "publishing stands still", self.topic, self.sent,
                self.answered)
            time.sleep(0.01)

    def finish(self):
        """All that were sent are answered; how many."""
        self.over.set()
        self.join()
        assert not self.failed, self.failed
        return self.sent
