"""References: what a pod calls its image means what it means to containerd."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.kube.registry.errors import ImageReferenceError
from cloudtaser.kube.registry.reference import Reference

SHA = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        ("team/app", "docker.io/team/app:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("docker.io/team/app", "docker.io/team/app:latest"),
        ("index.docker.io/team/app", "docker.io/team/app:latest"),
        ("Index.Docker.io/nginx", "docker.io/library/nginx:latest"),
        ("registry-1.docker.io/team/app", "registry-1.docker.io/team/app:latest"),
        ("ghcr.io/owner/app:v1", "ghcr.io/owner/app:v1"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:2", "localhost:5000/app:2"),
        ("registry:5000/a/b/c/d", "registry:5000/a/b/c/d:latest"),
        ("Registry/app", "registry/app:latest"),
        ("10.0.0.1:5000/app", "10.0.0.1:5000/app:latest"),
        ("[2001:DB8::1]:5000/app", "[2001:db8::1]:5000/app:latest"),
        ("[::1]/app", "[::1]/app:latest"),
        (f"nginx@{SHA}", f"docker.io/library/nginx@{SHA}"),
        (f"nginx:1.27@{SHA}", f"docker.io/library/nginx@{SHA}"),
        ("example.com/a__b/c--d/e.f_g:T_a.g-1", "example.com/a__b/c--d/e.f_g:T_a.g-1"),
        ("app@sha512:" + "b" * 128, "docker.io/library/app@sha512:" + "b" * 128),
        ("123456789012.dkr.ecr.eu-central-1.amazonaws.com/app:1",) * 2,
        ("example.com:0443/app", "example.com:443/app:latest"),
    ],
)
def test_an_image_means_what_it_means_to_the_runtime(text: str, expected: str) -> None:
    assert str(Reference.parse(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "/app", "app/", "a//b", "App", "example.com/App", "app:", "app:-x", "app:" + "x" * 129),
        *(":tag", "app@", "app@sha256:abc", f"app@{SHA}x", f"app@{SHA}@{SHA}", f"app@{SHA.upper()}"),
        *("app@md5:" + "a" * 32, "a" * 64, "example.com/" + "a" * 250, "x" * 2000, "a_._b", "a..b/c d"),
        *("-a", "a-", "app:1:2/x:", "user@example.com/app", "https://example.com/app", "example.com:/app"),
        *("example.com:99999/app", "example.com:0/app", "exa_mple.com/app", "2130706433.0x7f/app"),
        *("127.1/app", "0x7f.0.0.1/app", "[::1/app", "[fe80::1%eth0]/app", "[127.0.0.1]/app", "[::1]x/app"),
        *("example.com./app", "exämple.com/app", "example.com/app?x", "example.com/app#x"),
        *("example.com/../app", "example.com/a\nb", "a\x00b"),
    ],
)
def test_what_the_runtime_would_refuse_is_refused(text: str) -> None:
    with pytest.raises(ImageReferenceError) as caught:
        Reference.parse(text)
    assert "\n" not in caught.value.diagnostic()


@given(st.text(max_size=80))
def test_no_text_does_harm_and_what_is_understood_is_stable(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except ImageReferenceError:
        return
    assert Reference.parse(str(reference)) == reference
    assert str(reference).isascii()
    assert str(reference).isprintable()
