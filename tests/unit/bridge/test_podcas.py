"""Pod CAs: each pod is shown the certificate under the CA it pins, and is counted for it while it lives."""

from __future__ import annotations

import asyncio
import ssl
import sys
from dataclasses import dataclass, field

import pytest

from cloudtaser.bridge import podcas
from cloudtaser.bridge.podcas import PodCas
from cloudtaser.errors import CloudtaserError
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.tls import pod_client, pod_server
from cloudtaser.openbao.records import PodCaUse, instant
from cloudtaser.wire.hashes import pod_ca_label
from cloudtaser.wire.names import BRIDGE_NAME, BROKER_SERVICE
from tests.unit.bridge.scripted_operator import dial, hang_up
from tests.unit.operator.parties import Authority

NOW = 1_800_000_000.0


@dataclass
class Served:
    """A bridge's side: the pod CAs of one cluster, an old and a new one."""

    old: Authority = field(default_factory=lambda: Authority("old"))
    new: Authority = field(default_factory=lambda: Authority("new"))
    cas: PodCas = field(default_factory=PodCas)

    def __post_init__(self) -> None:
        self.contexts = {label(ca): pod_server(ca.pod_server().identity) for ca in (self.new, self.old)}
        self.first = self.cas.serve(self.contexts, label(self.old))

    async def shake_hands(self, pins: Authority, name: str | None) -> str:
        """The label of the CA under which a pod that pins this one ends up; CloudtaserError when it does
        not get in."""
        context = pod_client(pins.pem.encode())
        if name is None:
            context.check_hostname = False
        layer = TlsLayer(self.first, Silent(), server_side=True)
        pod = TlsLayer(context, Silent(), server_side=False, server_hostname=name)
        await dial(layer, pod)
        try:
            await pod.handshake
            return self.cas.label_of(layer.get_extra_info("ssl_object"))
        finally:
            await hang_up()


class Silent(asyncio.Protocol):
    """Says nothing."""


def label(ca: Authority) -> str:
    return pod_ca_label(ssl.PEM_cert_to_DER_cert(ca.pem))


async def test_a_pod_that_names_its_ca_is_shown_that_one() -> None:
    served = Served()
    for ca in (served.old, served.new):
        assert await served.shake_hands(ca, f"{label(ca)}.{BRIDGE_NAME}") == label(ca)
        assert await served.shake_hands(ca, f"{label(ca).upper()}.{BRIDGE_NAME}") == label(ca)


@pytest.mark.parametrize("name", [None, BRIDGE_NAME])
async def test_a_pod_that_names_none_is_shown_the_oldest(name: str | None) -> None:
    served = Served()
    assert await served.shake_hands(served.old, name) == label(served.old)
    with pytest.raises(CloudtaserError):
        await served.shake_hands(served.new, name)


async def test_a_pod_that_pins_a_ca_of_the_past_hears_that_its_name_is_not_known() -> None:
    served = Served()
    gone = Authority("gone")
    with pytest.raises(CloudtaserError, match="unrecognized name"):
        await served.shake_hands(gone, f"{label(gone)}.{BRIDGE_NAME}")
    assert served.cas.strangers == 1


async def test_after_a_rotation_the_former_ca_is_served_no_more() -> None:
    served = Served()
    served.first = served.cas.serve(
        {label(served.new): served.contexts[label(served.new)]}, label(served.new)
    )
    with pytest.raises(CloudtaserError, match="unrecognized name"):
        await served.shake_hands(served.old, f"{label(served.old)}.{BRIDGE_NAME}")
    assert await served.shake_hands(served.new, BRIDGE_NAME) == label(served.new)


def test_another_name_of_the_bridge_names_no_ca() -> None:
    served = Served()
    assert served.cas.choose(BROKER_SERVICE) is served.contexts[label(served.old)]
    assert served.cas.choose(f"evil{BRIDGE_NAME}") is served.contexts[label(served.old)]
    assert served.cas.choose(f"a.b.{BRIDGE_NAME}") is None


async def test_a_server_name_that_is_no_text_ends_the_handshake_and_writes_no_traceback(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    podcas.ignore_names_that_are_none()
    served = Served()
    hello = client_hello("x" * 12)
    layer = TlsLayer(served.first, Silent(), server_side=True)
    far = Far()
    await dial(layer, far)
    far.say(hello.replace(b"x" * 12, b"\xff" * 12))
    with pytest.raises(CloudtaserError):
        await layer.handshake
    await hang_up()
    assert seen == []
    assert capfd.readouterr().err == ""


class Far(Silent):
    """A pod that writes bytes of its own."""

    def connection_made(self, transport: object) -> None:
        self.say = transport.write  # type: ignore[attr-defined]


def client_hello(name: str) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


# Who pins what


def counted() -> tuple[PodCas, str, str]:
    served = Served()
    return served.cas, label(served.old), label(served.new)


def test_a_pod_counts_for_ten_minutes_after_it_was_last_heard() -> None:
    cas, old, new = counted()
    cas.heard(old, "10.0.0.7", NOW)
    cas.heard(old, "10.0.0.8", NOW + 300)
    cas.heard(old, "10.0.0.8", NOW + 301)
    assert cas.uses(NOW + 302) == {old: PodCaUse(2, instant(NOW + 301)), new: PodCaUse(0, "")}
    assert cas.uses(NOW + 600)[old].pods == 1
    assert cas.uses(NOW + 901)[old] == PodCaUse(0, "")


def test_a_pod_is_one_before_and_after_its_name_is_known() -> None:
    cas, old, _ = counted()
    cas.heard(old, "10.0.0.7", NOW)
    cas.heard(old, "0f0f0f0f-0000-4000-8000-000000000001", NOW + 1, formerly="10.0.0.7")
    assert cas.uses(NOW + 1)[old].pods == 1


def test_a_ca_that_is_not_served_counts_nobody() -> None:
    cas, *_ = counted()
    cas.heard("00000000", "10.0.0.7", NOW)
    cas.heard("", "10.0.0.7", NOW)
    assert {use.pods for use in cas.uses(NOW).values()} == {0}


def test_the_table_of_pods_has_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podcas, "PODS_LIMIT", 100)
    cas, old, _ = counted()
    for number in range(1000):
        cas.heard(old, f"10.0.{number // 256}.{number % 256}", NOW + number / 1000)
    assert cas.uses(NOW + 2)[old].pods == 100


def test_what_an_earlier_run_counted_holds_until_its_time_is_over() -> None:
    """A bridge that was restarted must not say that nobody pins the former CA only because it is new."""
    cas, old, new = counted()
    cas.carry({old: PodCaUse(3, instant(NOW)), "00000000": PodCaUse(5, instant(NOW)), new: PodCaUse(0, "")})
    cas.heard(old, "10.0.0.7", NOW + 10)
    assert cas.uses(NOW + 20) == {old: PodCaUse(3, instant(NOW + 10)), new: PodCaUse(0, "")}
    assert cas.uses(NOW + 605)[old].pods == 1


def test_a_count_goes_with_its_ca() -> None:
    served = Served()
    cas, old, new = served.cas, label(served.old), label(served.new)
    cas.heard(old, "10.0.0.7", NOW)
    cas.serve({new: served.contexts[new]}, new)
    assert cas.uses(NOW) == {new: PodCaUse(0, "")}
    cas.serve(served.contexts, old)
    assert cas.uses(NOW)[old].pods == 0
