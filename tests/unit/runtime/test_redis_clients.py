import pytest
import redis

from protocol import streams
from runtime.redis_clients import AddressError, NotNowError, Tether, is_passing, parse_address
from runtime.settings import Settings, SettingsError, load_settings
from stream_log.redis_log import Unreachable


def test_a_service_of_sentinel() -> None:
    address = parse_address("redis+sentinel://me:s%40fe@a:1,b:2,[::1]:3/orders?db=4&sentinel_password=other")
    assert address.nodes == (("a", 1), ("b", 2), ("[::1]", 3))
    assert (address.service, address.is_cluster) == ("orders", False)
    assert address.options == {"username": "me", "password": "s@fe", "db": 4}
    assert address.sentinel_options == {"password": "other"}


def test_a_cluster() -> None:
    address = parse_address("redis+cluster://:secret@a:1,b:2")
    assert (address.nodes, address.is_cluster) == ((("a", 1), ("b", 2)), True)
    assert address.options == {"password": "secret"}


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://a:1,b:2",
        "redis+sentinel://a/service",
        "redis+sentinel://a:1/service?color=red",
        "redis+cluster://a:1/service",
        "redis+cluster://a:1?db=1",
        "redis+cluster://:1",
        "http://a:1",
    ],
)
def test_what_does_not_say_where_redis_is(url: str) -> None:
    with pytest.raises(AddressError):
        parse_address(url)
    with pytest.raises(SettingsError, match="EXCHANGE_REDIS_URL"):
        load_settings({"EXCHANGE_REDIS_URL": url})


@pytest.mark.parametrize(
    "answer",
    [
        "READONLY You can't write against a read only replica.",
        "NOREPLICAS Not enough good replicas to write.",
        "MOVED 93 127.0.0.1:7002",
        "Error running script (call to f_1): @user_script:3: -NOREPLICAS Not enough good replicas to write.",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    ],
)
def test_answers_that_pass_by_themselves(answer: str) -> None:
    assert is_passing(answer)
    assert issubclass(NotNowError, Unreachable)


def test_answers_that_do_not() -> None:
    assert not is_passing("WRONGTYPE Operation against a key holding the wrong kind of value")
    assert not is_passing("ERR unknown command 'MOVEDX'")


def test_a_held_connection_is_not_replaced_unnoticed() -> None:
    class Connection:
        def on_connect(self) -> None: ...
        def send_command(self, *_arguments: str) -> None: ...
        def read_response(self) -> int:
            return 7

    greeted: list[object] = []
    tether = Tether()
    tether.greet = greeted.append
    tether(Connection())
    tether.hold()
    with pytest.raises(redis.ConnectionError):
        tether(Connection())
    assert (tether.connections, tether.client_id, len(greeted)) == (1, 7, 1)
    tether(Connection())
    assert tether.connections == 2


def test_an_engine_s_heartbeat_is_where_its_shard_is() -> None:
    assert streams.health("engine-12") == "health:engine-{12}"
    assert streams.shard_of(streams.health("engine-12")) == 12
    assert streams.health("gateway") == "health:gateway"


def test_the_embedded_redis_in_other_modes() -> None:
    settings = Settings(redis_mode="cluster", redis_port=7000)
    assert settings.redis_ports() == [7000, 7001, 7002]
    assert Settings(redis_mode="sentinel", redis_port=7000).redis_ports() == [7000, 7001, 7002, 7003, 7004]
