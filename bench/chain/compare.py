"""Secret reads through the whole chain against the same reads straight at OpenBao, as ratios from one run.

    python bench/chain/compare.py [--rounds 5] [--seconds 4] [--clients 64] [--record]

Both ways speak TLS on keep-alive connections and read the same KV v2 secret of 1 KiB under the same tokens;
`wrk` (installed with apt when missing, as root) makes the load, alternately on both. Everything, the load
included, shares the machine's processors. Processor time per request is that of all threads of each part,
from /proc/PID/task/*/schedstat.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain
from cloudtaser.demo.timing import PodClient
from cloudtaser.wire.hashes import short_fingerprint

RESULTS = Path(__file__).resolve().parent.parent / "RESULTS.md"
BAR = 0.7
TOKENS = 8  # a token may make a thousand requests a second
SECRET = "shop/bench"
REQUESTS = re.compile(r"Requests/sec:\s+([\d.]+)")
LATENCY = re.compile(r"50%\s+([\d.]+)(us|ms|s)")
ERRORS = re.compile(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)")
SCALE = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Sample:
    """One round: requests a second, median latency, processor time a request of each part (microseconds)."""

    rate: float
    latency_ms: float
    cpu: dict[str, float]


def processor_seconds(pid: int) -> float:
    """Of all threads of a process so far."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except OSError:
            continue
    return total / 1e9


def load(url: str, script: Path, clients: int, seconds: float, parts: dict[str, int]) -> Sample:
    """One round of `wrk` against `url`."""
    before = {name: processor_seconds(pid) for name, pid in parts.items()}
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--latency", "-s", str(script), url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if trouble := ERRORS.search(output):
        raise SystemExit(f"the load was not answered as it should: {trouble.group(0)}")
    rate = REQUESTS.search(output)
    latency = LATENCY.search(output)
    if rate is None or latency is None:
        raise SystemExit(f"wrk said something unexpected: {output}")
    requests = float(rate.group(1)) * seconds
    cpu = {name: (processor_seconds(pid) - before[name]) / requests * 1e6 for name, pid in parts.items()}
    return Sample(float(rate.group(1)), float(latency.group(1)) * SCALE[latency.group(2)], cpu)


def write_script(path: Path, tokens: list[str], namespace: str) -> Path:
    """The Lua that `wrk` runs: a GET with the next token, and the namespace where no bridge sets it."""
    listed = ", ".join(f'"{token}"' for token in tokens)
    header = f'wrk.headers["X-Vault-Namespace"] = "{namespace}"\n' if namespace else ""
    path.write_text(
        f"local tokens = {{{listed}}}\nlocal n = 0\n{header}"
        "request = function()\n  n = n % #tokens + 1\n"
        '  wrk.headers["X-Vault-Token"] = tokens[n]\n'
        f'  return wrk.format("GET", "/v1/secret/data/{SECRET}")\nend\n'
    )
    path.chmod(0o600)
    return path


async def prepare(chain: Chain) -> list[str]:
    """The chain up, the secret written; tokens of several pods."""
    await chain.start()
    async with setup.administrator(chain) as admin:
        await setup.write_secret(admin, SECRET, {"value": "x" * 1024})
    tokens = []
    for _ in range(TOKENS):
        client = PodClient(chain.broker_address, chain.pod_ca())
        await asyncio.to_thread(client.login, chain.pod("shop").token_file.read_text())
        tokens.append(client.token)
        client.close()
    return tokens


async def run(options: argparse.Namespace) -> list[str]:
    """All rounds; the lines of the result."""
    chain = Chain()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            tokens = await prepare(chain)
            assert chain.bridge is not None
            assert chain.openbao.pid is not None
            parts = {
                "broker": chain.operator.pid,
                "beacon": chain.beacon.pid,
                "bridge": chain.bridge.pid,
                "OpenBao": chain.openbao.pid,
            }
            space = f"cloudtaser/{short_fingerprint(chain.fingerprint)}"
            ways = {
                "direct": (chain.openbao.address, write_script(Path(scratch) / "direct.lua", tokens, space)),
                "chain": (
                    f"https://{chain.broker_address}",
                    write_script(Path(scratch) / "chain.lua", tokens, ""),
                ),
            }
            samples: dict[str, list[Sample]] = {name: [] for name in ways}
            for number in range(-1, options.rounds):
                for name, (url, script) in ways.items():
                    sample = await asyncio.to_thread(
                        load, url, script, options.clients, options.seconds if number >= 0 else 1, parts
                    )
                    if number >= 0:
                        samples[name].append(sample)
                        print(f"{name:7} {sample.rate:8.0f}/s  p50 {sample.latency_ms:6.1f} ms", flush=True)
        finally:
            await chain.close()
    return report(samples, options)


def report(samples: dict[str, list[Sample]], options: argparse.Namespace) -> list[str]:
    """The table, as Markdown."""
    pairs = zip(samples["chain"], samples["direct"], strict=True)
    ratio = statistics.median(chain.rate / direct.rate for chain, direct in pairs)
    rounds_of = f"{options.rounds} rounds of {options.seconds:g} s"
    lines = [
        f"Secret reads, {options.clients} keep-alive clients, TLS on both ways, {rounds_of}, medians.",
        "",
        "| way | reads/s | p50 ms | CPU µs a read: broker | beacon | bridge | OpenBao |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, rounds in samples.items():
        rate = statistics.median(sample.rate for sample in rounds)
        latency = statistics.median(sample.latency_ms for sample in rounds)
        cpu = [
            f"{statistics.median(sample.cpu[part] for sample in rounds):.0f}"
            for part in ("broker", "beacon", "bridge", "OpenBao")
        ]
        lines.append(f"| {name} | {rate:.0f} | {latency:.1f} | {' | '.join(cpu)} |")
    verdict = "met" if ratio >= BAR else "not met"
    lines += ["", f"Chain against direct: **{ratio:.2f}** (bar {BAR}: {verdict})."]
    return lines


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--record", action="store_true", help="append the result to bench/RESULTS.md")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        if os.geteuid() != 0:
            raise SystemExit("wrk is missing; install it with apt, or run this as root")
        subprocess.run(["apt-get", "install", "-y", "-qq", "wrk"], check=True, stdout=subprocess.DEVNULL)
    lines = asyncio.run(run(options))
    print("\n".join(lines))
    if options.record:
        command = f"python bench/chain/compare.py --rounds {options.rounds} --seconds {options.seconds:g}"
        head = f"## {datetime.date.today()}: the whole chain against OpenBao alone\n\n"
        where = f"`{command}`, {os.cpu_count()} processors, Python {platform.python_version()}.\n\n"
        with RESULTS.open("a") as results:
            results.write(f"\n{head}{where}" + "\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
