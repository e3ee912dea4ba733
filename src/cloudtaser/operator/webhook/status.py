"""What the webhook writes on a pod for people to read: what was applied, and which images were looked at.

Used by `mutation`. Pure. Nothing is ever decided by these: whoever may edit the pod can write them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from cloudtaser.operator.webhook.plan import Plan

_DIGEST: Final = re.compile(r"([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)=([a-z0-9]+:[0-9a-f]{32,128})", re.ASCII)


def of_pod(plan: Plan, wrapped: tuple[str, ...]) -> str:
    """The value of `cloudtaser.io/status`: one line of JSON."""
    told: dict[str, object] = {
        "injected": list(wrapped),
        "address": plan.address,
        "method": plan.method,
        "role": plan.role,
        "wrapper": plan.wrapper_image,
    }
    if plan.s3proxy is not None:
        told["s3proxy"] = plan.s3proxy.port
    return json.dumps(told, separators=(",", ":"))


def of_digests(digests: Mapping[str, str | None]) -> str:
    """The value of `cloudtaser.io/image-digest`: of each container whose image was asked."""
    return ",".join(f"{name}={digest}" for name, digest in digests.items() if digest)


def digests(annotation: str) -> dict[str, str]:
    """The same read back; what is none is left out."""
    matches = map(_DIGEST.fullmatch, annotation[:16384].split(","))
    return {match[1]: match[2] for match in matches if match}
