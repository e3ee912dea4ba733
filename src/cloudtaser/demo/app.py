"""`make demo`: a secret reaches an unchanged program through the whole chain, on one machine.

Started by `python -m cloudtaser.demo` and by `cloudtaser-cli demo`. Every part is a real process; the one
stand-in is the API server. Cleans up on Ctrl-C, on an error and at the end; `--keep` leaves it running.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import secrets
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain, Pod
from cloudtaser.demo.command import program
from cloudtaser.demo.guard import guard
from cloudtaser.demo.openbao import bao_binary
from cloudtaser.demo.postgres import PostgresServer
from cloudtaser.demo.process import PartProcess, start_in_thread, together
from cloudtaser.demo.search import forms, occurrences
from cloudtaser.demo.story import Story
from cloudtaser.demo.timing import time_hops
from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.wire import names
from cloudtaser.wire.hashes import short_fingerprint

NAMESPACE = "shop"
SERVICE_ACCOUNT = "web"
_SECRET_PATH = "shop/config"  # noqa: S105  # where it lies, not what it is
_PATHS = f"secret/data/{_SECRET_PATH},{setup.DATABASE_MOUNT}/creds/{setup.DATABASE_ROLE}"
_ENV_MAP = "api_key=API_KEY;username=PGUSER,password=PGPASSWORD"
_LINE_TIMEOUT = 60.0
_SHOWN_BYTES = 24
_INTERRUPTED = 130


class Demo:
    """One run of the demo."""

    def __init__(self, story: Story, payload: Path | None) -> None:
        self.story = story
        self.chain = Chain(record=True, payload=payload)
        self.postgres = PostgresServer(self.chain.directory / "postgres")
        self.api_key = f"key-{secrets.token_hex(12)}"
        self.seen: dict[str, bytes] = {}
        self.pod: Pod
        self.application: PartProcess

    async def run(self) -> None:
        """All chapters, in order."""
        await self.start_servers()
        await self.register()
        await self.fill()
        await self.connect()
        await self.deliver()
        await self.rotate()
        await self.look_at_beacon()
        await self.lose_beacon()
        await self.show_times()

    async def start_servers(self) -> None:
        self.story.chapter("Your EU site: OpenBao, and a database it makes accounts for")
        with self.story.step("a real OpenBao (Raft, TLS, unseals itself) and a real PostgreSQL"):
            await together(
                self.chain.start_openbao(), start_in_thread(self.postgres.start, self.postgres.kill)
            )
        self.story.say(f"OpenBao listens at {self.chain.openbao.address}; nobody outside connects to it")

    async def register(self) -> None:
        self.story.chapter("Register the cluster: all that is needed of it is its fingerprint")
        self.story.command(f"cloudtaser-cli source register --fingerprint {self.chain.fingerprint}")
        with self.story.step("space, two CAs, login and policies made in OpenBao"):
            result = await self.chain.register()
        self.story.quote(
            [f"{name}: {result[name]}" for name in ("info_hash", "bridge_pin") if name in result]
        )

    async def fill(self) -> None:
        self.story.chapter("Put secrets in, and say who may read them")
        async with setup.administrator(self.chain) as client:
            self.story.command(f"bao kv put secret/{_SECRET_PATH} api_key={self.api_key[:7]}…")
            await setup.write_secret(client, _SECRET_PATH, {"api_key": self.api_key})
            await setup.offer_database(client, self.postgres)
        path = f"{setup.DATABASE_MOUNT}/creds/{setup.DATABASE_ROLE}"
        grant = ["source", "allow", self.chain.fingerprint, "--namespace", NAMESPACE]
        grant += ["--serviceaccount", SERVICE_ACCOUNT, "--path", path]
        self.story.command(f"cloudtaser-cli {' '.join(grant)}")
        self.story.command("cloudtaser-cli source bridge-token --id bridge-1 > bridge-1.token")
        with self.story.step("granted, beside secret/data/shop/; the bridge has a token"):
            await together(self.chain.cli(*grant), self.chain.new_bridge())

    async def connect(self) -> None:
        self.story.chapter("Connect: both sides dial out to the beacon and find each other by hash")
        with self.story.step("a beacon, and a stand-in for the cluster's API server"):
            await together(self.chain.start_beacon(), self.chain.start_apiserver())
        with self.story.step("bridge and operator met; the operator enrolled and has a tunnel"):
            await together(self.chain.start_bridge(), self.chain.start_operator())
        self.story.say("the operator was given a fingerprint and an address: no key, no certificate")

    async def deliver(self) -> None:
        self.story.chapter("Start an unchanged program under the wrapper")
        self.pod = self.chain.pod(NAMESPACE, SERVICE_ACCOUNT)
        script = self.chain.directory / "application.sh"
        source = resources.files("cloudtaser.demo") / "files" / "application.sh"
        await asyncio.to_thread(script.write_bytes, source.read_bytes())
        environment = {
            "CLOUDTASER_SECRET_PATHS": _PATHS,
            "CLOUDTASER_ENV_MAP": _ENV_MAP,
            "CLOUDTASER_ROTATION_INTERVAL": "1",
            "CLOUDTASER_ROTATION_DEBOUNCE": "0.2",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.postgres.port),
            "PGDATABASE": "app",
            "PATH": _path(),
        }
        self.application = self.chain.wrap(self.pod, ["/bin/sh", str(script)], environment)
        self.story.command("cloudtaser-wrapper -- /bin/sh application.sh")
        with self.story.step("it runs, and logged in to PostgreSQL"):
            self.application.start()
            await self.line("PostgreSQL says", count=1)
        self.story.quote(self.lines())

    async def rotate(self) -> None:
        self.story.chapter("Rotate a secret: the program is restarted with the new value")
        before = self.api_key
        self.api_key = f"new-{secrets.token_hex(12)}"
        shown = len(self.lines())
        self.story.command(f"bao kv put secret/{_SECRET_PATH} api_key={self.api_key[:7]}…")
        async with setup.administrator(self.chain) as client:
            await setup.write_secret(client, _SECRET_PATH, {"api_key": self.api_key})
        with self.story.step("the wrapper saw the new version and restarted the program"):
            await self.line("PostgreSQL says", count=2)
        self.story.quote(self.lines()[shown:])
        self.seen = {"the first API key": before.encode(), "the second API key": self.api_key.encode()}

    async def look_at_beacon(self) -> None:
        self.story.chapter("What the beacon saw")
        crossed = await asyncio.to_thread(_read_all, self.chain.records)
        if not crossed:
            raise UnavailableError("the beacon recorded nothing", on=str(self.chain.records))
        first, last = crossed[: 2 * _SHOWN_BYTES], crossed[-2 * _SHOWN_BYTES :]
        lines = [_hex(first[:_SHOWN_BYTES]), _hex(first[_SHOWN_BYTES:]), "…"]
        self.story.quote([*lines, _hex(last[:_SHOWN_BYTES]), _hex(last[_SHOWN_BYTES:])])
        token = (await asyncio.to_thread(self.pod.token_file.read_bytes)).strip()
        wanted = self.seen | {"the pod's token": token, "the database password": self.database_password()}
        found = occurrences(crossed, wanted)
        tried = sum(len(forms(secret)) for secret in wanted.values())
        self.story.say(
            f"searched {len(crossed):,} bytes for {', '.join(wanted)}, {tried} forms in all "
            f"(raw, hex, base64, JSON, …): {len(found)} found"
        )
        if found:
            raise CloudtaserError("the beacon could read a secret", on="; ".join(found))

    def database_password(self) -> bytes:
        """Of the running program, read from its own environment as only root or its owner can."""
        for variable in Path(f"/proc/{self.program()}/environ").read_bytes().split(b"\0"):
            if variable.startswith(b"PGPASSWORD="):
                return variable.partition(b"=")[2]
        raise UnavailableError("the program has no password", on=self.application.last_lines())

    def program(self) -> int:
        """Process id of the running program, the wrapper's child."""
        wrapper = self.application.pid
        children = Path(f"/proc/{wrapper}/task/{wrapper}/children").read_text().split()
        if not children:
            raise UnavailableError("the program is not running", on=self.application.last_lines())
        return int(children[0])

    async def lose_beacon(self) -> None:
        self.story.chapter("Kill the beacon: the program runs on, the chain comes back by itself")
        before = self.program()
        await self.chain.beacon.kill()
        self.story.say("beacon killed with SIGKILL")
        with self.story.step("beacon is back, both sides met again, a new pod got its secret"):
            await self.chain.start_beacon()
            await self.one_shot()
        if self.program() != before:
            raise UnavailableError("the program did not run on", on=self.application.last_lines())
        self.story.say(f"the program noticed nothing: it still runs as process {before}")

    async def one_shot(self) -> None:
        """A second pod that only prints how long its secret is."""
        pod = self.chain.pod(NAMESPACE)
        environment = {"CLOUDTASER_SECRET_PATHS": f"secret/data/{_SECRET_PATH}"}
        environment |= {"CLOUDTASER_ENV_MAP": "api_key=API_KEY", "PATH": _path()}
        part = self.chain.wrap(pod, ["/bin/sh", "-c", 'echo "got ${#API_KEY} letters"'], environment)
        part.start()
        await _line(part, f"got {len(self.api_key)} letters", count=1)

    async def show_times(self) -> None:
        self.story.chapter("How long each hop takes")
        with self.story.step("20 reads at each place, medians"):
            hops = await time_hops(self.chain, self.chain.pod(NAMESPACE), f"secret/data/{_SECRET_PATH}")
        self.story.table([(hop.name, f"{hop.seconds * 1000:.1f} ms", hop.remark) for hop in hops])

    async def line(self, text: str, *, count: int) -> None:
        """Wait until the application's log holds `text` that many times."""
        await _line(self.application, text, count=count)

    def lines(self) -> list[str]:
        """What the application itself printed (the wrapper's own lines are JSON)."""
        text = self.application.log.read_text(errors="replace")
        return [line for line in text.splitlines() if not line.startswith("{")]

    def leave_running(self) -> None:
        """Say how to try it by hand."""
        chain = self.chain
        self.story.chapter("Left running; Ctrl-C ends it")
        self.story.say("as OpenBao's administrator:")
        self.story.command(f". {_write_environment(chain.directory / 'admin.env', chain.admin_environment)}")
        self.story.command(f"bao status; cloudtaser-cli source show {chain.fingerprint}")
        space = f"cloudtaser/{short_fingerprint(chain.fingerprint)}"
        self.story.command(f"bao kv put -namespace={space} -mount=secret {_SECRET_PATH} api_key=yours")
        self.story.command(f"tail {self.application.log}")
        self.story.say("as a pod, through broker, beacon and bridge, with the unmodified client:")
        self.story.command(f". {self.pod_environment()}")
        login = f"bao write -field=token auth/jwt/login role=default jwt=@{self.pod.token_file}"
        self.story.command(f"export BAO_TOKEN=$({login})")
        self.story.command(f"bao read secret/data/{_SECRET_PATH}")
        self.story.say("and with a program of your own under the wrapper:")
        self.story.command("cloudtaser-wrapper -- sh -c 'echo \"$API_KEY as $PGUSER\"'")
        self.story.say(f"logs are in {chain.logs}")

    def pod_environment(self) -> Path:
        """A file of variables under which `bao` and the wrapper are the pod."""
        pod_ca = self.chain.directory / "pod-ca.crt"
        pod_ca.write_text(self.chain.pod_ca())
        client = {"BAO_ADDR": f"https://{self.chain.broker_address}", "BAO_CACERT": str(pod_ca)}
        client |= {"BAO_TLS_SERVER_NAME": names.BRIDGE_NAME, "BAO_TOKEN": "", "VAULT_TOKEN": ""}
        wrapper = {"CLOUDTASER_SECRET_PATHS": _PATHS, "CLOUDTASER_ENV_MAP": _ENV_MAP}
        return _write_environment(self.chain.directory / "pod.env", self.pod.environment | wrapper | client)

    def keep_logs(self) -> Path:
        """Copy every log to where it outlives the demo."""
        kept = Path(".cache") / "demo-logs"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.chain.logs, kept)
        for name, log in (("openbao", self.chain.openbao.log_file), ("postgres", self.postgres.log_file)):
            if log.exists():
                shutil.copyfile(log, kept / f"{name}.log")
        return kept

    async def close(self) -> None:
        """End everything that was started, and remove its files."""
        await self.chain.close(keep_files=True)  # OpenBao removes its accounts from a running database
        await asyncio.to_thread(self.postgres.stop)
        await asyncio.to_thread(shutil.rmtree, self.chain.directory, True)
        guard.keep(self.chain.directory)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="cloudtaser-cli demo",
        description="The whole chain on this machine, with a real OpenBao and PostgreSQL.",
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave everything running, with the addresses to try"
    )
    parser.add_argument(
        "--payload", type=Path, metavar="DIR", help="start applications under the wrapper's payload in DIR"
    )
    options = parser.parse_args(arguments)
    story = Story()
    try:
        return asyncio.run(_run(story, keep=options.keep, payload=options.payload))
    except CloudtaserError as error:
        story.problem(error.diagnostic())
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED


async def _run(story: Story, *, keep: bool, payload: Path | None) -> int:
    with _interruptible(asyncio.current_task()):
        demo = Demo(story, payload)
        try:
            await demo.run()
            story.end(f"done in {story.elapsed:.0f} s")
            if keep:
                demo.leave_running()
                await _interrupted()
                story.end("ending it")
        except asyncio.CancelledError:
            story.end("interrupted")
            return _INTERRUPTED
        except CloudtaserError:
            story.say(f"logs are kept in {demo.keep_logs()}")
            raise
        finally:
            began = time.monotonic()
            await demo.close()
            story.say(f"everything that was started is gone ({time.monotonic() - began:.1f} s)")
    return 0


async def _interrupted() -> None:
    """Wait for Ctrl-C, which is how a demo that was kept is meant to end."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


@contextlib.contextmanager
def _interruptible(task: asyncio.Task[int] | None) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends the demo in order; while it cleans up, further ones have no effect."""
    loop = asyncio.get_running_loop()
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        if task is not None and not interrupted:
            interrupted = True
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _line(part: PartProcess, text: str, *, count: int) -> None:
    async def printed() -> bool:
        return (await asyncio.to_thread(part.log.read_text, errors="replace")).count(text) >= count

    await part.wait_until(printed, f"where it prints {text!r}", _LINE_TIMEOUT)


def _write_environment(path: Path, variables: Mapping[str, str]) -> Path:
    """Write `variables`, and where our programs are, to be read by a shell; only its owner may."""
    path.touch(mode=0o600)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    programs = [Path(program("cloudtaser-cli")).parent, Path(bao_binary()).parent]
    lines.append(f'export PATH={shlex.quote(":".join(map(str, programs)))}:"$PATH"')
    path.write_text("\n".join(lines) + "\n")
    return path


def _read_all(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.glob("beacon*")))


def _hex(data: bytes) -> str:
    return data.hex(" ")


def _path() -> str:
    return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


if __name__ == "__main__":
    sys.exit(main())
