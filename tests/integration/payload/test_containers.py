"""The payload as PID 1 of restricted containers: in an empty image, a musl one and a glibc one."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudtaser.demo.openbao import OpenBaoServer
from tests.integration.payload.containers import (
    APPLICATION,
    USER,
    Container,
    Images,
    run_without_proc,
    started_without_proc,
    told,
)

# where nothing is cached, the first test waits for the payload to be built
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
IMAGES = ("empty", "musl", "glibc")
# each of these would change a dynamic program, a C library, Python or OpenSSL that listens to it
HOSTILE = {
    "HOME": "/nowhere",
    "LD_PRELOAD": "/secrets/nothing.so",
    "LD_LIBRARY_PATH": "/secrets",
    "LD_AUDIT": "/secrets/nothing.so",
    "LD_BIND_NOW": "1",
    "LD_DEBUG_OUTPUT": "/tmp/debug",
    "GLIBC_TUNABLES": "glibc.malloc.check=3",
    "MALLOC_PERTURB_": "85",
    "MUSL_LOCPATH": "/secrets",
    "GCONV_PATH": "/secrets",
    "LC_ALL": "xx_XX.NOTHING",
    "PYTHONHOME": "/nowhere",
    "PYTHONPATH": "/nowhere",
    "PYTHONSTARTUP": "/nowhere/start.py",
    "PYTHONMALLOC": "nonsense",
    "PYTHONHASHSEED": "nonsense",
    "PYTHONWARNINGS": "error",
    "PYTHONINSPECT": "1",
    "PYTHONVERBOSE": "3",
    "PYTHONDEVMODE": "1",
    "PYTHONTRACEMALLOC": "25",
    "PYTHONFAULTHANDLER": "1",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "warn",
    "PYTHONIOENCODING": "utf-16",
    "PYTHONPLATLIBDIR": "/nowhere",
    "PYTHONINTMAXSTRDIGITS": "nonsense",
    "OPENSSL_CONF": "/nowhere/openssl.cnf",
    "OPENSSL_MODULES": "/nowhere",
    "SSLKEYLOGFILE": "/tmp/keys",
    "TZ": "/nowhere/zone",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBaoServer]:
    """OpenBao with TLS, a KV mount and one secret."""
    with OpenBaoServer(tmp_path_factory.mktemp("openbao")) as server:
        assert isinstance(server, OpenBaoServer)
        post(server, "sys/mounts/kv", {"type": "kv", "options": {"version": "2"}})
        post(server, "kv/data/app", {"data": {"password": 'pa"ss\\word\n', "user": "shop"}})
        yield server


def post(server: OpenBaoServer, path: str, body: object) -> None:
    headers = {"X-Vault-Token": server.root_token.reveal_text()}
    request = urllib.request.Request(f"{server.address}/v1/{path}", json.dumps(body).encode(), headers)
    context = ssl.create_default_context(cafile=server.ca_file)
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10, context=context):
                return
        except OSError:  # a fresh mount is not quite there in its first moments
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def settings(server: OpenBaoServer, **more: str) -> dict[str, str]:
    return {
        "VAULT_ADDR": server.address,
        "VAULT_CACERT": "/secrets/ca.pem",
        "VAULT_AUTH_METHOD": "token",
        "VAULT_TOKEN": server.root_token.reveal_text(),
        "CLOUDTASER_SECRET_PATHS": "kv/data/app",
        "CLOUDTASER_ENV_MAP": "user=PGUSER",
        **more,
    }


@pytest.mark.parametrize("image", IMAGES)
def test_it_is_pid_1_of_a_restricted_container_and_the_application_finds_what_the_image_says(
    image: str, images: Images, payload: Path, tmp_path: Path
) -> None:
    environment = {"PATH": "/usr/bin", "HOME": "/", "EMPTY": "", "UMLAUT": "\u00fc"}
    command = ["--", APPLICATION, "show", "7", "", "a b", "\u00fc"]
    done = Container(images.root(image), payload, tmp_path, *command, environment=environment).run()
    assert (done.returncode, done.stderr) == (7, "")
    found = told(done.stdout)
    assert found["argument"] == [APPLICATION, "show", "7", "", "a b", "\u00fc"]
    assert sorted(found["variable"]) == sorted(f"{name}={value}" for name, value in environment.items())
    assert found["parent"] == ["1"]
    assert found["user"] == found["group"] == [str(USER)]
    assert (found["seccomp"], found["no_new_privs"], found["capabilities"]) == (["2"], ["1"], ["0"])
    assert (found["proc"], found["writable"], found["directory"]) == (["there"], ["no"], ["/"])
    assert "descriptor" not in found


@pytest.mark.parametrize("image", IMAGES)
def test_a_secret_comes_over_tls(
    image: str, images: Images, payload: Path, server: OpenBaoServer, tmp_path: Path
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "ca.pem").write_bytes(Path(str(server.ca_file)).read_bytes())
    (secrets / "hosts").write_text("127.0.0.1 localhost\n")
    mounts = {"/secrets": secrets, "/etc": secrets}
    for address in (server.address, server.address.replace("127.0.0.1", "localhost")):
        environment = settings(server, VAULT_ADDR=address)
        container = Container(
            images.root(image), payload, tmp_path, APPLICATION, "show", "3",
            environment=environment, mounts=mounts,
        )  # fmt: skip
        done = container.run()
        assert done.returncode == 3, done.stderr
        assert sorted(told(done.stdout)["variable"]) == ["HOME=/", "PGUSER=shop"]  # HOME is runc's
        assert server.root_token.reveal_text() not in done.stdout + done.stderr


def test_hostile_variables_reach_the_application_unchanged_and_do_nothing_to_the_wrapper(
    images: Images, payload: Path, server: OpenBaoServer, tmp_path: Path
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "ca.pem").write_bytes(Path(str(server.ca_file)).read_bytes())
    broken = secrets / "nothing.so"  # a shared object of this machine's C library, with a constructor
    (secrets / "end.c").write_text(
        "#include <unistd.h>\n__attribute__((constructor)) static void end(void) { _exit(99); }\n"
    )
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(broken), str(secrets / "end.c")], check=True)
    container = Container(
        images.root("empty"), payload, tmp_path, APPLICATION, "show", "0",
        environment=HOSTILE | settings(server), mounts={"/secrets": secrets},
    )  # fmt: skip
    done = container.run()
    assert done.returncode == 0, done.stderr
    assert all(json.loads(line)["level"] == "info" for line in done.stderr.splitlines())
    expected = [f"{name}={value}" for name, value in HOSTILE.items()]
    assert sorted(told(done.stdout)["variable"]) == sorted([*expected, "PGUSER=shop"])


@pytest.mark.parametrize("image", IMAGES)
def test_exit_codes_are_those_of_the_application(
    image: str, images: Images, payload: Path, tmp_path: Path
) -> None:
    def code(*command: str) -> int:
        return Container(images.root(image), payload, tmp_path, *command).run().returncode

    assert code(APPLICATION, "die", str(int(signal.SIGKILL))) == 128 + signal.SIGKILL
    assert code("/nothing/here") == 127
    assert code("/etc") == 126


def test_orphans_are_reaped_and_signals_arrive(images: Images, payload: Path, tmp_path: Path) -> None:
    done = Container(images.root("empty"), payload, tmp_path, APPLICATION, "orphan").run()
    assert (done.returncode, done.stdout) == (0, "reaped\n")
    # 34 is a signal that musl keeps for itself, which would end a wrapper that cannot catch it
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, 34, 64):
        container = Container(images.root("glibc"), payload, tmp_path, APPLICATION, "wait")
        with container.started() as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            container.signal(int(number), process)
            assert process.stdout.readline() == f"signal {int(number)}\n"
            assert process.wait(60) == int(number)


@pytest.mark.parametrize("image", IMAGES)
def test_it_works_without_proc_dev_and_tmp(
    image: str, images: Images, payload: Path, server: OpenBaoServer, tmp_path: Path
) -> None:
    root = images.root(image)
    (root / "secrets" / "ca.pem").write_bytes(Path(str(server.ca_file)).read_bytes())
    done = run_without_proc(root, payload, "--", APPLICATION, "show", "5", environment=settings(server))
    assert done.returncode == 5, done.stderr
    found = told(done.stdout)
    assert "PGUSER=shop" in found["variable"]
    assert (found["parent"], found["proc"], found["user"]) == (["1"], ["absent"], [str(USER)])
    assert (found["writable"], found["no_new_privs"], found["capabilities"]) == (["no"], ["1"], ["0"])


def test_without_proc_the_score_says_which_checks_it_had_to_skip(
    images: Images, payload: Path, server: OpenBaoServer, tmp_path: Path
) -> None:
    root = images.root("empty")
    done = run_without_proc(root, payload, "score")
    assert done.returncode == 0, done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    unseen = "/sys/devices/system/cpu/vulnerabilities cannot be read"
    assert {name: check["reason"] for name, check in checks.items() if check["state"] == "skip"} == {
        "cpu_mitigations": unseen
    }
    assert checks["cpu_mitigations"]["points"] == 0

    (root / "secrets" / "ca.pem").write_bytes(Path(str(server.ca_file)).read_bytes())
    with started_without_proc(
        root, payload, "--", APPLICATION, "wait", environment=settings(server)
    ) as process:
        assert process.stderr is not None
        events = map(json.loads, process.stderr)
        told_score = next(event for event in events if event["event"] == "protection score")
    assert {line for line in told_score["missing"] if " skip: " in line} == {
        f"cpu_mitigations skip: {unseen}",
        "getenv_interposer skip: the application's maps and environ in /proc cannot be read",
    }
    # what needs no /proc is measured all the same
    missing = " ".join(told_score["missing"])
    assert not any(name in missing for name in ("memfd_secret", "mlock", "guard_pages", "token_protected"))


def test_it_starts_from_any_place_and_directory(payload: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "with space \u00fc"
    elsewhere.mkdir()
    (elsewhere / "renamed").write_bytes((payload / "wrapper").read_bytes())
    (elsewhere / "renamed").chmod(0o555)
    for cwd, program in (
        (Path("/"), str(elsewhere / "renamed")),
        (elsewhere, "./renamed"),
        (elsewhere, f"/proc/self/cwd/{'renamed'}"),
    ):
        done = subprocess.run(
            [program, "/bin/pwd"], cwd=cwd, env={}, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{cwd}\n", "")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("VAULT_AUTH_METHOD", b"\xff", "the value is not UTF-8 text (VAULT_AUTH_METHOD)"),
        ("CLOUDTASER_SECRET_PATHS", b"kv/\xff", "the value is not UTF-8 text (CLOUDTASER_SECRET_PATHS)"),
        ("SHOWN", b"vault:kv/\xff#user", "vault:kv/\ufffd#user is not UTF-8 text (SHOWN)"),
    ],
)
def test_bytes_that_are_no_text_are_refused_by_the_name_of_their_variable(
    payload: Path, name: str, value: bytes, complaint: str
) -> None:
    environment = {
        b"VAULT_ADDR": b"http://127.0.0.1:9",
        b"CLOUDTASER_SECRET_PATHS": b"kv/app",
        name.encode(): value,
    }
    done = subprocess.run(
        [str(payload / "wrapper"), "/bin/true"], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 78, done.stderr
    assert json.loads(done.stderr)["event"].startswith(complaint)


def test_nothing_but_the_program_itself_is_opened_at_the_start(payload: Path) -> None:
    done = subprocess.run(
        ["strace", "-f", "-e", "trace=file,execve", str(payload / "wrapper"), "/bin/true"],
        env=HOSTILE,
        capture_output=True,
        text=True,
        check=True,
    )
    calls = done.stderr.split('execve("/bin/true"')[0]
    files = [line for line in calls.splitlines() if '"/' in line and str(payload) not in line]
    ours = ("/dev/null", "/bin/true", "readlink(")  # of its own path, to know where it lies
    assert [line for line in files if not any(word in line for word in ours)] == []


@pytest.mark.parametrize("image", ["musl", "glibc"])
def test_the_payloads_library_delivers_in_memory(
    image: str, images: Images, payload: Path, server: OpenBaoServer, tmp_path: Path
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "ca.pem").write_bytes(Path(str(server.ca_file)).read_bytes())
    container = Container(
        images.root(image), payload, tmp_path, APPLICATION, "show", "0",
        environment=settings(server, CLOUDTASER_DELIVERY="memory"), mounts={"/secrets": secrets},
    )  # fmt: skip
    done = container.run()
    assert done.returncode == 0, done.stderr
    variables = told(done.stdout)["variable"]
    assert "PGUSER=shop" in variables
    assert [name for name in variables if name.startswith(("LD_", "CLOUDTASER_"))] == []
    assert "PGUSER=shop" not in told(done.stdout)["given"]


def test_it_copies_itself_into_a_volume_from_an_image_that_holds_nothing_else(
    images: Images, payload: Path, tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    (volume / "wrapper").write_text("of another version")
    done = Container(
        images.root("empty"), payload, tmp_path, "--install", "/secrets", writable={"/secrets": volume}
    ).run()
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(file.name for file in volume.iterdir()) == sorted(file.name for file in payload.iterdir())
    for file in payload.iterdir():
        assert (volume / file.name).read_bytes() == file.read_bytes()
        assert (volume / file.name).stat().st_mode & 0o7777 == 0o555
    started = Container(images.root("musl"), volume, tmp_path, APPLICATION, "show", "4").run()
    assert started.returncode == 4
    refused = Container(images.root("empty"), payload, tmp_path, "--install", "/secrets").run()
    assert (refused.returncode, refused.stderr.count("\n")) == (73, 1)
