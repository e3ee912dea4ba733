"""What the wrapper costs, beside a C program that does the same fetch and start, and naive Python.

    python bench/wrapper/compare.py [--payload DIR] [--rounds 15] [--crowd 200] [--record]

Every way logs in through one real chain (broker, beacon, bridge, OpenBao), reads one secret of 1 KiB and
starts `probe.c`, which says at once what processor time it cost to get there: its own, which is the fork, and
its parent's (/proc/PID/task/*/schedstat). The ways take turns. `--payload` is the directory that
`make payload` leaves; without it only the wrapper under this interpreter is measured. Everything shares the
machine's processors: times by the clock are those of a crowded node, processor time is what counts.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain, Pod
from cloudtaser.demo.command import program
from cloudtaser.wire import names

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "RESULTS.md"
SECRET, SIZE = "shop/bench", 1024
SETTLED = 2.0
"""Seconds after the start at which memory is read: what is given back has been by then."""
WATCHED = 10.0
"""Seconds over which an idle wrapper's processor time is counted."""
PATIENCE = 120.0
# one address makes all starts here, where each pod has its own
MANY = ("--rate-peer", "10000/100000")
BARS = {"cpu": 25.0, "resident": 14.0, "archive": 3.0, "copy": 50.0}


@dataclass(frozen=True)
class Way:
    """One way to start a program with a secret."""

    name: str
    command: list[str]


@dataclass(frozen=True)
class Start:
    """One start: milliseconds on a processor and by the clock until the program ran."""

    cpu: float
    clock: float


@dataclass(frozen=True)
class Stay:
    """A wrapper whose application runs: MiB in memory, its own alone, at its highest; CPU ms in a minute."""

    resident: float
    private: float
    highest: float
    idle: float


class Pods:
    """Pods of the chain with what every way needs to know."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def environment(self, pod: Pod, host: str = "127.0.0.1") -> dict[str, str]:
        port = self._chain.ports.broker
        clean = {"PATH": os.environ["PATH"]} | pod.environment
        return clean | {
            "VAULT_ADDR": f"broker://{host}:{port}",
            "CLOUDTASER_SECRET_PATHS": f"secret/data/{SECRET}",
            "CLOUDTASER_ENV_MAP": "value=VALUE",
            "BENCH_NAME": names.BRIDGE_NAME,
            "BENCH_PATH": f"secret/data/{SECRET}",
        }

    def new(self) -> Pod:
        return self._chain.pod("shop")


def build(folder: Path) -> tuple[Path, Path]:
    """The C programs: the probe, and the fetch beside which the wrapper is measured."""
    if shutil.which("gcc") is None or not Path("/usr/include/openssl/ssl.h").exists():
        raise SystemExit("compare: apt-get install gcc libssl-dev first")
    probe, fetch = folder / "probe", folder / "fetch"
    subprocess.run(["gcc", "-O2", "-static", "-o", str(probe), str(HERE / "probe.c")], check=True)
    libraries = ["-lssl", "-lcrypto"]
    subprocess.run(["gcc", "-O2", "-o", str(fetch), str(HERE / "fetch.c"), *libraries], check=True)
    return probe, fetch


def start(way: Way, probe: Path, environment: dict[str, str]) -> Start:
    """One start, to the end of the program."""
    began = time.monotonic()
    process = subprocess.Popen(
        [*way.command, str(probe)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    clock = time.monotonic() - began
    errors = process.stderr.read()
    if process.wait() or not line:
        raise SystemExit(f"{way.name} failed with {process.returncode}: {errors.decode()}")
    own, parent, length = map(int, line.split())
    if length != SIZE:
        raise SystemExit(f"{way.name} delivered {length} bytes of {SIZE}")
    return Start((own + parent) / 1e6, clock * 1e3)


def processor_ms(pid: int) -> float:
    """Of all threads of a process so far."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e6


def memory(pid: int) -> tuple[float, float, float]:
    """MiB resident, of these its own alone, and resident at its highest."""
    rollup = dict(line.split()[:2] for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    private = int(rollup["Private_Clean:"]) + int(rollup["Private_Dirty:"])
    return int(rollup["Rss:"]) / 1024, private / 1024, int(status["VmHWM"].split()[0]) / 1024


def stay(way: Way, probe: Path, environment: dict[str, str]) -> Stay:
    """Start one and watch it while its program does nothing."""
    process = subprocess.Popen(
        [*way.command, str(probe), "stay"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit(f"{way.name} started nothing")
        time.sleep(SETTLED)
        found = memory(process.pid)
        before = processor_ms(process.pid)
        time.sleep(WATCHED)
        idle = (processor_ms(process.pid) - before) * 60 / WATCHED
        return Stay(*found, idle)
    finally:
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        process.send_signal(signal.SIGTERM)
        process.wait()


def own_address() -> str:
    """An address of this machine beside loopback, to be a second source; loopback's where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return "127.0.0.1"
        return str(sock.getsockname()[0])


def crowd(way: Way, probe: Path, environments: list[dict[str, str]], parts: dict[str, int]) -> list[str]:
    """All start at once; how long until the first, half and all of the programs ran."""
    before = {name: processor_ms(pid) for name, pid in parts.items()}
    began = time.monotonic()
    processes = [
        subprocess.Popen([*way.command, str(probe)], env=each, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for each in environments
    ]
    launched = time.monotonic() - began
    try:
        outputs = [process.communicate(timeout=PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()
    took = time.monotonic() - began
    bad = [process.returncode for process in processes if process.returncode]
    lines = [line for line, _ in outputs if line]
    if bad or len(lines) != len(processes):
        last = next(errors.decode().splitlines()[-1:] for _, errors in outputs if errors)
        raise SystemExit(f"{len(bad)} of {len(processes)} starts failed: {last}")
    cpu = sorted(sum(map(int, line.split()[:2])) / 1e6 for line in lines)
    retried = sum(b"retry" in errors or b"again" in errors for _, errors in outputs)
    each = ", ".join(
        f"{name} {(processor_ms(pid) - before[name]) / len(processes):.1f}" for name, pid in parts.items()
    )
    return [
        (
            f"{len(processes)} at once ({way.name}): {len(processes)} delivered, {took:.2f} s until the "
            f"last had ended ({launched:.2f} s of these to launch them), {retried} had to try again; "
            f"CPU ms to exec: median {statistics.median(cpu):.1f}, highest {cpu[-1]:.1f}."
        ),
        f"CPU ms a start at the other parts: {each}.",
    ]


def spread(values: list[float]) -> str:
    """Median, and from where to where the middle half lies."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.1f} ({low:.1f}-{high:.1f})"


def verdict(value: float, bar: float) -> str:
    """Whether a figure holds what was promised."""
    return f"≤ {bar:g}: {'met' if value <= bar else 'not met'}"


def timed(action: Callable[[], object]) -> float:
    """Milliseconds by the clock."""
    began = time.monotonic()
    action()
    return (time.monotonic() - began) * 1e3


def payload_lines(payload: Path, folder: Path, rounds: int) -> list[str]:
    """How large the payload is, and how long it takes to copy it into memory as an init container has to."""
    archive = folder / "payload.tar.xz"
    tar = ["tar", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-C", str(payload), "-cf", "-", "."]
    with archive.open("wb") as output:
        packed = subprocess.run(tar, stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["xz", "-9e", "-T1", "-c"], input=packed, stdout=output, check=True)
    size = archive.stat().st_size / 2**20
    lines = [
        (
            f"Payload: {size:.2f} MiB as .tar.xz ({verdict(size, BARS['archive'])}), "
            f"{len(packed) / 2**20:.1f} unpacked."
        )
    ]
    copies = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as target:
            install = [str(payload / "wrapper"), "--install", target]
            copies.append(timed(partial(subprocess.run, install, check=True)))
    copy = statistics.median(copies)
    held = verdict(copy, BARS["copy"])
    lines.append(
        f"`wrapper --install` into tmpfs, process and all, by the clock: {spread(copies)} ms ({held})."
    )
    return lines


async def run(options: argparse.Namespace) -> list[str]:
    """All of it; the lines of the result."""
    chain = Chain()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        probe, fetch = build(folder)
        ways = [
            Way("C", [str(fetch)]),
            Way("wrapper, this Python", [program("cloudtaser-wrapper"), "--"]),
            Way("naive Python", [sys.executable, str(HERE / "naive.py")]),
        ]
        if options.payload:
            ways.insert(1, Way("wrapper, payload", [str(Path(options.payload) / "wrapper"), "--"]))
        try:
            await chain.start_openbao()
            await chain.register()
            await asyncio.gather(chain.start_beacon(), chain.start_bridge(*MANY), chain.start_apiserver())
            chain.operator.arguments += ["--listen", f"0.0.0.0:{chain.ports.broker}"]
            await chain.start_operator()
            async with setup.administrator(chain) as admin:
                await setup.write_secret(admin, SECRET, {"value": "x" * SIZE})
            return await asyncio.to_thread(measure, chain, ways, probe, folder, options)
        finally:
            await chain.close()


def measure(
    chain: Chain, ways: list[Way], probe: Path, folder: Path, options: argparse.Namespace
) -> list[str]:
    """The rounds, the stays, the crowd."""
    pods = Pods(chain)
    starts: dict[str, list[Start]] = {way.name: [] for way in ways}
    for number in range(-1, options.rounds):
        for way in ways:
            found = start(way, probe, pods.environment(pods.new()))
            print(f"{way.name:22} {found.cpu:7.1f} CPU ms  {found.clock:7.1f} ms", flush=True)
            if number >= 0:
                starts[way.name].append(found)
    stays = {way.name: stay(way, probe, pods.environment(pods.new())) for way in ways}
    lines = [
        (
            f"Login and one secret of {SIZE} bytes through the chain, {options.rounds} rounds in turn, "
            "medians (and the middle half)."
        ),
        "",
        "| way | CPU ms to exec | to C | clock ms | MiB resident | own | highest | idle, CPU ms a minute |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for way in ways:
        mine, kept = starts[way.name], stays[way.name]
        ratio = statistics.median(a.cpu / b.cpu for a, b in zip(mine, starts["C"], strict=True))
        lines.append(
            f"| {way.name} | {spread([each.cpu for each in mine])} | {ratio:.2f} "
            f"| {spread([each.clock for each in mine])} | {kept.resident:.1f} | {kept.private:.1f} "
            f"| {kept.highest:.1f} | {kept.idle:.1f} |"
        )
    wrapper = next(way for way in ways if way.name.startswith("wrapper"))
    cpu = statistics.median(each.cpu for each in starts[wrapper.name])
    resident = stays[wrapper.name].resident
    lines += [
        "",
        (
            f"{wrapper.name}: CPU ms to exec {verdict(cpu, BARS['cpu'])}; "
            f"MiB resident {verdict(resident, BARS['resident'])}."
        ),
    ]
    if options.payload:
        lines += payload_lines(Path(options.payload), folder, options.rounds)
    assert chain.bridge is not None
    assert chain.openbao.pid is not None
    parts = {
        "broker": chain.operator.pid,
        "beacon": chain.beacon.pid,
        "bridge": chain.bridge.pid,
        "OpenBao": chain.openbao.pid,
    }
    hosts = ("127.0.0.1", own_address())  # the broker has a bound for each address
    everybody = [pods.environment(pods.new(), hosts[number % 2]) for number in range(options.crowd)]
    return lines + crowd(wrapper, probe, everybody, parts)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--payload", default="", help="the directory that `make payload` leaves")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--crowd", type=int, default=200)
    parser.add_argument("--record", action="store_true", help="append the result to bench/RESULTS.md")
    options = parser.parse_args()
    lines = asyncio.run(run(options))
    print("\n".join(lines))
    if options.record:
        given = " --payload DIR" if options.payload else ""
        command = f"python bench/wrapper/compare.py{given} --rounds {options.rounds} --crowd {options.crowd}"
        when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        where = f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f}"
        python = platform.python_version()
        head = f"## the wrapper's figures, {when}\n\n`{command}`, {where}, Python {python}.\n\n"
        with RESULTS.open("a") as results:
            results.write(f"\n{head}" + "\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
