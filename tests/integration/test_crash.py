"""A few processes die under durable sessions: the short form of
tests/fault/test_store_crash.py."""

import os
import random

import pytest

from support import mqttc
from support.crash import Crash, options

if mqttc.FOREIGN:
    pytest.skip("needs nodes of its own", allow_module_level=True)

ROUNDS = 12
SEED = int(os.environ.get("CRASH_SEED", "0")) or random.randrange(1, 1 << 30)


def test_a_few_kills(make_node, topic):
    node = make_node(listeners=2, options=options(
        session_store__processes="2"))
    crash = Crash(node, topic, SEED)
    crash.everybody(window=1)
    print("seed", SEED)
    with crash:
        crash.run(ROUNDS)
    print(crash.summary())
    crash.check()
