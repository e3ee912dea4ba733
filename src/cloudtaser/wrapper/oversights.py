"""Oversights: settings that can be used as they are, but were probably meant otherwise.

`app` logs them at start. A misspelt CLOUDTASER_SECRET_PATHS would otherwise start the application without its
secrets, and without a word.
"""

from cloudtaser.wrapper.config import OUR_PREFIX, TEMPLATE_PREFIX, Config
from cloudtaser.wrapper.references import is_reference, warning_about

KNOWN = frozenset(
    OUR_PREFIX + name
    for name in (
        "AGENT_SOCKET", "ALLOW_HTTP", "ALLOW_LOADER_ENV", "ALLOW_PLAIN_UNSEAL", "CA", "CONTAINER",
        "DELIVERY", "EBPF", "ENV_MAP", "FINGERPRINT", "LISTEN_ADDR", "LOG_LEVEL", "OPERATOR_ADDR",
        "OVERRIDE", "PARENT_DEATH_SIGNAL", "POD_UID", "REQUEST_TIMEOUT", "REQUIRE_MEMFD_SECRET",
        "REVOKE_ON_EXIT", "ROTATION",
        "ROTATION_DEBOUNCE", "ROTATION_GRACE", "ROTATION_INTERVAL", "ROTATION_PROBATION", "SECRET_PATHS",
        "STARTUP_TIMEOUT", "UNSEAL_JWT_FILE",
    )
)  # fmt: skip


def oversights(environ: dict[bytes, bytes], config: Config) -> list[tuple[str, str]]:
    """What was probably meant otherwise: variables, each with a phrase. Nothing here stops the wrapper."""
    found: list[tuple[str, str]] = []
    for raw in environ:
        name = raw.decode("utf-8", "replace")
        if name.startswith(TEMPLATE_PREFIX):
            continue
        if name.startswith(OUR_PREFIX):
            if name not in KNOWN and not _is_service_link(name):
                found.append((name, "is no setting of the wrapper"))
        elif meaning := warning_about(environ[raw]):
            found.append((name, f"holds {meaning}: it is passed on as it is"))
        elif config.endpoint is None and is_reference(environ[raw]):
            found.append(
                (name, "holds a vault: reference, but VAULT_ADDR is not set: it is passed on as it is")
            )
    if config.endpoint is None:
        broker = environ.get(b"VAULT_ADDR", b"").strip().lower().startswith(b"broker://")
        for name, is_set in (("VAULT_ADDR", broker), ("CLOUDTASER_CA", bool(environ.get(b"CLOUDTASER_CA")))):
            if is_set:
                found.append((name, "is set without CLOUDTASER_SECRET_PATHS: no secret is fetched"))
                break
    return found


def _is_service_link(name: str) -> bool:
    """Whether the kubelet may have made it for a service that happens to be called cloudtaser-something."""
    return "_SERVICE_" in name or "_PORT_" in name or name.endswith("_PORT")
