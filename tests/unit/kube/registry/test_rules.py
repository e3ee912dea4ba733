"""Rules and settings: where a registry is, and who may be given its credentials."""

from __future__ import annotations

import json

import pytest

from cloudtaser.errors import ConfigError, ProtocolError
from cloudtaser.kube.registry.reference import Reference
from cloudtaser.kube.registry.rules import Rule, Rules, canonical
from cloudtaser.kube.registry.settings import parse_settings, read_settings


def bases(rules: Rules, image: str) -> list[str]:
    return [f"{each.base}/v2/{each.repository}" for each in rules.endpoints(Reference.parse(image))]


def test_docker_hub_is_asked_where_it_is() -> None:
    assert bases(Rules(), "nginx") == ["https://registry-1.docker.io/v2/library/nginx"]


def test_clouds_registries_are_asked_at_their_own_hosts() -> None:
    for host in (
        "123456789012.dkr.ecr.eu-central-1.amazonaws.com",
        "public.ecr.aws",
        "eu.gcr.io",
        "europe-west4-docker.pkg.dev",
        "example.azurecr.io",
        "ghcr.io",
        "quay.io",
    ):
        assert bases(Rules(), f"{host}/team/app") == [f"https://{host}/v2/team/app"]
        assert Rules().trusts(host, host)
        assert not Rules().trusts(host, "auth.docker.io")


@pytest.mark.parametrize(
    ("host", "realm", "trusted"),
    [
        ("docker.io", "auth.docker.io", True),
        ("docker.io", "auth.docker.io:444", False),
        ("docker.io", "auth.docker.io.evil.example", False),
        ("registry.gitlab.com", "gitlab.com", True),
        ("evil.example", "auth.docker.io", False),
        ("docker.io", "evil.example", False),
        ("a.example.com", "auth.example.com", True),
        ("b.example.com", "auth.example.com", True),
        ("b.example.com", "login.example.com", False),
        ("example.com", "auth.example.com", False),
    ],
)
def test_credentials_go_to_listed_token_servers_only(host: str, realm: str, trusted: bool) -> None:
    rules = Rules([Rule("*.example.com", realms=frozenset(("auth.example.com",)))])
    assert rules.trusts(host, realm) is trusted


def test_mirrors_come_first_and_may_have_a_project() -> None:
    rules = Rules(
        [
            Rule("docker.io", mirrors=("https://mirror.example.com/hub/", "http://10.0.0.1:5000/v2")),
            Rule("*.example.com", mirrors=("https://other.example.net",)),
        ]
    )
    assert bases(rules, "nginx") == [
        "https://mirror.example.com/v2/hub/library/nginx",
        "http://10.0.0.1:5000/v2/library/nginx",
        "https://registry-1.docker.io/v2/library/nginx",
    ]
    (mirror, *_) = rules.endpoints(Reference.parse("nginx"))
    assert mirror.name == "mirror.example.com/hub/library/nginx"
    assert bases(rules, "a.b.example.com/app")[0] == "https://other.example.net/v2/app"
    assert len(bases(rules, "example.com/app")) == 1


@pytest.mark.parametrize("image", ["plain.example.com/app", "plain.example.com:80/app"])
def test_plain_http_is_found_with_and_without_its_port(image: str) -> None:
    for host in ("plain.example.com", "plain.example.com:80"):
        rules = Rules([Rule(host, plain_http=True)])
        (endpoint,) = rules.endpoints(Reference.parse(image))
        if ":80" in image and ":80" not in host:
            assert endpoint.secure
        else:
            assert not endpoint.secure


def test_the_longest_wildcard_counts() -> None:
    wide, narrow = Rule("*.example.com"), Rule("*.eu.example.com")
    rules = Rules([wide, narrow])
    assert rules.of("a.eu.example.com") is narrow
    assert rules.of("a.us.example.com") is wide
    assert rules.of("example.com") is rules.default


@pytest.mark.parametrize("url", ["ftp://m", "https://u:p@m", "https://m?x", "https://", "https://127.1", "m"])
def test_what_is_no_mirror_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        Rules([Rule("docker.io", mirrors=(url,))])


def test_a_host_has_one_spelling() -> None:
    assert canonical("Example.com:443") == "example.com"
    assert canonical("example.com:80", "http") == "example.com"
    assert canonical("registry-1.docker.io:443") == canonical("index.docker.io") == "docker.io"
    assert canonical("[::1]:5000") == "[::1]:5000"
    for text in ("", "a b", "u@h", "h:x", "h:0", "[::1", "[::1]x", "h:1:2"):
        with pytest.raises(ProtocolError):
            canonical(text)


def test_settings_are_read_whole(tmp_path: object) -> None:
    settings = parse_settings(
        json.dumps(
            {
                "pullSecrets": [{"namespace": "shop", "name": "regcred"}],
                "networks": ["10.0.0.0/8"],
                "ca": "PEM",
                "dockerConfigFile": "/config.json",
                "dockerConfigNamespaces": ["shop"],
                "timeoutSeconds": 5,
                "registries": [
                    {
                        "host": "Registry.example.com:5000",
                        "mirrors": ["https://mirror.example.com"],
                        "plainHttp": True,
                        "ca": "PEM 2",
                        "realms": ["Auth.example.com:443"],
                        "networks": ["192.168.1.0/24"],
                    }
                ],
            }
        ).encode(),
        source="registries.json",
    )
    assert settings.pull_secrets == {("shop", "regcred")}
    assert settings.docker_config_namespaces == {"shop"}
    assert settings.bounds.timeout == 5
    (rule,) = settings.rules
    assert (rule.host, rule.plain_http) == ("registry.example.com:5000", True)
    assert rule.realms == {"auth.example.com"}
    assert [str(network) for network in settings.make_rules().networks_of(rule)] == [
        "192.168.1.0/24",
        "10.0.0.0/8",
    ]


def test_no_settings_are_the_defaults() -> None:
    settings = parse_settings(b"{}", source="s")
    assert (settings.rules, settings.networks, settings.pull_secrets) == ((), (), frozenset())
    assert settings.docker_config_namespaces == {"*"}


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ([], "no JSON object"),
        ({"pullSecret": []}, "operator.registry.pullSecret is not known"),
        ({"pullSecrets": "shop/regcred"}, "pullSecrets is no list"),
        ({"pullSecrets": ["shop/regcred"]}, "pullSecrets is no list of objects"),
        ({"pullSecrets": [{"name": "regcred"}]}, r"pullSecrets\[0\].namespace is missing"),
        ({"pullSecrets": [{"namespace": "shop", "name": "r", "key": "k"}]}, "key is not known"),
        ({"networks": ["10.0.0.1/8"]}, "'10.0.0.1/8' is no network"),
        ({"cloudIdentity": "other"}, "cloudIdentity is none of aws, google, azure"),
        ({"timeoutSeconds": 0}, "timeoutSeconds is no number of seconds"),
        ({"timeoutSeconds": True}, "timeoutSeconds is no number of seconds"),
        ({"registries": [{}]}, r"registries\[0\].host is missing"),
        ({"registries": [{"host": "h", "insecure": True}]}, r"registries\[0\].insecure is not known"),
        ({"registries": [{"host": "h", "plainHttp": "yes"}]}, "plainHttp is neither true nor false"),
        ({"registries": [{"host": "127.1"}]}, "a registry's host cannot be used"),
        ({"registries": [{"host": "h", "realms": ["https://x/"]}]}, "a realm cannot be used"),
        ({"registries": [{"host": "h", "mirrors": ["x"]}]}, "'x' is no mirror"),
        ({"registries": [{"host": f"h{n}"} for n in range(257)]}, "more than 256"),
        ({"registries": "h"}, "registries is no list"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(value: object, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse_settings(json.dumps(value).encode(), source="registries.json")


def test_a_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(ConfigError, match=r"/nonexistent\.json"):
        read_settings("/nonexistent.json")
