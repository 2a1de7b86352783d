from pathlib import Path

import pytest

from runtime.settings import Settings, SettingsError, load_settings


def test_defaults_run_on_a_laptop() -> None:
    settings = load_settings({"PATH": "/usr/bin"})
    assert settings == Settings()
    assert settings.rest_url() == "http://127.0.0.1:8000"
    assert [market.symbol for market in settings.market_map().markets] == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]


def test_variables_become_values_of_the_right_kind() -> None:
    settings = load_settings(
        {
            "EXCHANGE_SHARD_COUNT": "3",
            "EXCHANGE_SHARD": "2",
            "EXCHANGE_MM_ENABLED": "false",
            "EXCHANGE_DATA_DIR": "/srv/exchange",
            "EXCHANGE_REDIS_URL": "redis://elsewhere/1",
        }
    )
    assert (settings.shard_count, settings.shard, settings.mm_enabled) == (3, 2, False)
    assert settings.data_dir == Path("/srv/exchange")
    assert settings.resolved_redis_url() == "redis://elsewhere/1"


def test_every_mistake_is_reported_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(
            {
                "EXCHANGE_REST_PORT": "70000",
                "EXCHANGE_REPLY_TIMEOUT_MS": "soon",
                "EXCHANGE_LOG_LEVEL": "loud",
                "EXCHANGE_NO_SUCH": "1",
                "EXCHANGE_MASTER_KEY_FILE": "/no/such/file",
            }
        )
    mistakes = str(caught.value).splitlines()
    assert [mistake.partition(":")[0] for mistake in mistakes] == [
        "EXCHANGE_REST_PORT",
        "EXCHANGE_REPLY_TIMEOUT_MS",
        "EXCHANGE_LOG_LEVEL",
        "EXCHANGE_NO_SUCH",
        "EXCHANGE_MASTER_KEY_FILE",
    ]


def test_a_shard_beyond_the_count_is_refused() -> None:
    with pytest.raises(SettingsError, match="EXCHANGE_SHARD: must be less than EXCHANGE_SHARD_COUNT"):
        load_settings({"EXCHANGE_SHARD": "1"})


@pytest.mark.parametrize("shards", ["2", "-1", "0,2", "0,,1", "one", "0 1", "0,"])
def test_feeds_of_a_shard_that_there_is_not_are_refused(shards: str) -> None:
    with pytest.raises(SettingsError, match=r"EXCHANGE_FEEDS_SHARDS: .* is no shard; there are 0 to 1"):
        load_settings({"EXCHANGE_SHARD_COUNT": "2", "EXCHANGE_FEEDS_SHARDS": shards})


def test_feeds_follow_all_shards_or_those_that_are_named() -> None:
    assert load_settings({"EXCHANGE_SHARD_COUNT": "3"}).shards_of_feeds() == [0, 1, 2]
    named = {"EXCHANGE_SHARD_COUNT": "3", "EXCHANGE_FEEDS_SHARDS": " 2, 0,2"}
    assert load_settings(named).shards_of_feeds() == [0, 2]


def test_more_feeds_processes_than_shards_are_refused() -> None:
    with pytest.raises(SettingsError, match="EXCHANGE_FEEDS_PROCESSES: at most one for each of the 2 shards"):
        load_settings({"EXCHANGE_SHARD_COUNT": "2", "EXCHANGE_FEEDS_PROCESSES": "3"})


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "master_key"
    file.write_text("c2VjcmV0\n")
    assert load_settings({"EXCHANGE_MASTER_KEY_FILE": str(file)}).master_key == "c2VjcmV0"


def test_an_empty_file_is_no_secret(tmp_path: Path) -> None:
    """It would open what the secret closes. There need not be another master key."""
    file = tmp_path / "secret"
    file.write_text("\n")
    with pytest.raises(SettingsError, match=r"^EXCHANGE_METRICS_PASSWORD_FILE: the file is empty$"):
        load_settings({"EXCHANGE_METRICS_PASSWORD_FILE": str(file)})
    assert load_settings({"EXCHANGE_MASTER_KEY_PREVIOUS_FILE": str(file)}).master_key_previous == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("markets = [", "MARKETS_FILE"),
        ("[[markets]]\nsymbol = 'X'\n", "missing required field"),
        ("other = 1\n", "MARKETS_FILE"),
        ("markets = []\n", "at least one market"),
    ],
)
def test_a_wrong_markets_file_is_a_mistake_in_the_settings(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "markets.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=reason):
        load_settings({"EXCHANGE_MARKETS_FILE": str(file)})


def test_the_embedded_servers_ask_for_the_password_that_is_kept(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    with pytest.raises(SettingsError, match="`exchange up` makes it"):
        settings.resolved_database_url()
    settings.password_file.write_text("open-sesame\n")
    assert settings.resolved_database_url() == "postgresql://exchange:open-sesame@127.0.0.1:5490/exchange"
    assert settings.resolved_redis_url() == "redis://:open-sesame@127.0.0.1:6390/0"


def test_history_is_kept_for_ever_or_for_a_month_at_least() -> None:
    assert load_settings({"EXCHANGE_TRADES_DAYS": "30"}).fills_days == 0
    with pytest.raises(
        SettingsError, match=r"(?s)TRADES_DAYS: 0, or 30 or more.*CANDLES_1S_DAYS: 0, or 30 or more"
    ):
        load_settings({"EXCHANGE_TRADES_DAYS": "29", "EXCHANGE_CANDLES_1S_DAYS": "7"})
    assert load_settings({"EXCHANGE_ORDERS_DAYS": "30"}).orders_days == 30
    with pytest.raises(SettingsError, match=r"EXCHANGE_ORDERS_DAYS: 0, or 30 or more"):
        load_settings({"EXCHANGE_ORDERS_DAYS": "29"})
