"""One way to log in to OpenBao is given, whole: anything else is one line that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudtaser.bridge.config import Config, parse
from cloudtaser.bridge.config_login import (
    AppRoleLogin,
    CertificateLogin,
    Login,
    TokenFileLogin,
    TokenLogin,
    keeper,
)
from cloudtaser.demo.certificates import write_server_certificate
from cloudtaser.errors import ConfigError, UnavailableError
from cloudtaser.net.proxy import Proxies
from cloudtaser.openbao.client import OpenBao
from cloudtaser.secret import Secret
from tests.unit.net.forward_proxy import forward_proxy

NEEDED = ["--vault-addr", "https://127.0.0.1:8200", "--beacon-address", "beacon.example.com:443"]
TOKEN = {"VAULT_TOKEN": "s.canary"}


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "file"
    path.write_text("canary\n")
    return str(path)


def login(*flags: str, **environment: str) -> Login:
    config = parse([*NEEDED, *flags], environment)
    assert isinstance(config, Config)
    assert "canary" not in repr(config)
    return config.login


def test_a_token_of_openbaos_own_variable_counts_where_nothing_else_is_given(file: str) -> None:
    assert login(**TOKEN) == TokenLogin(Secret("s.canary"))
    assert login("--vault-token-file", file, **TOKEN) == TokenFileLogin(file)
    assert login(CLOUDTASER_BRIDGE_VAULT_TOKEN_FILE=file) == TokenFileLogin(file)


def test_an_app_role_is_a_role_id_and_a_file_with_a_secret_id(file: str) -> None:
    given = login("--approle-role-id", "canary-role", "--approle-secret-id-file", file)
    assert given == AppRoleLogin(Secret("canary-role"), file, False, "approle", "cloudtaser")
    twins = {
        "CLOUDTASER_BRIDGE_APPROLE_ROLE_ID_FILE": file,
        "CLOUDTASER_BRIDGE_APPROLE_SECRET_ID_FILE": file,
        "CLOUDTASER_BRIDGE_APPROLE_SECRET_ID_WRAPPED": "true",
        "CLOUDTASER_BRIDGE_APPROLE_MOUNT": "teams/approle/",
        "CLOUDTASER_BRIDGE_LOGIN_NAMESPACE": "/",
    }
    assert login(**twins) == AppRoleLogin(Path(file), file, True, "teams/approle", "")


def test_a_certificate_comes_with_its_key(file: str) -> None:
    given = login("--login-cert", file, "--login-key", file, "--login-role", "eu-1")
    assert given == CertificateLogin(file, file, "eu-1", "cert", "cloudtaser")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--vault-token-file", "F", "--login-cert", "F", "--login-key", "F"], "2 ways.*--vault-token-file"),
        (["--vault-token-file", "F", "--approle-role-id", "r"], "2 ways.*--approle"),
        (["--login-cert", "F", "--approle-secret-id-file", "F"], "2 ways.*--login-cert"),
        (["--approle-role-id", "r"], "one more setting.*--approle-secret-id-file"),
        (["--approle-secret-id-file", "F"], "one more setting.*--approle-role-id"),
        (
            ["--approle-role-id", "r", "--approle-role-id-file", "F", "--approle-secret-id-file", "F"],
            "given twice",
        ),
        (["--login-cert", "F"], "one more setting.*--login-key"),
        (["--login-key", "F"], "one more setting.*--login-cert"),
        (["--vault-token-file", "F", "--login-role", "r"], "only with --login-cert"),
        (["--vault-token-file", "F", "--approle-mount", "m"], "only with AppRole"),
        (["--vault-token-file", "F", "--login-namespace", "n"], "only with AppRole or --login-cert"),
        (["--login-cert", "F", "--login-key", "F", "--login-mount", "a/../b"], "--login-mount"),
        (["--login-cert", "/none", "--login-key", "F"], "--login-cert.*may read"),
        (["--approle-role-id", "r", "--approle-secret-id-file", "/none"], "--approle-secret-id-file"),
    ],
)
def test_two_ways_or_half_of_one_is_refused_in_one_line(flags: list[str], named: str, file: str) -> None:
    with pytest.raises(ConfigError) as refused:
        login(*(file if flag == "F" else flag for flag in flags), **TOKEN)
    line = refused.value.diagnostic()
    assert "canary" not in line
    with pytest.raises(ConfigError, match=named):
        raise refused.value


@pytest.mark.parametrize("form", ["approle", "certificate"])
async def test_the_login_itself_goes_by_the_proxy_that_the_bridge_was_given(
    form: str, tmp_path: Path
) -> None:
    pair = write_server_certificate(tmp_path, "bridge", ["bridge"])
    secret_id = tmp_path / "secret-id"
    secret_id.write_text("canary\n")
    if form == "approle":
        flags = ["--approle-role-id", "role", "--approle-secret-id-file", str(secret_id)]
    else:
        flags = ["--login-cert", str(pair.certificate), "--login-key", str(pair.key)]
    async with forward_proxy() as proxy:
        proxy.answer = b"HTTP/1.1 403 Forbidden\r\n\r\n"
        proxies = Proxies.read({}, f"http://127.0.0.1:{proxy.port}")
        async with OpenBao("https://vault.example:8200", proxies=proxies) as client:
            kept = keeper(login(*flags), client, ca_file=None, on_trouble=lambda _: None)
            with pytest.raises(UnavailableError, match="the proxy does not allow this connection"):
                await kept.start()
            await kept.close()
        assert proxy.requests
        assert all(asked.startswith(b"CONNECT vault.example:8200 ") for asked in proxy.requests)
