"""Settings: a flag, a variable and a default each, and one line when one is bad."""

from __future__ import annotations

from dataclasses import fields

import pytest

from cloudtaser.beacon.config import BeaconConfig, parse
from cloudtaser.errors import UsageError

FILES = ["--tls-cert", "c.pem", "--tls-key", "k.pem"]


def test_the_defaults_are_those_of_the_specification() -> None:
    config = parse(FILES, {})
    assert config == BeaconConfig(tls_cert="c.pem", tls_key="k.pem")
    assert config.addr == (("", 443),)
    assert config.metrics_addr == ("127.0.0.1", 9090)
    assert (config.hello_timeout, config.handshake_timeout, config.remind_every) == (5, 5, 20)
    assert (config.max_parked_per_room, config.max_parked, config.max_parked_age) == (64, 20_000, 86_400)
    assert (config.source_rate, config.source_burst) == (50, 2_000)
    assert (config.buffer, config.early_bytes, config.pair_idle) == (262_144, 4_096, 3_600)


def test_addr_repeats() -> None:
    config = parse([*FILES, "--addr", "127.0.0.1:1", "--addr", "[::1]:2", "--addr", ":3"], {})
    assert config.addr == (("127.0.0.1", 1), ("::1", 2), ("", 3))


def test_every_setting_has_a_variable_and_a_flag_wins() -> None:
    environment = {
        "CLOUDTASER_BEACON_ADDR": "10.0.0.1:443,10.0.0.2:443",
        "CLOUDTASER_BEACON_MAX_PAIRS": "7",
        "CLOUDTASER_BEACON_PAIR_IDLE": "90m",
        "CLOUDTASER_BEACON_METRICS_ADDR": "off",
        "CLOUDTASER_BEACON_DEV": "true",
    }
    config = parse(["--max-pairs", "8"], environment)
    assert config.addr == (("10.0.0.1", 443), ("10.0.0.2", 443))
    assert (config.max_pairs, config.pair_idle, config.metrics_addr, config.dev) == (8, 5400, None, True)


def test_variables_that_a_service_of_the_same_name_makes_do_no_harm() -> None:
    parse(
        FILES, {"CLOUDTASER_BEACON_SERVICE_HOST": "10.0.0.1", "CLOUDTASER_BEACON_PORT": "tcp://10.0.0.1:443"}
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        ([], {}, "--tls-cert"),
        (["--tls-cert", "c"], {}, "--tls-key"),
        ([*FILES, "--dev"], {}, "--dev"),
        ([*FILES, "--dev-cert-out", "x"], {}, "--dev-cert-out"),
        ([*FILES, "--addr", "443"], {}, "--addr"),
        ([*FILES, "--addr", "::1:443"], {}, "--addr"),
        ([*FILES, "--hello-timeout", "soon"], {}, "--hello-timeout"),
        ([*FILES, "--hello-timeout", "0"], {}, "--hello-timeout"),
        ([*FILES, "--buffer", "1"], {}, "--buffer"),
        ([*FILES, "--max-parked", "-1"], {}, "--max-parked"),
        ([*FILES, "--pairing", "fair"], {}, "--pairing"),
        (FILES, {"CLOUDTASER_BEACON_SOURCE_RATE": "fast"}, "CLOUDTASER_BEACON_SOURCE_RATE"),
        (FILES, {"CLOUDTASER_BEACON_MAX_PAIRS": "many"}, "CLOUDTASER_BEACON_MAX_PAIRS"),
        ([*FILES, "--bogus"], {}, "--bogus"),
        ([*FILES, "extra"], {}, "extra"),
    ],
)
def test_a_bad_setting_is_named_in_one_line(
    arguments: list[str], environment: dict[str, str], named: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse(arguments, environment)
    assert named in caught.value.diagnostic()
    assert "\n" not in caught.value.diagnostic()
    assert caught.value.exit_code == 2


def test_help_names_every_setting_and_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--help"], {})
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for field in fields(BeaconConfig):
        assert "--" + field.name.replace("_", "-") in text
    assert "CLOUDTASER_BEACON_" in text
    assert max(map(len, text.splitlines())) <= 110
