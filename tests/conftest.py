"""Fixtures for tests/integration and tests/fault; support/ says how to use
what they hand out."""

import os
import re
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from support import mqttc, wire                         # noqa: E402

V31, V311, V5 = wire.V31, wire.V311, wire.V5


@pytest.fixture(scope="session")
def shared_node():
    if mqttc.FOREIGN:
        node = mqttc.Foreign(mqttc.FOREIGN)
    else:
        node = mqttc.Node(listeners=2)
    yield node
    node.stop()


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    setattr(item, "report_" + call.when, outcome.get_result())


@pytest.fixture
def node(shared_node, request):
    """The node that all protocol tests share: two listeners, node.client()
    connects to listener 0 unless told on=1 or on="external". What a test
    leaves open is closed; a process that died fails the test."""
    yield shared_node
    shared_node.close_clients()
    report = getattr(request.node, "report_call", None)
    if report is not None and report.failed:
        print(shared_node.report())
    shared_node.check_alive()


@pytest.fixture
def make_node(request):
    """make_node(listeners=2, options={...}): nodes for tests that need keys
    of their own or break something; stopped and checked at the end."""
    if mqttc.FOREIGN:
        pytest.skip("needs a node of its own")
    made = []

    def make(*args, **kw):
        made.append(mqttc.Node(*args, **kw))
        return made[-1]

    yield make
    report = getattr(request.node, "report_call", None)
    failed = report is not None and report.failed
    for n in made:
        if failed:
            print(n.report())
        n.stop(check=not failed)


@pytest.fixture
def topic(request):
    """A topic no other test uses."""
    return re.sub(r"[^A-Za-z0-9/]", "_", request.node.name) + "/%x" % (
        id(request) & 0xffffff)


@pytest.fixture
def own():
    """True when the broker under test is ours, not one lent for trying."""
    return not mqttc.FOREIGN


def pytest_report_header(config):
    return "broker: %s" % (mqttc.FOREIGN or mqttc.BIN)
