"""The program itself: memory, signals, a new certificate, a hard end; all while bytes flow."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from cloudtaser.beacon.limits import raise_descriptor_limit
from cloudtaser.wire.rendezvous import Hello
from tests.integration.beacon_peer import (
    BRIDGE,
    BROKER,
    Address,
    Peer,
    Program,
    certificate,
    metric,
    pair,
    running,
)

ROOM = bytes(range(32))
MIB = 1024 * 1024


async def pour(source: Peer, sink: Peer, size: int, rest: float) -> int:
    """Send `size` bytes that are read in gulps with a rest after each; how many arrived unchanged."""
    block = os.urandom(MIB)

    async def write() -> None:
        for _ in range(size // MIB):
            await source.send(block)
        await source.half_close()

    writing = asyncio.create_task(write())
    got = 0
    while data := await sink.receive(MIB):
        position = got % MIB
        expected = (block + block)[position : position + len(data)]
        assert data == expected
        if got // (4 * MIB) != (got + len(data)) // (4 * MIB):
            await asyncio.sleep(rest)
        got += len(data)
    await writing
    return got


async def test_64_mib_each_way_to_slow_readers_take_no_memory(tmp_path: Path) -> None:
    async with await Program.start(tmp_path) as program:
        bridge, broker = await pair(program.address)
        warm_bridge, warm_broker = await pair(program.address)
        await asyncio.gather(
            pour(warm_bridge, warm_broker, 4 * MIB, 0), pour(warm_broker, warm_bridge, MIB, 0)
        )
        before = program.resident
        most = before

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, program.resident)
                await asyncio.sleep(0.02)

        watching = asyncio.create_task(watch())
        arrived = await asyncio.gather(
            pour(bridge, broker, 64 * MIB, 0.03), pour(broker, bridge, 64 * MIB, 0.03)
        )
        watching.cancel()
        assert set(arrived) == {64 * MIB}
        assert most - before < 4 * MIB
        assert await metric(program.metrics_address, 'limit_hits_total{limit="buffer"}') > 0


async def test_2000_idle_parties_take_little_memory(tmp_path: Path) -> None:
    raise_descriptor_limit()
    async with await Program.start(tmp_path, "--source-burst", "3000") as program:
        first = [await Peer.visit(program.address, BRIDGE, os.urandom(32)) for _ in range(50)]
        before = program.resident
        more = [await Peer.visit(program.address, BRIDGE, os.urandom(32)) for _ in range(1950)]
        for peer in first + more:
            assert await peer.exactly(1) == b"W"
        assert await metric(program.metrics_address, 'parked{role="bridge"}') == 2000
        each = (program.resident - before) / 1950
        assert each < 20 * 1024, f"{each / 1024:.1f} KiB a parked party"


async def pour_for_ever(source: Peer) -> None:
    while True:
        await source.send(bytes(16_384))


async def test_those_who_only_wait_cost_no_processor_time(tmp_path: Path) -> None:
    """Half-closed, blocked, cut off, turned away: nothing of that may spin."""
    async with await Program.start(tmp_path, "--linger", "1h") as program:
        half_closed, _ = await pair(program.address)
        await half_closed.half_close()
        cut_off, _ = await pair(program.address)
        cut_off.sock.shutdown(socket.SHUT_WR)
        blocked, _ = await pair(program.address)
        full = asyncio.create_task(pour_for_ever(blocked))
        while await metric(program.metrics_address, 'limit_hits_total{limit="buffer"}') == 0:
            pass  # asking takes its time
        bad = await Peer.connect(program.address)
        await bad.send(b"garbage")
        assert await bad.rest() == b"H\0\0"
        before = program.cpu
        await asyncio.sleep(1)
        assert program.cpu - before < 0.2
        full.cancel()


async def test_a_key_update_in_the_middle_is_answered(tmp_path: Path) -> None:
    async with await Program.start(tmp_path) as program:
        bridge = await Peer.visit(program.address, BRIDGE, ROOM)
        assert await bridge.exactly(1) == b"W"
        where = f"{program.address[0]}:{program.address[1]}"
        client = await asyncio.create_subprocess_exec(
            *("openssl", "s_client", "-connect", where, "-tls1_3", "-no_ign_eof"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stderr is not None
        client.stdin.write(Hello(BROKER, ROOM).encode())
        assert await bridge.exactly(1) == b"M"
        for line in (b"one\n", b"two\n", b"three\n"):
            client.stdin.write(b"K\n")  # asks both sides for new keys
            async with asyncio.timeout(10):
                await client.stderr.readuntil(b"KEYUPDATE")
            client.stdin.write(line)
            assert await bridge.exactly(len(line)) == line
            await bridge.send(b"answer to " + line)
            async with asyncio.timeout(10):
                await client.stdout.readuntil(b"answer to " + line)
        client.stdin.close()
        client.kill()
        await client.wait()


async def chat(bridge: Peer, broker: Peer, stop: asyncio.Event) -> int:
    """Question and answer until told to stop; how many."""
    rounds = 0
    while not stop.is_set():
        question = os.urandom(3000)
        await bridge.send(question)
        assert await broker.exactly(3000) == question
        await broker.send(question[::-1])
        assert await bridge.exactly(3000) == question[::-1]
        rounds += 1
    return rounds


async def test_sigterm_sends_the_parked_away_and_lets_pairs_finish(tmp_path: Path) -> None:
    async with await Program.start(tmp_path) as program:
        parked = [await Peer.visit(program.address, BRIDGE, os.urandom(32)) for _ in range(20)]
        for peer in parked:
            assert await peer.exactly(1) == b"W"
        bridge, broker = await pair(program.address)
        stop = asyncio.Event()
        chatting = asyncio.create_task(chat(bridge, broker, stop))
        program.process.terminate()
        answers = [await peer.rest() for peer in parked]
        assert {answer[:1] for answer in answers} == {b"S"}
        retries = [int.from_bytes(answer[1:], "big") for answer in answers]
        assert all(200 <= retry <= 5000 for retry in retries)
        assert len(set(retries)) > 10
        for peer in parked:
            peer.close()
        with pytest.raises(ConnectionRefusedError):
            await Peer.connect(program.address)
        assert program.process.returncode is None
        stop.set()
        assert await chatting > 0
        await bridge.half_close()
        await broker.half_close()
        assert await bridge.rest() == await broker.rest() == b""
        async with asyncio.timeout(10):
            assert await program.process.wait() == 0


async def test_the_grace_period_ends(tmp_path: Path) -> None:
    async with await Program.start(tmp_path, "--drain-grace", "200ms") as program:
        bridge, broker = await pair(program.address)
        assert await program.stop() == 0
        assert await bridge.rest() == await broker.rest() == b""
        assert program.lines[-1]["event"] == "stopped"


async def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    async with await Program.start(tmp_path) as program:
        await pair(program.address)
        program.process.terminate()
        await program.line("draining")
        async with asyncio.timeout(10):
            assert await program.stop(signal.SIGINT) == 0


async def test_of_two_pairs_in_a_room_one_is_ended_early_and_one_late(tmp_path: Path) -> None:
    async with await Program.start(tmp_path, "--drain-grace", "4s") as program:
        room = os.urandom(32)
        first, _ = await pair(program.address, room)
        second, peer = await pair(program.address, room)
        third, other = await pair(program.address)
        began = asyncio.get_running_loop().time()
        program.process.send_signal(signal.SIGTERM)
        ended = await asyncio.wait(
            [asyncio.ensure_future(one.rest()) for one in (first, second)],
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert len(ended[0]) == len(ended[1]) == 1
        assert asyncio.get_running_loop().time() - began > 1.5
        await third.send(b"still here")
        assert await other.exactly(10) == b"still here"
        assert await program.stop() == 0  # the second time it does not wait
        await asyncio.wait(ended[1])
        reasons = [line["reason"] for line in program.lines if line["event"] == "pair ended"]
        assert reasons[0] == "drained"
        peer.close()


async def test_not_ready_while_draining(tmp_path: Path) -> None:
    async with await Program.start(tmp_path) as program:

        async def ready() -> bytes:
            reader, writer = await asyncio.open_connection(*program.metrics_address)
            writer.write(b"GET /readyz HTTP/1.1\r\n\r\n")
            answer = await reader.read()
            writer.close()
            return answer.split(b"\r\n")[0]

        await pair(program.address)
        assert await ready() == b"HTTP/1.1 200 OK"
        program.process.terminate()
        await program.line("draining")
        assert await ready() == b"HTTP/1.1 503 Unavailable"


async def test_killed_and_started_again_it_serves_at_once(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    async with await Program.start(tmp_path, files=files) as program:
        bridge, broker = await pair(program.address)
        port = program.address[1]
        assert await program.stop(signal.SIGKILL) == -signal.SIGKILL
        assert await bridge.rest() == await broker.rest() == b""
    async with await Program.start(tmp_path, port=port, files=files) as program:
        assert program.address[1] == port
        await pair(program.address)


async def served(address: Address) -> bytes:
    """The certificate that a newcomer is shown."""
    peer = await Peer.connect(address)
    der = peer.tls.getpeercert(binary_form=True)
    assert der is not None
    peer.close()
    return der


@pytest.mark.parametrize("told", ["by its files", "by SIGHUP"])
async def test_a_new_certificate_is_served_and_nobody_is_dropped(tmp_path: Path, told: str) -> None:
    files = certificate(tmp_path)
    poll = "50ms" if told == "by its files" else "1h"
    async with await Program.start(tmp_path, "--cert-poll", poll, files=files) as program:
        bridge, broker = await pair(program.address)
        stop = asyncio.Event()
        chatting = asyncio.create_task(chat(bridge, broker, stop))
        old = await served(program.address)

        Path(files[0]).write_text("half written")
        if told == "by SIGHUP":
            program.process.send_signal(signal.SIGHUP)
        await program.line("the new certificate cannot be used; the old one stays")
        assert await served(program.address) == old

        certificate(tmp_path)
        if told == "by SIGHUP":
            program.process.send_signal(signal.SIGHUP)
        await program.line("certificate read again")
        new = await served(program.address)
        assert new != old
        assert new == ssl.PEM_cert_to_DER_cert(Path(files[0]).read_text())
        stop.set()
        assert await chatting > 0
        assert await metric(program.metrics_address, "pairs") == 1


async def test_the_program_logs_no_hash(tmp_path: Path) -> None:
    async with await Program.start(tmp_path, "--log-level", "debug") as program:
        bridge, broker = await pair(program.address, ROOM)
        bridge.close()
        await broker.rest()
        broker.close()
        assert await program.stop() == 0
        text = repr(program.lines)
        assert "00010203" in text
        assert "0001020304" not in text


async def test_options_of_accepted_connections(tmp_path: Path) -> None:
    async with running(tmp_path) as beacon:
        waiting = await Peer.visit(beacon.addresses[0], BRIDGE, ROOM)
        await waiting.exactly(1)
        (link,) = beacon.links
        tcp = socket.IPPROTO_TCP
        assert link.sock.getsockopt(tcp, socket.TCP_NODELAY)
        assert link.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert link.sock.getsockopt(tcp, socket.TCP_KEEPIDLE) == 20
        assert link.sock.getsockopt(tcp, socket.TCP_USER_TIMEOUT) == 30_000
        other = await Peer.visit(beacon.addresses[0], BROKER, ROOM)
        await other.exactly(1)
        assert {each.sock.getsockopt(tcp, socket.TCP_USER_TIMEOUT) for each in beacon.links} == {120_000}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bogus"], "cloudtaser-beacon: unrecognized arguments: --bogus; see cloudtaser-beacon --help"),
        (["--dev", "--max-pairs", "x"], "cloudtaser-beacon: 'x' is not a whole number (--max-pairs)"),
    ],
)
def test_a_bad_flag_gives_one_line_and_status_2(arguments: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cloudtaser.beacon.app", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said + "\n")


def test_an_address_in_use_gives_one_line_and_status_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "cloudtaser.beacon.app",
                "--dev",
                "--addr",
                where,
                "--metrics-addr",
                "off",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == f"cloudtaser-beacon: cannot listen: Address already in use ({where})\n"


def test_without_cryptography_dev_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "cryptography.py").write_text("raise ImportError")
    done = subprocess.run(
        [sys.executable, "-m", "cloudtaser.beacon.app", "--dev", "--addr", "127.0.0.1:0"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install cryptography" in done.stderr


async def test_dev_makes_a_certificate_that_clients_can_check(tmp_path: Path) -> None:
    trusted = tmp_path / "ca.pem"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cloudtaser.beacon.app", "--dev", "--dev-cert-out", str(trusted)),
        *("--addr", "127.0.0.1:0", "--metrics-addr", "off"),
        stderr=asyncio.subprocess.PIPE,
    )
    program = Program(process, ("", 0), ("", 0))
    async with program:
        addresses = (await program.line("listening"))["addresses"]
        assert isinstance(addresses, list)
        port = int(addresses[0].rpartition(":")[2])
        context = ssl.create_default_context(cafile=str(trusted))
        for name in ("127.0.0.1", "localhost"):
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
            writer.close()
        assert await program.stop() == 0


async def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        async with await Program.start(tmp_path) as program:
            loop = asyncio.get_running_loop()
            assert await loop.sock_recv(notified, 100) == b"READY=1"
            assert await program.stop() == 0
            assert await loop.sock_recv(notified, 100) == b"STOPPING=1"
