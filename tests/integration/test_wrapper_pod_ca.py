"""The wrapper of a running application follows the pod CA's rotation, and stays reachable whatever it is
handed."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from cloudtaser.wrapper.config import BRIDGE_NAME
from tests.integration.test_wrapper_network import Answer, Authority, Bridge, ok, usual
from tests.unit.wrapper.launch import Wrapped

PATH = "/v1/cloudtaser/pod-ca"
SLEEP = ("sh", "-c", "echo ready; while :; do sleep 0.05; done")
Settings = Callable[..., dict[str, str]]


class Rotating(Bridge):
    """A bridge that serves several pod CAs by the label of the name, the first where it does not know it."""

    def __init__(self, *served: Authority, answer: Answer = usual) -> None:
        self.served = {authority.label: authority for authority in served}
        self.next = served[-1].pem
        self.asked = threading.Condition()
        super().__init__(served[0], answer)
        self._context.sni_callback = self._choose
        self._usual, self._answer = answer, self._handing_over

    def _choose(self, tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        with self.asked:
            self.names.append(name)
            self.asked.notify_all()
        authority = self.served.get((name or "").partition(".")[0])
        if authority is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(authority.file)
            tls.context = context

    def _handing_over(self, head: bytes, path: str) -> bytes | Iterable[bytes] | None:
        if path != PATH:
            return self._usual(head, path)
        with self.asked:
            answered = ok({"pod_ca": self.next})
            self.asked.notify_all()
        return answered

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        with self.asked:
            assert self.asked.wait_for(condition, 30), what

    def labels(self) -> list[str]:
        """Of the connections that came so far."""
        return [(name or "").removesuffix(f".{BRIDGE_NAME}") for name in self.names]


@pytest.fixture
def old(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def new(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def settings(old: Authority, tmp_path: Path) -> Settings:
    token = tmp_path / "token"
    token.write_text("eyJh.eyJz.c2ln")

    def make(bridge: Bridge, **more: str) -> dict[str, str]:
        return {
            "VAULT_ADDR": f"broker://127.0.0.1:{bridge.port}",
            "VAULT_JWT_FILE": str(token),
            "CLOUDTASER_CA": old.pem,
            "CLOUDTASER_SECRET_PATHS": "secret/data/app",
            "CLOUDTASER_ROTATION_INTERVAL": "0.1",
            "CLOUDTASER_REVOKE_ON_EXIT": "false",
        } | more

    return make


def test_a_running_wrapper_pins_the_next_pod_ca_and_needs_the_old_one_no_more(
    old: Authority, new: Authority, settings: Settings
) -> None:
    with Rotating(old, new) as bridge, Wrapped(*SLEEP, settings=settings(bridge)) as wrapped:
        assert wrapped.line() == "ready"
        bridge.wait_for(lambda: new.label in bridge.labels(), "the next CA is pinned")
        wrapped.event("the pod CA was rotated")
        assert bridge.labels() == [old.label, new.label]
        del bridge.served[old.label]
        count = len(bridge.requests)
        bridge.wait_for(lambda: len(bridge.requests) > count + 4, "it goes on")
        assert wrapped.process.poll() is None


def test_the_pinned_ca_again_makes_no_new_connection(old: Authority, settings: Settings) -> None:
    with Rotating(old) as bridge, Wrapped(*SLEEP, settings=settings(bridge)) as wrapped:
        assert wrapped.line() == "ready"
        bridge.wait_for(lambda: sum(PATH.encode() in head for head in bridge.requests) >= 3, "asked thrice")
        assert bridge.connections == 1


def test_a_ca_that_the_bridge_does_not_serve_leads_back_to_the_pin_before(
    old: Authority, new: Authority, settings: Settings
) -> None:
    with Rotating(old) as bridge, Wrapped(*SLEEP, settings=settings(bridge)) as wrapped:
        bridge.next = new.pem
        assert wrapped.line() == "ready"
        bridge.wait_for(lambda: new.label in bridge.labels(), "it was tried")
        bridge.wait_for(lambda: bridge.labels()[-1:] == [old.label] and len(bridge.labels()) > 2, "and left")
        bridge.next = old.pem
        count = len(bridge.requests)
        bridge.wait_for(lambda: len(bridge.requests) > count + 4, "it goes on under the old one")
        assert wrapped.process.poll() is None


def test_what_is_no_ca_is_refused_and_said_once(old: Authority, settings: Settings) -> None:
    with Rotating(old) as bridge, Wrapped(*SLEEP, settings=settings(bridge)) as wrapped:
        bridge.next = old.pem + old.pem
        assert wrapped.line() == "ready"
        assert "not one PEM certificate" in str(wrapped.event("next pod CA")["reason"])
        bridge.wait_for(lambda: sum(PATH.encode() in head for head in bridge.requests) >= 4, "asked on")
        assert bridge.connections == 1
        wrapped.process.terminate()
        wrapped.wait()
        assert "next pod CA" not in wrapped.log()


def test_a_bridge_without_that_path_is_fine(old: Authority, settings: Settings) -> None:
    asked = threading.Semaphore(0)

    def answer(head: bytes, path: str) -> bytes:
        if path == PATH:
            asked.release()
            return ok({"errors": []}, status="404 Not Found")
        answered = usual(head, path)
        assert isinstance(answered, bytes)
        return answered

    with Bridge(old, answer) as bridge, Wrapped(*SLEEP, settings=settings(bridge)) as wrapped:
        assert wrapped.line() == "ready"
        for _ in range(3):
            assert asked.acquire(timeout=30)
        assert bridge.connections == 1
        wrapped.process.terminate()
        wrapped.wait()
        assert "pod CA" not in wrapped.log()
