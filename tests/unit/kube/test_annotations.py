"""The grammar of annotations."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.kube.annotations import (
    GRAMMAR,
    MAX_HINTS,
    MAX_PROBLEMS,
    PREFIX,
    ClientCertificate,
    Problem,
    Request,
    S3Proxy,
    check_secrets,
    is_asked,
    nearest,
    parse,
)


def read(**given_: str) -> tuple[Request, tuple[Problem, ...]]:
    return parse({PREFIX + name.replace("_", "-"): value for name, value in given_.items()}, {})


def problem(**given_: str) -> str:
    _, problems = read(**given_)
    assert len(problems) == 1, problems
    return str(problems[0])


GOOD = {
    "inject": ("true", True),
    "secret-paths": ("secret/data/a,secret/data/b#3", "secret/data/a,secret/data/b#3"),
    "env-map": ("a=A;b=B", "a=A;b=B"),
    "vault-address": ("https://vault.example.com", "https://vault.example.com"),
    "vault-role": ("web", "web"),
    "vault-auth-method": ("token", "token"),
    "vault-auth-mount": ("/auth/k8s/", "auth/k8s"),
    "vault-namespace": ("team/web", "team/web"),
    "vault-skip-verify": ("true", True),
    "vault-client-cert": ("/a/c.pem, /a/k.pem", ClientCertificate("/a/c.pem", "/a/k.pem")),
    "vault-audience": ("vault", "vault"),
    "config": ("team", "team"),
    "containers": ("app, web", ("app", "web")),
    "skip-containers": ("log", ("log",)),
    "init-containers": ("true", True),
    "rotation": ("SIGHUP", "sighup"),
    "delivery": ("memory", "memory"),
    "ebpf": ("false", "off"),
    "override": ("false", False),
    "wrap-exec": ("true", True),
    "allow-loader-env": ("true", True),
}


@pytest.mark.parametrize("name", GOOD)
def test_every_annotation_is_read(name: str) -> None:
    text, expected = GOOD[name]
    request, problems = parse({PREFIX + name: text}, {})
    assert problems == ()
    assert getattr(request, name.replace("-", "_")) == expected


def test_this_list_names_every_annotation() -> None:
    assert {name for name in GRAMMAR if not name.startswith("s3proxy")} == set(GOOD)


BAD = {
    "inject": ["yes", "True", ""],
    "secret-paths": ["", "a//b", "a,a", "../x", "a#0", "a,,b", "a b"],
    "env-map": [""],
    "vault-address": ["", "a b", "x" * 300],
    "vault-role": ["", "a b", "ä"],
    "vault-auth-method": ["jwt", "tokn"],
    "vault-auth-mount": ["", "auth", "a//b", "../x", "a b"],
    "vault-namespace": ["a//b", "../x", ""],
    "vault-skip-verify": ["1"],
    "vault-client-cert": ["a", "/a,b", "/a/../b", ""],
    "vault-audience": ["a b"],
    "config": ["Team", "a/b", ""],
    "containers": ["", "a,,b", "A", "a,a"],
    "skip-containers": ["a b"],
    "init-containers": ["yes"],
    "rotation": ["reload"],
    "delivery": ["disk"],
    "ebpf": ["maybe"],
    "override": ["no"],
    "wrap-exec": ["on"],
    "allow-loader-env": ["y"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts])
def test_what_cannot_be_used_is_said_and_has_no_effect(name: str, text: str) -> None:
    request, problems = parse({PREFIX + name: text}, {})
    assert [one.on for one in problems] == [PREFIX + name]
    assert request == Request()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("secret-path", "secret-paths"),
        ("secretpaths", "secret-paths"),
        ("env_map", "env-map"),
        ("Inject", "inject"),
        ("vault-tls-skip-verify", "vault-skip-verify"),
        ("vault-addr", "vault-address"),
        ("initcontainers", "init-containers"),
    ],
)
def test_an_unknown_annotation_gets_the_nearest_name(name: str, nearest: str) -> None:
    _, problems = parse({PREFIX + name: "x"}, {})
    assert str(problems[0]) == (
        f"{PREFIX}{name}: there is no such annotation; did you mean {PREFIX}{nearest}?"
    )


def test_an_unknown_annotation_that_is_like_none_gets_no_guess() -> None:
    _, problems = parse({PREFIX + "zzz": "x"}, {})
    assert problems[0].fix == "see the list of annotations"


def test_annotations_of_others_are_none_of_our_business() -> None:
    assert parse({"vault.hashicorp.com/inject": "x", "cloudtaser.iox/inject": "x"}, {})[1] == ()


def test_all_problems_are_told_at_once() -> None:
    _, problems = read(inject="yes", rotation="x", nonsense="x")
    assert [one.on for one in problems] == [PREFIX + "inject", PREFIX + "nonsense", PREFIX + "rotation"]


def test_a_misspelt_word_gets_the_nearest_one() -> None:
    assert "did you mean restart?" in problem(rotation="restrat")


def test_a_container_cannot_be_chosen_and_skipped() -> None:
    assert "container app is in cloudtaser.io/containers too" in problem(
        containers="app", skip_containers="app"
    )


@pytest.mark.parametrize(
    ("annotation", "label", "asked"),
    [
        (None, "true", True),
        ("true", None, True),
        ("false", "true", False),
        ("true", "false", True),
        (None, None, False),
        ("True", None, False),
        (None, "yes", False),
    ],
)
def test_annotation_or_label_ask_and_the_annotation_wins(
    annotation: str | None, label: str | None, asked: bool
) -> None:
    key = PREFIX + "inject"
    annotations, labels = ({} if one is None else {key: one} for one in (annotation, label))
    assert is_asked(annotations, labels) is asked


def test_a_label_that_is_no_answer_is_said() -> None:
    _, problems = parse({}, {PREFIX + "inject": "yes"})
    assert "label cloudtaser.io/inject: 'yes' is neither true nor false" in str(problems[0])


def test_templates_are_read_by_the_variable_they_make() -> None:
    request, problems = parse({PREFIX + "template-DATABASE_URL": "x://{{a}}"}, {})
    assert (request.templates, problems) == ((("DATABASE_URL", "x://{{a}}"),), ())
    assert "is not a variable name" in str(parse({PREFIX + "template-a-b": "{{a}}"}, {})[1][0])


# --- the S3 proxy


def test_the_s3_proxy_is_read() -> None:
    request, problems = read(
        s3proxy="true",
        s3proxy_transit_key="k",
        s3proxy_endpoint="https://s3.example.com:9000/",
        s3proxy_region="eu-1",
        s3proxy_bucket="data",
        s3proxy_port="9000",
        s3proxy_auth="instance",
    )
    assert problems == ()
    assert request.s3proxy == S3Proxy("k", "https://s3.example.com:9000", "eu-1", "data", 9000, "instance")


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ({"s3proxy": "true"}, "needs the Transit key"),
        ({"s3proxy_region": "eu"}, 'set cloudtaser.io/s3proxy: "true" as well'),
        ({"s3proxy": "false", "s3proxy_region": "eu"}, "there is no S3 proxy"),
        ({"s3proxy": "true", "s3proxy_transit_key": "a/b"}, "is no name of a Transit key"),
        ({"s3proxy": "true", "s3proxy_transit_key": "k", "s3proxy_port": "80"}, "is no port"),
        ({"s3proxy": "true", "s3proxy_transit_key": "k", "s3proxy_port": "8191"}, "the sidecar's own"),
        (
            {"s3proxy": "true", "s3proxy_transit_key": "k", "s3proxy_endpoint": "http://169.254.169.254"},
            "metadata",
        ),
        ({"s3proxy": "true", "s3proxy_transit_key": "k", "s3proxy_endpoint": "http://0x7f.1"}, "IPv4"),
        (
            {"s3proxy": "true", "s3proxy_transit_key": "k", "s3proxy_endpoint": "s3.example.com"},
            "no endpoint",
        ),
        ({"s3proxy": "true", "s3proxy_transit_key": "k", "s3proxy_bucket": "A"}, "no bucket"),
        ({"s3proxy": "true", "s3proxy_transit_key": "k", "s3proxy_auth": "static"}, "is not one of"),
    ],
)
def test_an_s3_proxy_that_could_not_work_is_said(given_: dict[str, str], says: str) -> None:
    assert says in problem(**given_)


# --- what the wrapper would say


@pytest.mark.parametrize(
    ("paths", "env_map", "templates", "values", "says"),
    [
        ("a", "x=1", (), {}, "is not a variable name"),
        ("a", "x=X;y=Y", (), {}, "2 groups for 1 path"),
        ("a", "x=X,y=X", (), {}, "X is set twice"),
        ("a", "x=PATH", (), {}, "changes how programs load"),
        ("", "x=X", (), {}, "an environment map without paths"),
        ("a", "", (("X", "no field"),), {}, "no {{field}} in it"),
        ("a", "x=X", (("X", "{{x}}"),), {}, "X is set twice"),
        ("a", "", (("X", "{{2.x}}"),), {}, "path 2 of 1"),
        ("", "", (("X", "{{x}}"),), {}, "the path of field 'x' is not known"),
        ("", "", (), {"X": "vault:a/b#"}, "names no field"),
    ],
)
def test_what_the_wrapper_would_refuse_is_refused_at_admission(
    paths: str, env_map: str, templates: tuple[tuple[str, str], ...], values: dict[str, str], says: str
) -> None:
    _, problems = check_secrets(paths, env_map, templates, values)
    assert says in str(problems[0])


def test_what_is_fetched_is_told() -> None:
    values = {"A": "vault:secret/data/c#x", "B": "plain", "C": "vault:secret/data/a#y"}
    paths, problems = check_secrets(
        "secret/data/a,secret/data/b", "", (("U", "{{secret/data/d#x}}"),), values
    )
    assert paths == ("secret/data/a", "secret/data/b", "secret/data/d", "secret/data/c")
    assert problems == ()


def test_loader_variables_need_their_own_word() -> None:
    assert check_secrets("a", "x=LD_PRELOAD", (), {})[1]
    assert not check_secrets("a", "x=LD_PRELOAD", (), {}, allow_loader_env=True)[1]


@given(
    st.dictionaries(
        st.sampled_from([PREFIX + name for name in [*GRAMMAR, "template-X", "template-", "x", "status"]])
        | st.text(max_size=10),
        st.text(max_size=30) | st.sampled_from(["true", "a/b", "token", "/a"]),
        max_size=6,
    )
)
def test_any_annotations_are_read_or_refused_in_one_line_each(annotations: dict[str, str]) -> None:
    request, problems = parse(annotations, {})
    assert isinstance(request, Request)
    assert all(one.on and one.what for one in problems)
    assert check_secrets(request.secret_paths, request.env_map, request.templates, annotations)


class Compared:
    """Counts how often two texts are compared in full, which is what takes the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        ratio = difflib.SequenceMatcher.ratio

        def counted(matcher: difflib.SequenceMatcher[str]) -> float:
            self.times += 1
            return ratio(matcher)

        monkeypatch.setattr(difflib.SequenceMatcher, "ratio", counted)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Compared:
    return Compared(monkeypatch)


def test_very_many_names_that_are_not_known_cost_little_and_are_not_all_told(compared: Compared) -> None:
    misspelt = {f"{PREFIX}secret-paths{number:05}": "x" for number in range(20_000)}
    _, problems = parse(misspelt, {})
    assert len(problems) == MAX_PROBLEMS
    assert sum("did you mean" in problem.fix for problem in problems) == MAX_HINTS
    assert compared.times <= 4 * MAX_HINTS
    wrong = {f"{PREFIX}template-{number}": "x" for number in range(20_000)}
    assert len(parse(wrong, {})[1]) == MAX_PROBLEMS


def test_the_nearest_of_endless_and_long_names_is_looked_for_among_a_few(compared: Compared) -> None:
    def endless() -> Iterator[str]:
        while True:
            yield "abcabd" * 6
            yield "a" * 1_000_000

    assert nearest("abcabc" * 6, endless()) == "abcabd" * 6
    assert nearest("a" * 1_000_000, endless()) == ""
    assert compared.times <= 4


def test_no_more_than_64_containers_can_be_named() -> None:
    names = [f"c{number}" for number in range(65)]
    assert read(containers=",".join(names[:64]))[1] == ()
    assert "more than 64 containers are named" in problem(containers=",".join(names))
    assert "more than 64 containers are named" in problem(skip_containers=",".join(names))
