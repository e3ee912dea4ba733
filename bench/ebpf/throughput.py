"""What the node agent costs programs that it does not protect: nginx and PostgreSQL with it and without it.

`python -m bench.ebpf.throughput`. Each round measures both states, in an order that alternates; the figure is
the median of the rounds' ratios, and its spread: of the rate, which on a busy machine is noise, and of the
processor time that the server, the kernel's part in it included, spends on one request. By itself on this
machine's own kernel, with the tier that it takes; with `--kernel NAME` under one of the kernel tests', where
the processor is emulated and the tier `lsm` (`--no-lsm-bpf`: `fmod_ret`). Needs root, nginx, wrk,
PostgreSQL's server and pgbench.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.vm import kernels, machine, programs
from tests.vm.agent import Agent
from tests.vm.machine import Boot

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "RESULTS.md"
PATIENCE = 120.0
CONNECTIONS = 8
VM_SECONDS = 3000.0


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> None:
    """Wait until somebody does. Raises `TimeoutError`."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing listens on port {port}") from None
            time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class Load:
    """A command that asks a server for `{seconds}`, and that server's pid."""

    command: list[str]
    server: int


@contextmanager
def running(command: list[str]) -> Iterator[int]:
    """A server, until it is not needed; its pid."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)


@contextmanager
def nginx(folder: Path) -> Iterator[Load]:
    """Its load: each request opens a file of 1 KiB."""
    port = free_port()
    (folder / "file").write_bytes(b"x" * 1024)
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr emerg;\n"
        "events { worker_connections 64; }\n"
        f"http {{ access_log off; keepalive_requests 1000000;\n"
        f"server {{ listen 127.0.0.1:{port}; root {folder}; }}\n"
        f"client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;\n"
        f"uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; }}\n"
    )
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
    with running([program, "-p", str(folder), "-c", str(folder / "nginx.conf")]) as pid:
        answers(port)
        yield Load(["wrk", "-t1", f"-c{CONNECTIONS}", "-d{seconds}s", f"http://127.0.0.1:{port}/file"], pid)


@contextmanager
def postgresql(folder: Path) -> Iterator[Load]:
    """Its load: single rows by key."""
    port = free_port()
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    data = folder / "data"
    shutil.chown(folder, "postgres", "postgres")
    become = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    subprocess.run(
        [*become, str(programs / "initdb"), "-D", str(data), "-A", "trust", "-N", "--no-instructions"],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=folder,
    )
    settings = (
        "fsync=off",
        "listen_addresses=127.0.0.1",
        f"port={port}",
        f"unix_socket_directories={folder}",
    )
    options = [word for setting in settings for word in ("-c", setting)]
    with running([*become, str(programs / "postgres"), "-D", str(data), *options]) as pid:
        answers(port)
        client = ["-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]
        pgbench = str(programs / "pgbench")
        subprocess.run([pgbench, *client, "-i", "-q", "postgres"], check=True, capture_output=True)
        yield Load([pgbench, *client, "-S", "-n", f"-c{CONNECTIONS}", "-T{seconds}", "postgres"], pid)


def processor_time(pid: int) -> float:
    """Of this process and of its children that have ended, in s (proc(5), stat 14 to 17)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> int:
    """How many it has."""
    return len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def one(load: Load, seconds: int) -> tuple[float, float]:
    """Requests or transactions a second, and the server's processor time for one, in µs."""
    before, own = processor_time(load.server), children(load.server)
    command = [word.replace("{seconds}", str(seconds)) for word in load.command]
    said = subprocess.run(
        command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
    ).stdout
    deadline = time.monotonic() + PATIENCE
    while (
        children(load.server) > own and time.monotonic() < deadline
    ):  # a session's time counts once it has ended
        time.sleep(0.01)
    spent = processor_time(load.server) - before
    rate = re.search(r"Requests/sec:\s*([\d.]+)|tps = ([\d.]+)", said)
    count = re.search(r"(\d+) requests in|actually processed: (\d+)", said)
    if rate is None or count is None:
        raise ValueError(f"no rate in {said[-300:]!r}")
    return float(rate[1] or rate[2]), spent * 1e6 / int(count[1] or count[2])


def measured(rounds: int, seconds: int) -> dict[str, Any]:
    """Rates and costs of both programs in each round, without the agent and with it."""
    rates: dict[str, dict[str, list[tuple[float, float]]]] = {
        name: {"off": [], "on": []} for name in ("nginx", "PostgreSQL")
    }
    tier = ""
    with tempfile.TemporaryDirectory() as made:
        base = Path(made)
        base.chmod(0o755)
        for name in ("nginx", "postgresql"):
            (base / name).mkdir(mode=0o755)
        with nginx(base / "nginx") as web, postgresql(base / "postgresql") as database:
            loads = {"nginx": web, "PostgreSQL": database}
            for number in range(rounds):
                for state in ("off", "on") if number % 2 == 0 else ("on", "off"):
                    agent = None
                    if state == "on":
                        settings = {"EBPF_PIN_PATH": "off", "GLOBAL_POLICY": "node"}
                        agent = Agent(
                            programs.program("victim"), socket=f"{base}/agent", cgroup="", **settings
                        )
                        tier = agent.status()["tier"]
                    for name, load in loads.items():
                        rates[name][state].append(one(load, seconds))
                    if agent is not None:
                        agent.stop()
    return {"kernel": platform.release(), "tier": tier, "rates": rates}


def in_a_machine(kernel: str, *, lsm: bool, rounds: int, seconds: int) -> dict[str, Any]:
    """The same under another kernel. Raises `MachineError`."""
    programs.program("victim")
    result = machine.run(
        kernels.kernel(kernel),
        [
            sys.executable,
            "-m",
            "bench.ebpf.throughput",
            "--json",
            "--rounds",
            str(rounds),
            "--seconds",
            str(seconds),
        ],
        seconds=VM_SECONDS,
        boot=Boot(lsm_bpf=lsm),
        folder=ROOT,
    )
    if result.status:
        raise machine.MachineError(result.output)
    found: dict[str, Any] = json.loads(result.output.splitlines()[-1])
    return found


def table(found: dict[str, Any]) -> str:
    """The figures, as Markdown."""
    where = "natively" if found["native"] else "in QEMU, the processor emulated"
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d}: nginx and PostgreSQL beside the node agent",
        "",
        f"`python -m bench.ebpf.throughput`, {where}: kernel {found['kernel']}, tier {found['tier']}.",
        f"Neither program is protected. {found['rounds']} rounds of both states, {found['seconds']} s each,",
        f"load average {os.getloadavg()[0]:.1f}; a ratio is of the figure with the agent to the one",
        "without it in the same round.",
        "",
        "| program | | without, median | with | ratio, median | least | most |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, states in found["rates"].items():
        for place, what in enumerate(("a second", "processor µs each")):
            off, on = ([pair[place] for pair in states[state]] for state in ("off", "on"))
            ratios = [after / before for before, after in zip(off, on, strict=True)]
            medians = f"{statistics.median(off):.0f} | {statistics.median(on):.0f}"
            spread = f"{min(ratios):.3f} | {max(ratios):.3f}"
            lines.append(f"| {name} | {what} | {medians} | {statistics.median(ratios):.3f} | {spread} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kernel", choices=sorted(kernels.SUITES), help="in a machine, under this one")
    parser.add_argument(
        "--no-lsm-bpf", action="store_true", help="there: without bpf among the security modules"
    )
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--json", action="store_true", help="the rates alone, on one line")
    given = parser.parse_args()
    if given.kernel:
        found = in_a_machine(
            given.kernel, lsm=not given.no_lsm_bpf, rounds=given.rounds, seconds=given.seconds
        )
    else:
        found = measured(given.rounds, given.seconds)
    if given.json:
        print(json.dumps(found))
        return 0
    found |= {"native": not given.kernel, "rounds": given.rounds, "seconds": given.seconds}
    said = table(found)
    print(said)
    if given.record:
        with RESULTS.open("a") as file:
            file.write(f"\n{said}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
