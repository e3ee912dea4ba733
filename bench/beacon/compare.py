"""The beacon against HAProxy (one thread, TLS in and TLS out), as ratios from one interleaved run.

    python bench/beacon/compare.py [--rounds 9] [--seconds 0.7] [--only NAME]... [--record]

Installs HAProxy and OpenSSL's headers with apt when they are missing (as root), builds `load.c`, and runs
every scenario alternately against both relays, each on processor 0, the load on processor 1. Absolute
numbers depend on the machine and on who else uses it; ratios of processor time per unit hold, and the bars
are set in them. `--record` appends the table to bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "RESULTS.md"
Sample = dict[str, float]


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    mode: str
    pairs: int
    chunk: int
    both: bool
    field: str  # what is compared
    unit: str
    scale: float
    bar: float
    more_is_better: bool = False

    def ratio(self, beacon: Sample, haproxy: Sample) -> float:
        """Of the beacon to HAProxy. Throughput is what a whole processor would do: 1 / (seconds a GB)."""
        if self.more_is_better:
            return haproxy[self.field] / beacon[self.field]
        return beacon[self.field] / haproxy[self.field]

    def met(self, ratio: float) -> bool:
        return ratio >= self.bar if self.more_is_better else ratio <= self.bar


SCENARIOS = (
    Scenario(
        "bulk", "throughput, 8 pairs both ways", "bulk", 8, 16384, True, "cpu", "s CPU/GB", 1, 0.95, True
    ),
    Scenario("small", "throughput, 1.4 KB records", "bulk", 8, 1400, True, "cpu", "s CPU/GB", 1, 1.3, True),
    Scenario("pingpong", "1 KiB round trip, p50", "pingpong", 1, 1024, True, "p50", "us", 1e6, 1.2),
    Scenario("handshake", "processor time a handshake", "handshake", 16, 0, False, "cpu", "ms CPU", 1e3, 1.2),
    Scenario("memory", "memory an idle pair", "idle", 800, 0, False, "bytes", "KB", 1e-3, 1.0),
)


def prepare(folder: Path) -> Path:
    """Everything that must be there first; the load generator."""
    missing = [name for name, found in (("haproxy", haproxy()), ("gcc", shutil.which("gcc"))) if not found]
    if not Path("/usr/include/openssl/ssl.h").exists():
        missing.append("libssl-dev")
    if missing:
        if os.geteuid() != 0:
            sys.exit(f"compare: apt-get install {' '.join(missing)} first")
        for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-qy", *missing]):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    load = folder / "load"
    source = str(HERE / "load.c")
    subprocess.run(["gcc", "-O2", "-o", str(load), source, "-lssl", "-lcrypto"], check=True)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    command = ["openssl", "req", "-x509", *key, *files, "-subj", "/CN=localhost", "-days", "7"]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "both.pem").write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    return load


def haproxy() -> str | None:
    return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def pinned(processor: int) -> Callable[[], None]:
    available = sorted(os.sched_getaffinity(0))
    chosen = available[processor % len(available)]
    return lambda: os.sched_setaffinity(0, {chosen})


@contextmanager
def relay(command: list[str], port: int) -> Iterator[int]:
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=pinned(0))
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline or process.poll() is not None:
                    sys.exit(f"compare: {command[0]} does not start")
                time.sleep(0.02)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def beacon_command(folder: Path, port: int, more: list[str]) -> list[str]:
    return [
        *(sys.executable, "-m", "cloudtaser.beacon.app", "--addr", f"127.0.0.1:{port}"),
        *("--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem")),
        # one source makes all connections here; pairs need not be given time to finish
        *("--metrics-addr", "off", "--source-rate", "1000000", "--source-burst", "1000000"),
        *("--drain-grace", "10ms", *more),
    ]


def haproxy_command(folder: Path, port: int, backend: int) -> list[str]:
    """The frontend waits for a byte before it dials, so that a bare handshake is one handshake."""
    config = folder / f"haproxy-{port}.cfg"
    config.write_text(
        f"""global
  nbthread 1
  maxconn 9000
  ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
defaults
  mode tcp
  timeout client 1h
  timeout server 1h
  timeout connect 5s
frontend in
  bind 127.0.0.1:{port} ssl crt {folder}/both.pem
  tcp-request inspect-delay 5s
  tcp-request content accept if {{ req.len gt 0 }}
  default_backend out
backend out
  server one 127.0.0.1:{backend} ssl verify none no-ssl-reuse
"""
    )
    return [str(haproxy()), "-db", "-f", str(config)]


def measure(load: Path, scenario: Scenario, port: int, backend: int, pid: int, seconds: float) -> Sample:
    folder = load.parent
    done = subprocess.run(
        [
            *(str(load), scenario.mode, str(port), str(backend), str(scenario.pairs), str(seconds)),
            *(
                str(scenario.chunk),
                str(int(scenario.both)),
                str(folder / "cert.pem"),
                str(folder / "key.pem"),
            ),
            str(pid),
        ],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=pinned(1),
        timeout=120,
    )
    if done.returncode:
        sys.exit(f"compare: {scenario.name}: {done.stderr.strip()}")
    sample: Sample = json.loads(done.stdout)
    return sample


def run(
    scenario: Scenario, load: Path, rounds: int, seconds: float, more: list[str]
) -> tuple[Sample, Sample]:
    """Medians of each number: the beacon's and HAProxy's, measured in turn."""
    ours: list[Sample] = []
    theirs: list[Sample] = []
    fresh = scenario.mode == "idle"  # memory that was used once is not asked for again
    for _ in range(rounds if fresh else 1):
        port, proxy_port, backend = free_port(), free_port(), free_port()
        with (
            relay(beacon_command(load.parent, port, more), port) as beacon,
            relay(haproxy_command(load.parent, proxy_port, backend), proxy_port) as proxy,
        ):
            for _ in range(1 if fresh else rounds):
                ours.append(measure(load, scenario, port, 0, beacon, seconds))
                theirs.append(measure(load, scenario, proxy_port, backend, proxy, seconds))
    return medians(ours), medians(theirs)


def medians(samples: list[Sample]) -> Sample:
    return {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description="the beacon against HAProxy, as ratios")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.7, help="of each measured window")
    parser.add_argument("--only", action="append", choices=[scenario.name for scenario in SCENARIOS])
    parser.add_argument("--record", action="store_true", help="append the table to bench/RESULTS.md")
    parser.add_argument("--beacon-flag", action="append", default=[], help="handed to the beacon as it is")
    options = parser.parse_args()
    lines = ["| what | beacon | HAProxy | ratio | bar | |", "| --- | --- | --- | --- | --- | --- |"]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        load = prepare(Path(folder))
        for scenario in SCENARIOS:
            if options.only and scenario.name not in options.only:
                continue
            ours, theirs = run(scenario, load, options.rounds, options.seconds, options.beacon_flag)
            ratio = scenario.ratio(ours, theirs)
            shown = [
                f"{sample[scenario.field] * scenario.scale:.3g} {scenario.unit}" for sample in (ours, theirs)
            ]
            for index, sample in enumerate((ours, theirs)):
                if "rate" in sample and scenario.mode == "bulk":
                    shown[index] += f", {sample['rate']:.0f} MB/s"
            sign = "≥" if scenario.more_is_better else "≤"
            verdict = "met" if scenario.met(ratio) else "**not met**"
            cells = (scenario.title, *shown, f"{ratio:.2f}", f"{sign} {scenario.bar:g}", verdict)
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    if options.record:
        record(lines)


def record(lines: list[str]) -> None:
    if not RESULTS.exists():
        RESULTS.write_text(
            "# Results of the benchmarks\n\nNewest last. Ratios from one interleaved run each.\n"
        )
    when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    command = " ".join(["python", "bench/beacon/compare.py", *sys.argv[1:]])
    version = subprocess.run(
        [str(haproxy()), "-v"], capture_output=True, text=True, check=True
    ).stdout.split()[2]
    about = f"CPython {platform.python_version()}, {ssl.OPENSSL_VERSION.rsplit(' ', 3)[0]}, HAProxy {version}"
    with RESULTS.open("a") as file:
        file.write(f"\n## beacon against HAProxy, {when}\n`{command}` ({about}, load average ")
        file.write(f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} processors)\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
