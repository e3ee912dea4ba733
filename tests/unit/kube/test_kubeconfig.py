"""Kubeconfigs: the same file gives the same cluster and the same identity as with kubectl."""

from __future__ import annotations

import base64
import datetime
import functools
import json
import os
import ssl
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloudtaser.errors import ConfigError, NotAuthorisedError
from cloudtaser.kube.kubeconfig import load
from cloudtaser.secret import Secret

SERVER = "https://192.0.2.1:6443"


@functools.cache
def self_signed() -> tuple[bytes, bytes]:
    """A certificate that is its own CA, and its key; PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "somebody")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, form, plain),
    )


def config(**changes: Any) -> dict[str, Any]:
    """A kubeconfig of one cluster, one user and one context; `changes` replace members of the three."""
    certificate, _ = self_signed()
    cluster = {"server": SERVER, "certificate-authority-data": base64.b64encode(certificate).decode()}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "clusters": [{"name": "c", "cluster": cluster | changes.get("cluster", {})}],
        "users": [{"name": "u", "user": changes.get("user", {"token": "t0ken"})}],
        "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u"} | changes.get("context", {})}],
    }


def write(path: Path, content: dict[str, Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


def test_a_file_gives_server_token_and_namespace(tmp_path: Path) -> None:
    file = write(tmp_path / "config", config(context={"namespace": "shop"}))
    access = load({}, kubeconfig=file)
    assert (access.server, access.namespace) == (SERVER, "shop")
    assert access.token.current() == Secret("t0ken")
    assert access.context.verify_mode is ssl.CERT_REQUIRED
    assert load({}, kubeconfig=file, namespace="other").namespace == "other"


def test_the_flag_wins_over_the_variable_and_that_over_the_home(tmp_path: Path) -> None:
    for name in ("flag", "variable", "home/.kube/config"):
        write(tmp_path / name, config(cluster={"server": f"https://{name.split('/')[0]}:1"}))
    environment = {"HOME": str(tmp_path / "home")}
    assert load(environment).server == "https://home:1"
    environment["KUBECONFIG"] = str(tmp_path / "variable")
    assert load(environment).server == "https://variable:1"
    assert load(environment, kubeconfig=str(tmp_path / "flag")).server == "https://flag:1"


def test_of_several_files_the_first_that_has_a_name_counts(tmp_path: Path) -> None:
    first, second = config(), config(cluster={"server": "https://second:1"})
    first["contexts"].append({"name": "two", "context": {"cluster": "d", "user": "u"}})
    second["clusters"].append({"name": "d", "cluster": {"server": "https://d:1"}})
    second["current-context"] = "two"
    files = os.pathsep.join(
        [write(tmp_path / "1", first), str(tmp_path / "absent"), write(tmp_path / "2", second)]
    )
    assert load({"KUBECONFIG": files}).server == SERVER
    assert load({"KUBECONFIG": files}, context="two").server == "https://d:1"


def test_file_names_are_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    certificate, key = self_signed()
    for name, content in (("ca.crt", certificate), ("me.crt", certificate), ("me.key", key)):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "token").write_text("from-file\n")
    cluster = {"server": SERVER, "certificate-authority-data": "", "certificate-authority": "ca.crt"}
    user = {"client-certificate": "me.crt", "client-key": "me.key", "tokenFile": "token"}
    access = load({}, kubeconfig=write(tmp_path / "config", config(cluster=cluster, user=user)))
    assert access.context.cert_store_stats()["x509"] == 1
    assert access.token.current() == Secret("from-file")


def test_a_client_certificate_leaves_no_copy_of_its_key(tmp_path: Path) -> None:
    certificate, key = self_signed()
    user = {
        "client-certificate-data": base64.b64encode(certificate).decode(),
        "client-key-data": base64.b64encode(key).decode(),
    }
    before = set(os.listdir("/dev/shm"))
    access = load({}, kubeconfig=write(tmp_path / "config", config(user=user)))
    assert access.token.current() is None
    assert not [name for name in set(os.listdir("/dev/shm")) - before if name.startswith("cloudtaser-")]


def plugin(tmp_path: Path, answer: str) -> dict[str, Any]:
    """A credential plugin that counts its runs, keeps what it was told and prints `answer`."""
    path = tmp_path / "plugin"
    path.write_text(
        f'#!/bin/sh\necho run >> {tmp_path}/runs\nprintf %s "$KUBERNETES_EXEC_INFO" > {tmp_path}/info\n'
        f"echo \"$WHO $1\" > {tmp_path}/called\ncat <<'EOF'\n{answer}\nEOF\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "./plugin",
            "args": ["get-token"],
            "env": [{"name": "WHO", "value": "me"}],
            "provideClusterInfo": True,
            "interactiveMode": "Never",
        }
    }


def credential(**status: str) -> str:
    return json.dumps(
        {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    )


def test_a_plugin_is_asked_once_and_again_when_its_token_ends(tmp_path: Path) -> None:
    answer = credential(token="from-plugin", expirationTimestamp="2999-01-01T00:00:00Z")
    file = write(tmp_path / "config", config(user=plugin(tmp_path, answer)))
    access = load({}, kubeconfig=file)
    assert not (tmp_path / "runs").exists()
    assert [access.token.current(), access.token.current()] == [Secret("from-plugin")] * 2
    assert (tmp_path / "runs").read_text() == "run\n"
    assert (tmp_path / "called").read_text() == "me get-token\n"
    told = json.loads((tmp_path / "info").read_text())
    assert told["spec"]["cluster"]["server"] == SERVER
    ended = credential(token="from-plugin", expirationTimestamp="2000-01-01T00:00:00Z")
    file = write(tmp_path / "config", config(user=plugin(tmp_path, ended)))
    access = load({}, kubeconfig=file)
    (tmp_path / "runs").unlink()
    access.token.current()
    access.token.current()
    assert (tmp_path / "runs").read_text() == "run\nrun\n"


@pytest.mark.parametrize(
    "answer", ["", "no JSON", "[]", "{}", '{"status": 1}', credential(), credential(token="")]
)
def test_a_plugin_that_says_nothing_of_use_is_named(tmp_path: Path, answer: str) -> None:
    file = write(tmp_path / "config", config(user=plugin(tmp_path, answer)))
    with pytest.raises(NotAuthorisedError, match="the credential plugin plugin"):
        load({}, kubeconfig=file).token.current()


def test_a_plugin_that_fails_or_is_absent_says_how_to_get_it(tmp_path: Path) -> None:
    spec = plugin(tmp_path, "")
    (tmp_path / "plugin").write_text("#!/bin/sh\nexit 3\n")
    file = write(tmp_path / "config", config(user=spec))
    with pytest.raises(NotAuthorisedError, match="ended with status 3"):
        load({}, kubeconfig=file).token.current()
    spec["exec"] |= {"command": "no-such-plugin-here", "installHint": "get it\nfrom its home"}
    file = write(tmp_path / "config", config(user=spec))
    with pytest.raises(NotAuthorisedError) as caught:
        load({}, kubeconfig=file).token.current()
    assert "is not installed" in caught.value.diagnostic()
    assert "get it from its home" in caught.value.diagnostic()


def test_impersonation_is_kept(tmp_path: Path) -> None:
    user = {"token": "t", "as": "jane", "as-groups": ["dev", "ops"]}
    access = load({}, kubeconfig=write(tmp_path / "config", config(user=user)))
    assert access.headers == (
        ("Impersonate-User", "jane"),
        ("Impersonate-Group", "dev"),
        ("Impersonate-Group", "ops"),
    )


def test_a_pod_uses_its_service_account_when_there_is_no_file(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    with pytest.raises(ConfigError, match="cannot use the pod's ServiceAccount"):
        load(environment)  # no pod here
    with pytest.raises(ConfigError, match="there is no kubeconfig"):
        load({"HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cluster": {"server": "http://192.0.2.1"}}, "must be https"),
        ({"cluster": {"server": ""}}, "must be https"),
        ({"cluster": {"certificate-authority-data": "!!"}}, "no base64"),
        ({"cluster": {"certificate-authority-data": "aGFsbG8="}}, "no PEM certificate"),
        ({"cluster": {"certificate-authority-data": "", "certificate-authority": "absent"}}, "cannot read"),
        ({"user": {"client-certificate-data": "aGFsbG8="}}, "belong together"),
        ({"user": {"client-certificate-data": "aGFsbG8=", "client-key-data": "aGFsbG8="}}, "no PEM pair"),
        ({"user": {"username": "u", "password": "p"}}, "no longer accepted"),
        ({"context": {"cluster": "absent"}}, "no cluster of that name"),
        ({"context": {"user": "absent"}}, "no user of that name"),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    file = write(tmp_path / "config", config(**changes))
    with pytest.raises(ConfigError, match=said):
        load({}, kubeconfig=file)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b"[1, 2]",
        b"kind: Pod",
        b"a: [",
        b"contexts: 3\ncurrent-context: x",
        b"",
        b"!!python/object:x {}",
    ],
)
def test_garbage_is_no_kubeconfig(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config").write_bytes(content)
    with pytest.raises(ConfigError):
        load({}, kubeconfig=str(tmp_path / "config"))


def test_a_context_must_be_chosen_and_exist(tmp_path: Path) -> None:
    content = config()
    del content["current-context"]
    file = write(tmp_path / "config", content)
    with pytest.raises(ConfigError, match="no context is chosen"):
        load({}, kubeconfig=file)
    with pytest.raises(ConfigError, match="no context of that name"):
        load({}, kubeconfig=file, context="absent")
