"""How values become an environment and descriptors, and how newer ones follow."""

from __future__ import annotations

import os

import pytest

from cloudtaser.wrapper.buffers import Span, span_of
from cloudtaser.wrapper.config import Config, load
from cloudtaser.wrapper.delivery import Environment, Values
from cloudtaser.wrapper.errors import ConfigError, DeliveryError
from cloudtaser.wrapper.handover import Handover, library
from cloudtaser.wrapper.log import Log

INHERITED = {b"PATH": b"/bin", b"A": b"the container's", b"LD_PRELOAD": b"/theirs.so", b"VAULT_ADDR": b"x"}


def config_of(**settings: str) -> Config:
    merged = {"VAULT_ADDR": "https://vault", "CLOUDTASER_SECRET_PATHS": "kv1/app"} | settings
    return load({name.encode(): value.encode() for name, value in merged.items()})


def handover(delivery: str, **settings: str) -> Handover:
    config = config_of(CLOUDTASER_DELIVERY=delivery, **settings)
    return Handover(config, INHERITED, [b"sh"], b"/bin:/usr/bin", Log("error"))


def values(files: set[str] | None = None, **texts: str) -> Values:
    found = Values({name: span_of(text.encode()) for name, text in texts.items()})
    found.files = files or set()
    return found


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def content(environment: Environment, name: bytes) -> bytes:
    descriptor = int(environment.inherited[name].rpartition(b"/")[2])
    return os.pread(descriptor, 4096, 0)


def test_in_memory_the_environment_has_names_alone() -> None:
    environment = handover("memory").environment(values(A="one", B="two"))
    assert environment.secrets == {}
    assert environment.inherited[b"A"] == environment.inherited[b"B"] == b""
    assert environment.inherited[b"LD_PRELOAD"] == library() + b":/theirs.so"
    descriptor, _, size = environment.inherited[b"CLOUDTASER_SEGMENT"].partition(b":")
    assert environment.descriptors == environment.passing == (int(descriptor),)
    assert os.fstat(int(descriptor)).st_size == int(size)
    environment.close()
    assert not is_open(int(descriptor))


def test_without_values_nothing_is_preloaded() -> None:
    environment = handover("memory").environment(values())
    assert environment.inherited[b"LD_PRELOAD"] == b"/theirs.so"
    assert environment.descriptors == ()


def test_files_are_numbered_above_what_scripts_use_and_kept_apart() -> None:
    environment = handover("env").environment(values({"F", "G"}, F="one", G="two", A="three"))
    assert sorted(environment.descriptors) == [100, 101]
    assert (content(environment, b"F"), content(environment, b"G")) == (b"one", b"two")
    assert set(environment.secrets) == {b"A"}
    environment.close()
    assert not is_open(100)


def test_the_containers_own_value_stays_where_it_is_to_win() -> None:
    kept = handover("file", CLOUDTASER_OVERRIDE="false").environment(values({"A", "F"}, A="one", F="two"))
    assert kept.inherited[b"A"] == b"the container's"
    assert content(kept, b"F") == b"two"
    kept.close()


@pytest.mark.parametrize("delivery", ["memory", "file"])
def test_newer_values_are_written_through_what_is_kept_and_a_restart_begins_anew(delivery: str) -> None:
    way = handover(delivery, CLOUDTASER_ROTATION="sighup")
    files = {"A"} if delivery == "file" else set()
    environment = way.environment(values(files, A="one"))
    assert environment.passing == ()
    environment.close()
    (first,) = environment.descriptors
    way.renew(values(files, A="longer than before"))
    way.renew(values(files, A="x"))
    if delivery == "file":
        assert content(environment, b"A") == b"x"
    with pytest.raises(DeliveryError, match="other variables"):
        way.renew(values({"A", "B"} if files else files, A="x", B="y"))
    again = way.environment(values(files, A="y"))
    assert len([fd for fd in {first, *again.descriptors} if is_open(fd)]) == 1
    os.close(again.descriptors[0])


def test_a_value_too_large_for_the_segment_is_not_written() -> None:
    way = handover("memory", CLOUDTASER_ROTATION="sighup")
    environment = way.environment(values(A="one"))
    with pytest.raises(DeliveryError, match="larger"):
        way.renew(values(A="x" * 5000))
    os.close(environment.descriptors[0])


def test_sighup_needs_what_can_bring_values() -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(CLOUDTASER_ROTATION="sighup")
    assert (caught.value.on, "CLOUDTASER_DELIVERY" in caught.value.fix) == ("CLOUDTASER_ROTATION", True)
    with pytest.raises(ConfigError) as caught:
        Handover(
            config_of(CLOUDTASER_DELIVERY="auto", CLOUDTASER_ROTATION="sighup"),
            INHERITED,
            [b"/no/such"],
            None,
            Log("error"),
        )
    assert caught.value.on == "CLOUDTASER_ROTATION"


def test_a_name_that_the_loader_reads_is_no_secret_in_memory() -> None:
    loader = {"CLOUDTASER_ENV_MAP": "a=LD_AUDIT", "CLOUDTASER_ALLOW_LOADER_ENV": "true"}
    assert handover("auto", **loader).kind == "env"
    with pytest.raises(ConfigError, match="LD_AUDIT would be set too late"):
        handover("memory", **loader)
    assert (
        handover("auto", CLOUDTASER_ENV_MAP="a=@LD_AUDIT", CLOUDTASER_ALLOW_LOADER_ENV="true").kind
        == "memory"
    )


def test_too_many_files_leave_no_descriptor_behind() -> None:
    names = {f"F{number}": "x" for number in range(49)}
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DeliveryError, match="49 values as files"):
        handover("file").environment(values(set(names), **names))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_span_is_not_copied_on_the_way() -> None:
    span = span_of(b"value")
    found = Values({"A": span})
    assert handover("env").environment(found).secrets[b"A"] is span
    assert isinstance(span, Span)
