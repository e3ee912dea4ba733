"""What is asked about an image, and what is known of it then.

Used by the webhook, which asks, and by `resolver`, which answers. `Entrypoints` is all that the webhook sees
of this package besides `errors`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Platform:
    """What a node runs, in the words of OCI (and of the labels kubernetes.io/os and kubernetes.io/arch)."""

    os: str = "linux"
    architecture: str = "amd64"
    variant: str | None = None
    """As `v7` of arm; None takes the best that the image has for any node of that architecture."""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One container's image, as it stands in a pod of `namespace`."""

    image: str
    namespace: str
    pull_secrets: tuple[str, ...] = ()
    """Names of Secrets of that namespace, in the order in which the kubelet would try them: those of the pod,
    else those of its ServiceAccount."""
    platform: Platform | None = None
    """None when nothing says where the pod will run: then the operator's own platform is the guess, and the
    image's first one if it has none for that."""


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What a runtime would start of the image, and by which digests that is known."""

    digest: str
    """`sha256:…` of what the name points to, perhaps an index: `IMAGE@digest` is it on any platform."""
    manifest_digest: str
    """`sha256:…` of the platform's own manifest; equals `digest` for an image of one platform."""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    """Empty means `/`."""
    user: str = ""
    """As in the image: `UID`, `UID:GID`, a name, or empty for root."""
    env_names: tuple[str, ...] = ()
    """Names, in order, of the variables that the image sets."""


class Entrypoints(Protocol):
    """Where the webhook gets an image's configuration from."""

    async def resolve(self, request: ImageRequest) -> ImageConfig:
        """What the image would start. Raises ImageError, one of those in `errors`, and nothing else."""
