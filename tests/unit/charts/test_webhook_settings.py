"""What the chart says of pods reaches the webhook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cloudtaser.operator.settings_file import read_settings
from cloudtaser.operator.webhook.settings import WebhookSettings
from tests.charts import beacon, merged, only, render

FINGERPRINT = "0ad50c05-1153-4508-9237-4cb2912e2c23"


def written(directory: Path, values: dict[str, Any]) -> WebhookSettings:
    data = only(render(values), "ConfigMap", "cloudtaser-operator")["data"]
    path = directory / "settings.json"
    path.write_text(data["settings.json"])
    settings = read_settings(str(path), FINGERPRINT, "cloudtaser-system")
    settings.check()
    return settings


def test_without_a_word_the_webhook_has_its_defaults(tmp_path: Path) -> None:
    settings = written(tmp_path, beacon())
    plain = WebhookSettings(FINGERPRINT, settings.wrapper_image)
    assert settings.vault_address == plain.vault_address
    assert (settings.vault_role, settings.vault_auth_method) == ("default", "kubernetes")
    assert (settings.rotation, settings.delivery, settings.ebpf) == ("restart", "env", "auto")
    assert settings.accepted_wrapper_images == settings.allowed_addresses == ()
    assert not settings.image_volumes


def test_what_the_values_say_of_the_wrapper_counts(tmp_path: Path) -> None:
    wrapper = {
        "acceptedImages": ["registry.example.com/wrapper@sha256:" + "0" * 64],
        "imageVolumes": True,
        "authMethod": "token",
        "delivery": "memory",
        "rotation": "sighup",
        "rotationGrace": "20s",
    }
    store = {"role": "web", "authMount": "auth/jwt-2"}
    values = merged(beacon(), {"wrapper": wrapper, "operator": {"secretstore": store}})
    settings = written(tmp_path, values)
    assert settings.accepted_wrapper_images == tuple(wrapper["acceptedImages"])  # type: ignore[arg-type]
    assert settings.image_volumes
    assert settings.vault_auth_method == "token"
    assert (settings.delivery, settings.rotation, settings.rotation_grace) == ("memory", "sighup", "20s")
    assert (settings.vault_role, settings.vault_auth_mount) == ("web", "auth/jwt-2")


def test_an_openbao_without_a_broker_has_a_namespace_and_a_ca_of_its_own(tmp_path: Path) -> None:
    pem = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
    store = {"address": "https://vault.example.com:8200", "namespace": "team", "caBundle": pem}
    settings = written(tmp_path, {"operator": {"secretstore": store}})
    assert settings.vault_address == "https://vault.example.com:8200"
    assert (settings.vault_namespace, settings.vault_ca) == ("team", pem)
