"""The wrapper behind a broker, against a TLS server that the test scripts: trust, retries, and bad peers."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import itertools
import json
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.unit.wrapper.launch import PREFIX, Wrapped, run

Answer = Callable[[bytes, str], bytes | Iterable[bytes] | None]
LOGIN = {"auth": {"client_token": "s.token", "lease_duration": 3600, "renewable": True}}
SECRET = {"data": {"data": {"value": "delivered"}, "metadata": {"version": 1}}}


class Authority:
    """A pod CA, and a server certificate for the bridge's names."""

    def __init__(self, directory: Path, name: str = "*.bridge.cloudtaser.internal") -> None:
        key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pod CA")])
        now = datetime.datetime.now(datetime.UTC)

        def build(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
            return (
                x509.CertificateBuilder()
                .issuer_name(issuer)
                .subject_name(subject)
                .public_key(public)
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - datetime.timedelta(minutes=1))
                .not_valid_after(now + datetime.timedelta(hours=1))
            )

        ca = build(issuer, key.public_key()).add_extension(x509.BasicConstraints(True, 0), critical=True)
        authority = ca.sign(key, hashes.SHA256())
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        leaf = build(x509.Name([]), leaf_key.public_key()).add_extension(names, critical=True)
        certificate = leaf.sign(key, hashes.SHA256())
        pem = serialization.Encoding.PEM
        self.pem = authority.public_bytes(pem).decode()
        self.label = hashlib.sha256(authority.public_bytes(serialization.Encoding.DER)).hexdigest()[:8]
        self.file = directory / f"{self.label}.pem"
        private = leaf_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self.file.write_bytes(private + certificate.public_bytes(pem))


class Bridge:
    """Answers each request with what `answer` returns; None closes the connection instead."""

    def __init__(
        self, authority: Authority, answer: Answer, *, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ) -> None:
        self.names: list[str | None] = []
        self.requests: list[bytes] = []
        self.connections = 0
        self._answer = answer
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.maximum_version = newest
        self._context.load_cert_chain(authority.file)
        self._context.sni_callback = lambda _, name, __: self.names.append(name)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        for thread in self._threads:
            thread.join(10)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                raw, _ = self._listener.accept()
                self.connections += 1
                self._open.append(raw)
                self._start(self._serve, raw)

    def _serve(self, raw: socket.socket) -> None:
        with contextlib.suppress(OSError), self._context.wrap_socket(raw, server_side=True) as connection:
            self._open.append(connection)
            received = b""
            while data := connection.recv(65536):
                received += data
                while b"\r\n\r\n" in received:
                    head, _, rest = received.partition(b"\r\n\r\n")
                    length = next(
                        (
                            int(line.split(b":")[1])
                            for line in head.split(b"\r\n")
                            if line.startswith(b"Content-Length")
                        ),
                        0,
                    )
                    if len(rest) < length:
                        break
                    received = rest[length:]
                    self.requests.append(head + b"\r\n\r\n" + rest[:length])
                    answered = self._answer(head, head.split()[1].decode())
                    if answered is None:
                        connection.unwrap()
                        return
                    for part in (answered,) if isinstance(answered, bytes) else answered:
                        connection.sendall(part)


def ok(document: object, *, status: str = "200 OK", headers: str = "") -> bytes:
    body = json.dumps(document).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def usual(_: bytes, path: str) -> bytes:
    return ok(LOGIN if path.endswith("/login") else SECRET if "/data/" in path else {})


def first(*answers: bytes | None) -> Answer:
    """The given answers first, then the usual ones."""
    left = list(answers)

    def answer(head: bytes, path: str) -> bytes | None:
        return left.pop(0) if left else usual(head, path)

    return answer


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def settings(authority: Authority, tmp_path: Path) -> Callable[..., dict[str, str]]:
    token = tmp_path / "token"
    token.write_text("eyJh.eyJz.c2ln\n")

    def make(bridge: Bridge, **more: str) -> dict[str, str]:
        base = {
            "VAULT_ADDR": f"broker://127.0.0.1:{bridge.port}",
            "VAULT_JWT_FILE": str(token),
            "CLOUDTASER_CA": authority.pem,
            "CLOUDTASER_SECRET_PATHS": "secret/data/app",
            "CLOUDTASER_REQUEST_TIMEOUT": "5",
        }
        return base | more

    return make


Settings = Callable[..., dict[str, str]]
SHOW = ("sh", "-c", 'echo "got $VALUE"')


def test_it_names_the_authority_that_it_pins_and_logs_in_with_its_jwt(
    authority: Authority, settings: Settings
) -> None:
    with Bridge(authority, usual) as bridge:
        done = run("--", *SHOW, settings=settings(bridge, VAULT_NAMESPACE="ignored"), check_code=0)
        assert done.stdout == "got delivered\n"
        assert set(bridge.names) == {f"{authority.label}.bridge.cloudtaser.internal"}
        login, read, revoke = bridge.requests
    assert login.startswith(b"POST /v1/auth/jwt/login HTTP/1.1\r\n")
    assert json.loads(login.partition(b"\r\n\r\n")[2]) == {"role": "default", "jwt": "eyJh.eyJz.c2ln"}
    assert read.startswith(b"GET /v1/secret/data/app HTTP/1.1\r\n")
    assert b"\r\nX-Vault-Token: s.token\r\n" in read
    assert b"X-Vault-Namespace" not in read
    assert revoke.startswith(b"POST /v1/auth/token/revoke-self ")
    assert bridge.connections == 2  # one to fetch everything, one to give the token back


def test_a_bridge_of_another_authority_never_sees_the_jwt(settings: Settings, tmp_path: Path) -> None:
    with Bridge(Authority(tmp_path), usual) as bridge:
        done = run("--", *SHOW, settings=settings(bridge, CLOUDTASER_STARTUP_TIMEOUT="0.1"), check_code=75)
        assert "certificate is refused" in done.stderr
        assert bridge.requests == []


def test_a_certificate_for_another_name_is_refused(settings: Settings, tmp_path: Path) -> None:
    other = Authority(tmp_path, "operator.cloudtaser.internal")
    with Bridge(other, usual) as bridge:
        mine = settings(bridge, CLOUDTASER_STARTUP_TIMEOUT="0.1", CLOUDTASER_CA=other.pem)
        assert "certificate is refused" in run("--", *SHOW, settings=mine, check_code=75).stderr
        assert bridge.requests == []


def test_behind_a_broker_nothing_older_than_tls_1_3_is_spoken(
    authority: Authority, settings: Settings
) -> None:
    with Bridge(authority, usual, newest=ssl.TLSVersion.TLSv1_2) as bridge:
        done = run("--", *SHOW, settings=settings(bridge, CLOUDTASER_STARTUP_TIMEOUT="0.1"), check_code=75)
        assert "TLS handshake failed" in done.stderr


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "answers",
    [
        [ok({"errors": ["sealed"]}, status="503 Service Unavailable")],
        [ok({"errors": ["slow down"]}, status="429 Too Many Requests", headers="Retry-After: 0\r\n")],
        [b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>"],
        [b"HTTP/1.1 307 Temporary Redirect\r\nLocation: https://evil\r\nContent-Length: 0\r\n\r\n"],
        [None],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", None],
        [b"garbage\r\n\r\n"],
        [ok(["no object"])],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}}"],
        [ok(LOGIN), ok({"errors": []}, status="500 x")],
        [ok(LOGIN), ok({"data": None})],
        [ok(LOGIN, headers="Connection: close\r\n")],
        [ok(LOGIN), None],
        [CHUNKED % (len(json.dumps(LOGIN)), json.dumps(LOGIN).encode())],
    ],
)
def test_it_comes_through_whatever_a_later_attempt_can_heal(
    authority: Authority, settings: Settings, answers: list[bytes | None]
) -> None:
    with Bridge(authority, first(*answers)) as bridge:
        done = run("--", *SHOW, settings=settings(bridge, CLOUDTASER_REQUEST_TIMEOUT="1"), check_code=0)
    assert done.stdout == "got delivered\n"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
            "this is no answer of OpenBao",
        ),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "this is no answer of OpenBao"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: https://login.example\r\nContent-Length: 0\r\n\r\n",
            "redirects",
        ),
    ],
)
def test_a_server_that_is_another_one_is_said_to_be(
    authority: Authority, settings: Settings, answer: bytes, said: str
) -> None:
    with Bridge(authority, lambda head, path: answer) as bridge:
        mine = settings(bridge, CLOUDTASER_STARTUP_TIMEOUT="0.1")
        stderr = run("--", *SHOW, settings=mine, check_code=75).stderr
        assert said in stderr
        assert f"127.0.0.1:{bridge.port}" in stderr


def test_it_waits_as_long_as_it_is_told_to(authority: Authority, settings: Settings) -> None:
    busy = ok({"errors": ["busy"]}, status="503 x", headers="Retry-After: 1\r\n")
    with Bridge(authority, first(busy)) as bridge:
        began = time.monotonic()
        run("--", *SHOW, settings=settings(bridge), check_code=0)
        assert time.monotonic() - began >= 1


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_refused_login_ends_it_with_the_bridges_own_words(
    authority: Authority, settings: Settings, status: int
) -> None:
    said = "role shop_app is not known; source allow 0ad50c05 --namespace shop"
    with Bridge(authority, first(ok({"errors": [said]}, status=f"{status} x"))) as bridge:
        done = run("--", *SHOW, settings=settings(bridge), check_code=77)
    assert said in done.stderr
    assert done.stdout == ""


def test_a_peer_that_says_nothing_holds_up_no_signal(authority: Authority, settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, Bridge(authority, usual) as bridge:
        address = {"VAULT_ADDR": f"broker://127.0.0.1:{silent.getsockname()[1]}"}
        with Wrapped(*SHOW, settings=settings(bridge) | address) as wrapped:
            accepted, _ = silent.accept()
            assert accepted.recv(1)  # the ClientHello: now it waits for an answer that never comes
            wrapped.signal(signal.SIGTERM)
            assert wrapped.wait() == 128 + signal.SIGTERM
            accepted.close()


def test_what_nohup_ignores_does_not_end_the_wait_for_secrets(
    authority: Authority, settings: Settings
) -> None:
    nohup = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *PREFIX]
    with socket.create_server(("127.0.0.1", 0)) as silent, Bridge(authority, usual) as bridge:
        address = {"VAULT_ADDR": f"broker://127.0.0.1:{silent.getsockname()[1]}"}
        with Wrapped(*SHOW, settings=settings(bridge) | address, prefix=nohup) as wrapped:
            accepted, _ = silent.accept()
            wrapped.signal(signal.SIGHUP)
            wrapped.signal(signal.SIGTERM)
            assert wrapped.wait() == 128 + signal.SIGTERM
            accepted.close()


def test_a_bridge_that_stalls_while_the_application_runs_holds_up_nothing(
    authority: Authority, settings: Settings
) -> None:
    stalled, release = threading.Event(), threading.Event()

    def answer(head: bytes, path: str) -> bytes:
        if "/metadata/" in path:
            stalled.set()
            release.wait(30)
        return usual(head, path)

    script = "trap 'echo heard' USR1; echo ready; while :; do sleep 0.02; done"
    with Bridge(authority, answer) as bridge:
        quick = settings(bridge, CLOUDTASER_ROTATION_INTERVAL="0.1", CLOUDTASER_REVOKE_ON_EXIT="false")
        with Wrapped("sh", "-c", script, settings=quick) as wrapped:
            assert wrapped.line() == "ready"
            assert stalled.wait(30)
            wrapped.signal(signal.SIGUSR1)
            assert wrapped.line() == "heard"
            wrapped.signal(signal.SIGTERM)
            assert wrapped.wait() == 128 + signal.SIGTERM
        release.set()


def test_giving_the_token_back_takes_a_second_at_most(authority: Authority, settings: Settings) -> None:
    release = threading.Event()

    def answer(head: bytes, path: str) -> bytes:
        if path.endswith("revoke-self"):
            release.wait(30)
        return usual(head, path)

    with Bridge(authority, answer) as bridge:
        began = time.monotonic()
        run("--", *SHOW, settings=settings(bridge), check_code=0)
        took = time.monotonic() - began
        release.set()
    assert took < 10


def test_a_name_is_looked_up_without_standing_still(authority: Authority, settings: Settings) -> None:
    with Bridge(authority, usual) as bridge:
        named = settings(bridge) | {"VAULT_ADDR": f"broker://localhost:{bridge.port}"}
        assert run("--", *SHOW, settings=named, check_code=0).stdout == "got delivered\n"
        nowhere = settings(bridge, CLOUDTASER_STARTUP_TIMEOUT="0.1") | {
            "VAULT_ADDR": "broker://no-such-name.invalid:1"
        }
        assert "looked up" in run("--", *SHOW, settings=nowhere, check_code=75).stderr


@pytest.mark.parametrize(
    "block",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" * 600,
        b"HTTP/1.1 200 OK\r\n" + b"X-Filler: y\r\n" * 1200,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"T: y\r\n" * 2000,
    ],
    ids=["interim answers", "headers", "trailers"],
)
def test_a_peer_that_sends_without_end_is_given_up(
    authority: Authority, settings: Settings, block: bytes
) -> None:
    floods = [itertools.repeat(block)]

    def answer(head: bytes, path: str) -> bytes | Iterable[bytes] | None:
        return floods.pop() if floods else usual(head, path)

    with Bridge(authority, answer) as bridge:
        assert run("--", *SHOW, settings=settings(bridge), check_code=0).stdout == "got delivered\n"


def test_a_pipe_in_the_place_of_the_token_file_is_not_waited_for(
    authority: Authority, settings: Settings, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with Bridge(authority, usual) as bridge:
        mine = settings(bridge, VAULT_JWT_FILE=str(tmp_path / "pipe"))
        assert "VAULT_JWT_FILE" in run("--", *SHOW, settings=mine, check_code=78).stderr


@pytest.mark.parametrize(
    ("change", "variable"),
    [
        ({"VAULT_CACERT": "/nowhere/ca.pem"}, "VAULT_CACERT"),
        ({"VAULT_CACERT": "/dev/null"}, "VAULT_CACERT"),
        ({"VAULT_CLIENT_CERT": "/dev/null", "VAULT_CLIENT_KEY": "/dev/null"}, "VAULT_CLIENT_CERT"),
        (
            {"CLOUDTASER_CA": "-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----"},
            "CLOUDTASER_CA",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_said_before_the_server_is_there(
    tmp_path: Path, change: dict[str, str], variable: str
) -> None:
    token = tmp_path / "token"
    token.write_text("eyJh.eyJz.c2ln")
    nobody = {
        "VAULT_ADDR": "https://127.0.0.1:1",
        "VAULT_JWT_FILE": str(token),
        "CLOUDTASER_SECRET_PATHS": "secret/data/app",
        "CLOUDTASER_STARTUP_TIMEOUT": "20",
    }
    done = run("--", *SHOW, settings=nobody | change, check_code=78)
    assert len(done.stderr.splitlines()) == 1
    assert variable in done.stderr


def test_behind_a_broker_no_other_authority_is_trusted_whatever_the_system_says(
    settings: Settings, tmp_path: Path
) -> None:
    system = tmp_path / "system.pem"
    other = Authority(tmp_path)
    system.write_text(other.pem)
    with Bridge(other, usual) as bridge:
        mine = settings(bridge, CLOUDTASER_STARTUP_TIMEOUT="0.1", SSL_CERT_FILE=str(system))
        assert "certificate is refused" in run("--", *SHOW, settings=mine, check_code=75).stderr
        assert bridge.requests == []


def test_behind_a_broker_no_client_certificate_is_loaded(authority: Authority, settings: Settings) -> None:
    with Bridge(authority, usual) as bridge:
        mine = settings(bridge, VAULT_CLIENT_CERT="/dev/null", VAULT_CLIENT_KEY="/dev/null")
        assert run("--", *SHOW, settings=mine, check_code=0).stdout == "got delivered\n"


def test_a_token_file_cannot_add_to_the_login(
    authority: Authority, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "odd").write_text('eyJh.eyJz.c2ln","role":"admin')
    with Bridge(authority, usual) as bridge:
        mine = settings(bridge, VAULT_JWT_FILE=str(tmp_path / "odd"))
        assert "does not hold a JWT" in run("--", *SHOW, settings=mine, check_code=78).stderr
        assert bridge.requests == []


def test_a_token_that_would_add_a_header_is_not_used(authority: Authority, settings: Settings) -> None:
    odd = {"auth": {"client_token": "s.x\r\nX-Evil: 1", "lease_duration": 3600}}
    with Bridge(authority, first(ok(odd))) as bridge:
        run("--", *SHOW, settings=settings(bridge), check_code=0)
        assert not any(b"X-Evil" in request for request in bridge.requests)
