"""The webhook's figures: `python bench/webhook/compare.py [--record]`.

1. AdmissionReviews that a real API server sent (`recording`), replayed at 100 a second over TLS, whether or
   not the one before was answered; their images are in the resolver's cache. In turn with it, the same to a
   webhook that does nothing. Latency counts from when a review was due.
2. Pods created at a real API server by several clients at once: in a namespace without a webhook, with two
   that do nothing, and with this one's two (mutation and validation).
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import ssl
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import aiohttp

from bench.webhook.recording import IMAGE, REVIEWS
from cloudtaser.operator.webhook import configuration
from cloudtaser.operator.webhook.configuration import Registration
from tests.cluster.admission import kubectl
from tests.cluster.control_plane import ControlPlane
from tests.unit.operator.webhook.pods_rig import container, pod

Json = dict[str, Any]

RATE: Final = 100  # reviews a second
BAR: Final = 10.0  # ms, p99
CLIENTS: Final = 8
RESULTS: Final = Path(__file__).resolve().parents[1] / "RESULTS.md"
TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Replay:
    """What one replay showed."""

    latencies: list[float]
    """Milliseconds, of every review."""
    cpu: float
    """Milliseconds of the server's processor time, a review."""

    def percentile(self, share: float) -> float:
        return sorted(self.latencies)[min(len(self.latencies) - 1, int(len(self.latencies) * share))]


def processor_time(pid: int) -> float:
    """Seconds that a process has spent."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def replay(
    session: aiohttp.ClientSession, url: str, bodies: list[bytes], seconds: float, pid: int
) -> Replay:
    """Send reviews at the rate, each when it is due."""
    latencies: list[float] = []

    async def send(body: bytes, due: float) -> None:
        async with session.post(url, data=body, headers={"content-type": "application/json"}) as answer:
            said = await answer.read()
        assert answer.status == 200, said
        assert b'"allowed":true' in said, said
        latencies.append((time.perf_counter() - due) * 1000)

    before, begin = processor_time(pid), time.perf_counter()
    tasks = []
    for number in range(int(seconds * RATE)):
        due = begin + number / RATE
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.ensure_future(send(bodies[number % len(bodies)], due)))
    await asyncio.gather(*tasks)
    return Replay(latencies, (processor_time(pid) - before) * 1000 / len(latencies))


async def replays(said: Json, pid: int, rounds: int, seconds: float) -> tuple[list[str], bool]:
    """Part 1, as lines, and whether the bar was met."""
    context = ssl.create_default_context(cafile=said["ca"])
    bodies = [
        json.dumps(review).replace(IMAGE, said["image"]).encode()
        for review in json.loads(REVIEWS.read_text())
    ]
    ways = ("webhook", "noop")
    found: dict[str, list[Replay]] = {way: [] for way in ways}
    connector = aiohttp.TCPConnector(ssl=context, limit=64)
    async with aiohttp.ClientSession(connector=connector) as session:
        for way in ways:
            await replay(session, said[way] + configuration.MUTATE, bodies, 1.0, pid)  # to warm up
        for _ in range(rounds):
            for way in ways:
                found[way].append(
                    await replay(session, said[way] + configuration.MUTATE, bodies, seconds, pid)
                )
    lines = [
        (
            f"{len(bodies)} recorded AdmissionReviews ({min(map(len, bodies))} to {max(map(len, bodies))} "
            f"bytes) in turn at {RATE}/s, {rounds} rounds of {seconds:g} s, images cached, latency from when "
            "each was due."
        ),
        "",
        "| webhook | reviews | p50 ms | p99 ms | highest ms | CPU ms a review |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    p99: dict[str, float] = {}
    cpu: dict[str, float] = {}
    for way, name in (("webhook", "cloudtaser"), ("noop", "does nothing")):
        every = Replay([latency for one in found[way] for latency in one.latencies], 0.0)
        p99[way] = every.percentile(0.99)
        cpu[way] = statistics.median(one.cpu for one in found[way])
        lines.append(
            f"| {name} | {len(every.latencies)} | {every.percentile(0.5):.2f} | {p99[way]:.2f} "
            f"| {max(every.latencies):.1f} | {cpu[way]:.2f} |"
        )
    met = p99["webhook"] <= BAR
    lines += [
        "",
        (
            f"p99 ≤ {BAR:g} ms: {'met' if met else 'not met'}. To a webhook that does nothing: "
            f"p99 {p99['webhook'] / p99['noop']:.2f}, CPU {cpu['webhook'] / cpu['noop']:.2f}."
        ),
    ]
    return lines, met


async def creations(
    plane: ControlPlane, session: aiohttp.ClientSession, namespace: str, count: int, image: str
) -> float:
    """Pods a second that the API server stores in a namespace, asked by several clients at once."""
    subject = pod(container("known", None) | {"image": image})
    subject["metadata"] = {"generateName": "p-", "annotations": subject["metadata"]["annotations"]}
    body = json.dumps(subject).encode()
    url = f"{plane.server}/api/v1/namespaces/{namespace}/pods"
    left = iter(range(count))

    async def client() -> None:
        for _ in left:
            async with session.post(url, data=body, headers={"content-type": "application/json"}) as answer:
                assert answer.status == 201, await answer.text()

    begin = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return count / (time.perf_counter() - begin)


async def sustained(said: Json, directory: Path, rounds: int, count: int) -> list[str]:
    """Part 2, as lines."""
    found: dict[str, list[float]] = {"without": [], "noop": [], "webhook": []}
    async with ControlPlane(directory / "plane") as plane:
        for way in ("noop", "webhook"):
            registration = Registration(
                url=said[way],
                ca_bundle=said["ca_bundle"],
                failure_policy="Fail",
                namespace_selector={"matchLabels": {"bench": way}},
            )
            for made in (configuration.mutating(registration), configuration.validating(registration)):
                made["metadata"]["name"] += f"-{way}"
                await plane.apply(made)
        for way in found:
            metadata = {"name": f"bench-{way}", "labels": {"bench": way}}
            await plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
            await plane.kubectl(
                "wait", "--for=create", "serviceaccount/default", "-n", f"bench-{way}", "--timeout=60s"
            )
        context = ssl.create_default_context(cafile=str(plane.identities.ca))
        context.load_cert_chain(*plane.identities.client("bench", "admin", ("system:masters",)))
        connector = aiohttp.TCPConnector(ssl=context, limit=CLIENTS)
        async with aiohttp.ClientSession(connector=connector) as session:
            probe = pod(inject=False, metadata={"name": "x", "annotations": {"cloudtaser.io/nonsense": "x"}})
            async with asyncio.timeout(60):
                while (
                    await kubectl(
                        plane,
                        "create",
                        "-n",
                        "bench-webhook",
                        "--dry-run=server",
                        "-f",
                        "-",
                        given=probe | {"metadata": {**probe["metadata"], "namespace": "bench-webhook"}},
                    )
                ).code == 0:
                    continue
            for _ in range(rounds):
                for way, rates in found.items():
                    rates.append(await creations(plane, session, f"bench-{way}", count, said["image"]))
    lines = [
        (
            f"Pods created at a real API server by {CLIENTS} clients, {rounds} rounds of {count}, medians; "
            "etcd, API server, controllers, scheduler, clients and webhook share this machine."
        ),
        "",
        "| namespace | pods/s | to none |",
        "| --- | --- | --- |",
    ]
    none = statistics.median(found["without"])
    names = {"without": "no webhook", "noop": "two that do nothing", "webhook": "cloudtaser's two"}
    for way, name in names.items():
        rate = statistics.median(found[way])
        lines.append(f"| {name} | {rate:.0f} | {rate / none:.2f} |")
    return lines


async def run(options: argparse.Namespace) -> tuple[list[str], bool]:
    """Everything, as lines; and whether the bar was met."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("serving.py")),
            str(directory / "served"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert child.stdout is not None
        assert child.stdin is not None
        try:
            said = json.loads(await asyncio.wait_for(child.stdout.readline(), 60))
            lines: list[str] = []
            met = True
            if options.seconds:
                lines, met = await replays(said, child.pid, options.rounds, options.seconds)
            if options.pods:
                separator = [""] if lines else []
                lines += [*separator, *await sustained(said, directory, options.rounds, options.pods)]
        finally:
            child.stdin.close()
            await asyncio.wait_for(child.wait(), 30)
    return lines, met


def main() -> int:
    """Measure, print, record; 1 when the bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=15.0, help="of one round of replaying; 0: none")
    parser.add_argument("--pods", type=int, default=300, help="of one round of creating; 0: none")
    parser.add_argument("--record", action="store_true", help="append the result to bench/RESULTS.md")
    options, _ = parser.parse_known_args()
    lines, met = asyncio.run(run(options))
    print("\n".join(lines))
    if options.record:
        when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        given = f"--rounds {options.rounds} --seconds {options.seconds:g} --pods {options.pods}"
        where = f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f}"
        if os.sched_getscheduler(0) != os.SCHED_OTHER:
            where += ", scheduled before everything else on it"
        python = platform.python_version()
        command = f"python bench/webhook/compare.py {given}"
        head = f"## the webhook, {when}\n\n`{command}`, {where}, Python {python}.\n\n"
        with RESULTS.open("a") as results:
            results.write(f"\n{head}" + "\n".join(lines) + "\n")
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
