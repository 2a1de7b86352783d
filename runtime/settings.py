"""Settings: read once, at start, from `EXCHANGE_*` environment variables; every mistake is reported at once.

A field `shard_count` is set by EXCHANGE_SHARD_COUNT. `EXCHANGE_…_FILE` may name a file that holds the value
instead, for secrets.
"""

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from protocol.configuration import IN_FLIGHT_MAX, OPEN_ORDERS_MAX
from protocol.market import MarketError, MarketMap, MarketsFile
from protocol.windows import REPLY_TIMEOUTS, Windows
from runtime.redis_clients import AddressError, parse_address

PREFIX = "EXCHANGE_"

Port = Annotated[int, Meta(ge=1, le=65535)]
Positive = Annotated[int, Meta(gt=0)]
Replicas = Annotated[int, Meta(ge=1, le=9)]

REPLICA_PORTS = 100
"""Distance between the ports of consecutive replicas that `exchange up` starts."""

HISTORY_DAYS_MIN = 30
"""Minimum days of history that are kept: candles are made from it, and a restore reads it."""
_MAY_BE_EMPTY = ("master_key_previous",)
"""The secrets whose file may be empty.

An empty file of any other secret has not been written correctly, and would be taken for an unset value.
"""
_CHECKOUT = Path(__file__).resolve().parent.parent
DATA_DIR = (_CHECKOUT if (_CHECKOUT / "pyproject.toml").is_file() else Path.cwd()) / ".run"
"""In the checkout, whatever the working directory of a command.

Elsewhere if the program was installed without a checkout.
"""


class SettingsError(ValueError):
    """One or more settings are wrong; the message names each on its own line."""


class ClusterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that all processes of an exchange share.

    A process whose values differ from those of the running processes is refused (runtime/agreement.py).
    """

    # These comments are the titles of the sections in docs/reference/settings.md.

    # All processes alike
    shard_count: Annotated[int, Meta(ge=1, le=100)] = 1
    """Number of shards. It cannot change once there is data: docs/reference/kubernetes.md."""
    lease_ms: Annotated[int, Meta(ge=100)] = 1_000
    """Duration of a leader's lease. A standby takes over when the leader has not renewed it for this long."""
    redis_replicas_min: Annotated[int, Meta(ge=0)] = 0
    """Number of replicas that must have a batch before its result is published; 0: none.

    These must be all replicas that may replace the master (docs/decisions/0015).
    """
    archive_enabled: bool = True
    """Keep the shards' input logs and snapshots in the database.

    `exchange restore`, `book`, `account` and `why` need them.
    """


class Settings(ClusterSettings, frozen=True, kw_only=True):
    """All settings of all processes, with the defaults of a laptop."""

    # Addresses, folders and servers
    data_dir: Path = DATA_DIR
    """Folder for the embedded Redis and PostgreSQL, logs, and the master key."""
    host: str = "127.0.0.1"
    """Address that servers listen on."""
    development: bool = False
    """This is a development installation.

    It may have a faucet that other machines reach, and the keys and passwords that the repository publishes;
    other installations refuse to start with any of these (runtime/unsafe_settings.py).
    """
    rest_port: Port = 8000
    """Port of the REST API."""
    ws_port: Port = 8001
    """Port of the WebSocket streams and the WebSocket API."""
    redis_port: Port = 6390
    """Port of the embedded Redis."""
    postgres_port: Port = 5490
    """Port of the embedded PostgreSQL."""
    tls_certificate: str = ""
    """PEM file with the certificate chain of gateways, edges and the pages' server.

    Empty: no TLS, for use behind a proxy. The file and its key are read again when they change.
    """
    tls_key: str = ""
    """PEM file with the certificate's private key, unencrypted."""
    metrics_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """Port of a process's metrics and probes (/metrics, /livez, /readyz); 0: none."""
    metrics_host: str = "127.0.0.1"
    """Address that metrics and probes listen on, whatever EXCHANGE_HOST is.

    In containers: the address of their network.
    """
    metrics_password: str = ""
    """Bearer token that /metrics requires; empty: none. Probes never require one."""
    up_metrics_port: Annotated[int, Meta(ge=0, le=65535)] = 9500
    """First metrics port that `exchange up` gives to its processes; 0: no metrics."""
    ready_lag_ms_max: Positive = 5_000
    """Maximum lag at which a standby, a feeds process or the persistence counts as ready."""
    redis_url: str = ""
    """An external Redis: a server, a Sentinel service or a cluster. Empty: the embedded one.

    The forms of the URL are in runtime/redis_clients.py.
    """
    redis_bin: str = ""
    """Folder with valkey-server or redis-server (6.2 or newer) for the embedded Redis.

    Empty: the bundled Valkey, then PATH.
    """
    redis_mode: Literal["single", "sentinel", "cluster"] = "single"
    """Topology of the embedded Redis.

    One server; or a master, a replica and three sentinels on five ports from EXCHANGE_REDIS_PORT on; or a
    cluster of three masters on three ports.
    """
    redis_memory_mb: Positive = 2_048
    """`maxmemory` of each embedded Redis server.

    Gateways refuse orders before it is exhausted, and cancels last.
    """
    cache_url: str = ""
    """Redis for data that can be lost and is rebuilt within seconds.

    This data is read models, public streams, counters and the queue of nudges. Forms as for
    EXCHANGE_REDIS_URL. Empty: a second embedded Redis if the first one is embedded, otherwise the same Redis.
    """
    cache_enabled: bool = True
    """Run a second embedded Redis for data that can be lost.

    Otherwise one server plays both roles, and this data is synchronised to disk, too.
    """
    cache_port: Port = 6399
    """Port of the second embedded Redis."""
    cache_memory_mb: Positive = 512
    """`maxmemory` of the second embedded Redis."""
    redis_durability_check_enabled: bool = True
    """Open a shard only on a Redis that keeps every write across a restart (stream_log/durability.py)."""
    database_url: str = ""
    """An external PostgreSQL or TimescaleDB, with the role of this process. Empty: the embedded PostgreSQL.

    The roles are described in docs/reference/storage.md, "Roles of the database".
    """
    database_role_passwords: str = ""
    """`service:password,…` for the roles of gateway, edge and persist in an external database.

    `migrate` creates the roles with these passwords, and a process that has its password uses its own role
    instead of the one in EXCHANGE_DATABASE_URL.
    """
    database_admin_url: str = ""
    """The same database with a role that may create roles, for `migrate`. Empty: the owner may."""
    database_roles_required: bool = False
    """`migrate` waits until the roles exist; another program creates them."""
    postgres_bin: str = ""
    """Folder with PostgreSQL's programs (16 or newer) for the embedded PostgreSQL.

    Empty: PATH, then the bundled ones.
    """

    # Markets and shards
    markets_file: str = ""
    """TOML file of markets (form: protocol/markets.toml). Empty: the three built-in markets."""
    shard: Annotated[int, Meta(ge=0, le=99)] = 0
    """Shard of an engine worker."""

    # The engine worker
    core: Literal["auto", "objects", "compiled"] = "auto"
    """Which implementation of the core an engine worker runs; all write the same bytes.

    `auto`: the compiled one if it has been built, otherwise the objects.
    """
    engine: str = ""
    """Name of an engine worker among those of its shard. Empty: `engine-` and the shard's number."""
    standbys: Annotated[int, Meta(ge=0, le=9)] = 0
    """Number of standbys that `exchange up` starts for each shard."""
    batch_commands_max: Positive = 1_024
    """Maximum number of stream entries that an engine worker reads in one step."""
    snapshot_interval_s: Positive = 30
    """Minimum interval between snapshots of a shard.

    A snapshot also waits until the log has grown by the size of the last one, but at most ten intervals.
    """
    unstored_orders_max: Positive = 500_000
    """Maximum number of closed orders that an engine worker keeps for queries until the database has them.

    One order takes about 500 bytes. Beyond the maximum the oldest are dropped, and their status is unknown
    until the database has caught up.
    """

    # The gateway
    functions: str = "orders,account,market-data,users"
    """Groups of functions that this gateway serves."""
    reply_timeout_ms: Positive = 5_000
    """How long a gateway waits for a reply. A new exchange remembers requests for ten times as long.

    Later the log has that duration, of which no gateway should wait for more than a tenth.
    """
    backlog_age_ms_max: Positive = 2_000
    """Maximum age of the oldest waiting command of a shard; beyond it orders are refused with 503."""
    log_mb_max: Positive = 1_024
    """Maximum size of a shard's log in Redis; beyond it orders are refused with 503.

    The slowest reader of the log delays its trimming.
    """
    open_orders_max: Annotated[int, Meta(ge=1, le=2**31)] = OPEN_ORDERS_MAX
    """Maximum number of open orders of one account over all markets, in a new exchange.

    Later the log has the value (`exchange accounts limit-all`).
    """
    in_flight_max: Annotated[int, Meta(ge=1, le=2**31)] = IN_FLIGHT_MAX
    """Maximum number of unanswered orders of a shard's accounts on each other shard, in a new exchange.

    Later the log has the value.
    """
    pending_requests_max: Positive = 20_000
    """Maximum number of requests of one gateway that wait for replies."""
    request_weight_per_minute: Positive = 6_000
    """Request weight that one network may use per minute.

    A network is an IPv4 address or an IPv6 /64; a /48 may use ten times as much. This definition applies to
    all limits per network.
    """
    raw_requests_per_5m: Positive = 61_000
    """Maximum number of requests of one network in five minutes, whatever they weigh."""
    orders_per_10s: Positive = 100
    """Maximum number of unfilled orders of one account in ten seconds."""
    orders_per_day: Positive = 200_000
    """Maximum number of unfilled orders of one account in a day (UTC)."""
    rate_limits_enabled: bool = True
    """Limit requests, weight, handshakes and orders. The limits below always apply."""
    head_bytes_max: Positive = 16_384
    """Maximum size of a request's line, headers, and everything in a body that is not content.

    Trailers are an example.
    """
    url_bytes_max: Positive = 8_192
    """Maximum length of path and query."""
    form_bytes_max: Positive = 16_384
    """Maximum size of a body with parameters."""
    body_bytes_max: Positive = 65_536
    """Maximum size of any other body."""
    request_timeout_ms: Positive = 10_000
    """Maximum time for a request to arrive, from its first to its last byte.

    It is also the maximum time for a new connection to send its first request head.
    """
    idle_timeout_s: Positive = 75
    """Idle timeout of a connection."""
    connections_max: Positive = 20_000
    """Maximum number of connections of one gateway; fewer if there are fewer file descriptors."""
    connections_per_address_max: Positive = 2_000
    """Maximum number of connections of one network to one gateway.

    Connections of trusted proxies do not count.
    """
    trusted_proxies: str = ""
    """Addresses or networks (10.0.0.0/8), comma separated, of trusted proxies. Empty: none.

    Their X-Forwarded-For names the client to which limits apply.
    """
    cors_origins: str = ""
    """Origins, comma separated, whose pages may call the API from a browser.

    Empty: this machine's own frontend.
    """
    session_ttl_s: Positive = 86_400
    """Lifetime of a session."""
    verification_required: bool = False
    """Require a verified email address for API keys, trading on the page and the faucet.

    Needs a mail server.
    """
    public_url: str = ""
    """URL of the pages; links in mails begin with it. Empty: this machine's own frontend."""
    mail_host: str = ""
    """Mail server (SMTP). Empty: mails are kept, and `exchange mails` shows them."""
    mail_port: Port = 587
    """Port of the mail server."""
    mail_user: str = ""
    """User at the mail server; empty: no authentication."""
    mail_password: str = ""
    """Password at the mail server."""
    mail_encryption: Literal["starttls", "tls", "none"] = "starttls"
    """Encryption of the connection to the mail server."""
    mail_from: str = "exchange@localhost"
    """Sender of mails."""
    faucet_enabled: bool | None = None
    """Accounts may credit themselves. Unset: only on a development installation and where servers listen on
    this machine alone."""
    faucet_amount_max: Positive = 10_000_000
    """Maximum amount of one request to the faucet."""
    master_key: str = ""
    """32 bytes in base64url that encrypt API secrets at rest.

    Empty: generated once and kept in the data folder.
    """
    master_key_previous: str = ""
    """The master key before a rotation, which still decrypts older secrets (`exchange keys reseal`).

    Empty: the content of `master.previous.key` in the data folder, if that file exists and
    EXCHANGE_MASTER_KEY is empty.
    """

    operator_keys: str = ""
    """Public keys of a new exchange, `role:key,…`.

    Roles: operator, treasury, faucet; a key is 32 bytes in base64url. Empty: those of the private keys in the
    data folder. Later `exchange keys` sets them.
    """
    operator_key: str = ""
    """Private key, 32 bytes in base64url, that signs configuration.

    Empty: generated once and kept in the data folder.
    """
    treasury_key: str = ""
    """Private key that signs deposits and withdrawals; as EXCHANGE_OPERATOR_KEY."""
    faucet_key: str = ""
    """Private key that signs the faucet's deposits; as EXCHANGE_OPERATOR_KEY."""

    listen_keys_enabled: bool = True
    """Offer listenKeys, which Binance has retired, to clients that still use them."""

    # The WebSocket edge
    ws_connections_max: Positive = 20_000
    """Maximum number of connections of one edge."""
    ws_connections_per_address_max: Positive = 2_000
    """Maximum number of connections of one network to one edge."""
    ws_connections_per_5m: Positive = 300
    """Maximum number of WebSockets that one network opens in five minutes."""
    ws_streams_per_address_max: Positive = 10_240
    """Maximum number of streams of all connections of one network to one edge."""
    ws_messages_per_second: Positive = 5
    """Maximum number of messages, pings included, that a connection of market streams sends per second."""
    ws_message_bytes_max: Positive = 65_536
    """Maximum size of a client's message."""

    # The feeds
    feeds_save_period_ms: Positive = 2_000
    """Interval at which feeds save their state. After a restart they read the later events again."""
    feeds_shards: str = ""
    """Shards, comma separated, of a feeds process; empty: all.

    Each shard needs exactly one feeds process: of two, the one that started last continues and the other
    exits.
    """

    # Persistence
    ingest_batch_entries: Positive = 2_000
    """Maximum number of event entries that one transaction stores."""
    ingest_sweep_s: Positive = 5
    """Interval at which the ingest looks for events without a nudge."""
    trades_days: Annotated[int, Meta(ge=0)] = 0
    """Days that the database keeps public trades, at least 30; 0: for ever. Candles are not affected."""
    fills_days: Annotated[int, Meta(ge=0)] = 0
    """Days that the database keeps the accounts' own trades (`myTrades`); as EXCHANGE_TRADES_DAYS."""
    orders_days: Annotated[int, Meta(ge=0)] = 0
    """Days that the database keeps closed orders, from their closing; as EXCHANGE_TRADES_DAYS.

    Open orders are not affected.
    """
    candles_1s_days: Annotated[int, Meta(ge=0)] = 0
    """Days that the database keeps candles of one second.

    As EXCHANGE_TRADES_DAYS. Larger candles are always kept.
    """

    # The archive
    archive_period_ms: Positive = 1_000
    """Maximum lag of the archive behind an idle shard.

    Events are never stored before the commands that led to them are archived.
    """
    archive_snapshot_interval_s: Positive = 7_200
    """Interval between archived snapshots of a shard."""
    archive_snapshots_max: Positive = 24
    """Number of archived snapshots per shard; the log is kept from the oldest one on."""
    archive_days: Positive = 7
    """Maximum age of archived snapshots; the log before the oldest kept one is dropped, too."""
    lost_tail_check_enabled: bool = True
    """Open a shard only after its log was compared with the database since Redis started."""

    # The frontend
    frontend_enabled: bool = True
    """Build and serve the pages."""
    frontend_port: Port = 3000
    """Port of the pages."""
    frontend_api_url: str = ""
    """Gateway that the pages' server forwards API requests to. Empty: this machine's own.

    Pages only send requests to their own origin.
    """
    frontend_ws_url: str = ""
    """URL of the streams as browsers reach it. Empty: this machine's own address and port."""

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is logged."""
    log_format: Literal["auto", "human", "json"] = "auto"
    """human, json, or auto: human on a terminal, JSON otherwise."""

    # Traces
    traces_url: str = ""
    """Receiver of traces of orders (OTLP over HTTP), such as http://127.0.0.1:4318/v1/traces. Empty: none."""
    traces_sample_ppm: Annotated[int, Meta(gt=0, le=1_000_000)] = 1_000
    """Traced orders per million; every process chooses the same ones."""

    # Replicas and graceful shutdown
    gateways: Replicas = 1
    """Number of gateways that `exchange up` starts.

    `gateway` listens on EXCHANGE_REST_PORT, `gateway-2` 100 ports higher, and so on.
    """
    ws_edges: Replicas = 1
    """Number of WebSocket edges: `ws-edge` on EXCHANGE_WS_PORT, `ws-edge-2` 100 ports higher, and so on."""
    persist_workers: Replicas = 1
    """Number of workers that store the logs in the database."""
    feeds_processes: Replicas = 1
    """Number of feeds processes; they divide the shards, or those of EXCHANGE_FEEDS_SHARDS."""
    process_name: str = ""
    """Name of a gateway, feeds process, edge or persist worker among those of its kind.

    Empty: the name of the kind.
    """
    drain_delay_ms: Annotated[int, Meta(ge=0)] = 0
    """How long gateways and edges continue to serve after a stop request, not ready any more.

    This is the time that load balancers need to notice.
    """
    drain_grace_ms: Annotated[int, Meta(ge=0)] = 500
    """How long clients then have to disconnect before idle connections are closed."""

    # The market maker
    mm_enabled: bool = True
    """Run the market maker."""
    mm_levels: Positive = 15
    """Price levels that the market maker quotes on each side."""
    mm_requote_ms: Positive = 1_000
    """Interval between two quotes of the market maker."""
    mm_rest_url: str = ""
    """Exchange that the market maker trades on. Empty: this one."""

    @property
    def password_file(self) -> Path:
        """The file with the password of the embedded Redis and PostgreSQL, created at their first start."""
        return self.data_dir / "password"

    def cluster(self) -> ClusterSettings:
        """Return the settings that all processes of an exchange share."""
        names = (field.name for field in msgspec.structs.fields(ClusterSettings))
        return ClusterSettings(**{name: getattr(self, name) for name in names})

    def resolved_redis_url(self) -> str:
        """Return the URL of the Redis to use."""
        if self.redis_url or self.redis_mode == "single":
            return self.redis_url or f"redis://:{self.password()}@127.0.0.1:{self.redis_port}/0"
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.redis_ports()[-3:])
        if self.redis_mode == "cluster":
            return f"redis+cluster://:{self.password()}@{hosts}"
        return f"redis+sentinel://:{self.password()}@{hosts}/exchange?sentinel_password={self.password()}"

    def resolved_cache_url(self) -> str:
        """Return the URL of the Redis for data that can be lost; it may be the main Redis."""
        if self.cache_url or not self.has_own_cache():
            return self.cache_url or self.resolved_redis_url()
        return f"redis://:{self.password()}@127.0.0.1:{self.cache_port}/0"

    def has_own_cache(self) -> bool:
        """Return whether `exchange up` starts a second Redis for data that can be lost."""
        return self.cache_enabled and not (self.cache_url or self.redis_url)

    def redis_ports(self) -> list[int]:
        """Return the ports of the embedded Redis: first those of data servers, then those of sentinels."""
        count = {"single": 1, "sentinel": 5, "cluster": 3}[self.redis_mode]
        return [self.redis_port + number for number in range(count)]

    def resolved_database_url(self) -> str:
        """Return the URL of the database to use."""
        return (
            self.database_url
            or f"postgresql://exchange:{self.password()}@127.0.0.1:{self.postgres_port}/exchange"
        )

    def password(self) -> str:
        """Return the password of the embedded servers.

        Raises:
            SettingsError: it does not exist yet.
        """
        try:
            return self.password_file.read_text("ascii").strip()
        except OSError as error:
            raise SettingsError(f"{self.password_file}: {error.strerror}; `exchange up` makes it") from error

    def is_for_this_machine(self) -> bool:
        """Return whether servers listen on addresses that only this machine reaches."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def has_faucet(self) -> bool:
        """Return whether accounts may credit themselves."""
        return (
            self.development or self.is_for_this_machine()
            if self.faucet_enabled is None
            else self.faucet_enabled
        )

    def engine_name(self) -> str:
        """Return the name of the engine worker that these settings are for."""
        return self.engine or f"engine-{self.shard}"

    def name_of_process(self, kind: str) -> str:
        """Return the name of the process, of the given kind, that these settings are for."""
        return self.process_name or kind

    def shards_of_feeds(self) -> list[int]:
        """Return the shards that the feeds follow, in ascending order.

        Raises:
            SettingsError: the setting names no shard, or one that does not exist.
        """
        if not self.feeds_shards:
            return list(range(self.shard_count))
        names = [name.strip() for name in self.feeds_shards.split(",")]
        for name in names:
            if not name.isdecimal() or int(name) >= self.shard_count:
                raise SettingsError(
                    f"{PREFIX}FEEDS_SHARDS: {name!r} is no shard; there are 0 to {self.shard_count - 1}"
                )
        return sorted({int(name) for name in names})

    def rest_ports(self) -> list[int]:
        """Return the ports of the gateways that `exchange up` starts."""
        return [self.rest_port + number * REPLICA_PORTS for number in range(self.gateways)]

    def ws_ports(self) -> list[int]:
        """Return the ports of the WebSocket edges that `exchange up` starts."""
        return [self.ws_port + number * REPLICA_PORTS for number in range(self.ws_edges)]

    def rest_url(self) -> str:
        """Return the base URL of the REST API."""
        return f"http{self._s()}://{self.host}:{self.rest_port}"

    def frontend_url(self) -> str:
        """Return the URL of the frontend."""
        return f"http{self._s()}://{self.host}:{self.frontend_port}"

    def resolved_public_url(self) -> str:
        """Return the public URL of the pages."""
        return self.public_url.rstrip("/") or self.frontend_url()

    def browser_origins(self) -> list[str]:
        """Return the origins whose pages may call the API."""
        origins = [origin.strip() for origin in self.cors_origins.split(",") if origin.strip()]
        own = {
            self.frontend_url(),
            *(f"http{self._s()}://{host}:{self.frontend_port}" for host in ("127.0.0.1", "localhost")),
        }
        return origins or sorted(own)

    def ws_url(self) -> str:
        """Return the base URL of the WebSocket servers."""
        return f"ws{self._s()}://{self.host}:{self.ws_port}"

    def _s(self) -> str:
        return "s" if self.tls_certificate else ""

    def windows(self) -> Windows:
        """Return how long a shard remembers requests."""
        return Windows(request_ms=REPLY_TIMEOUTS * self.reply_timeout_ms)

    def market_map(self) -> MarketMap:
        """Return the markets and their shards.

        Raises:
            SettingsError: the markets file is missing or wrong.
        """
        try:
            text = (
                Path(self.markets_file).read_text("utf-8")
                if self.markets_file
                else resources.files("protocol").joinpath("markets.toml").read_text("utf-8")
            )
        except OSError as error:
            raise SettingsError(f"{PREFIX}MARKETS_FILE: {self.markets_file}: {error}") from error
        return markets_of(
            text, self.shard_count, f"{PREFIX}MARKETS_FILE: {self.markets_file or 'markets.toml'}"
        )


def markets_of(text: str, shard_count: int, name: str) -> MarketMap:
    """Return the markets in a markets file, and their shards.

    Raises:
        SettingsError: the file is wrong; the message begins with `name`.
    """
    try:
        file = msgspec.convert(tomllib.loads(text), MarketsFile)
        return MarketMap.of(file.to_markets(), shard_count)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, MarketError) as error:
        raise SettingsError(f"{name}: {error}") from error


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Return the settings in `environment` (default: the process's).

    Raises:
        SettingsError: names every wrong or unknown setting on its own line.
    """
    values = _values_in(os.environ if environment is None else environment)
    settings = Settings(**values)  # type: ignore[arg-type]
    # Apart from the single values: rules between settings make sense only once each of them is valid.
    _check_together(settings)
    return settings


def _values_in(environment: Mapping[str, str]) -> dict[str, object]:
    """Return the settings in `environment` by name.

    Raises:
        SettingsError: names every wrong or unknown setting on its own line.
    """
    fields = {field.name: field for field in msgspec.structs.fields(Settings)}
    values: dict[str, object] = {}
    mistakes: list[str] = []
    for variable, text in environment.items():
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in fields and name.endswith("_file") and name.removesuffix("_file") in fields:
            name = name.removesuffix("_file")
            try:
                text = Path(text).read_text("utf-8").strip()
            except OSError as error:
                mistakes.append(f"{variable}: {error}")
                continue
            if not text and name not in _MAY_BE_EMPTY:
                mistakes.append(f"{variable}: the file is empty")
                continue
        if name not in fields:
            mistakes.append(f"{variable}: no such setting")
            continue
        try:
            values[name] = msgspec.convert(text, fields[name].type, strict=False, dec_hook=_decode)
        except (msgspec.ValidationError, ValueError) as error:
            mistakes.append(f"{variable}: {error}")
    if mistakes:
        raise SettingsError("\n".join(mistakes))
    return values


def _check_together(settings: Settings) -> None:
    """Check the rules between settings.

    Raises:
        SettingsError: one is broken.
    """
    if settings.shard >= settings.shard_count:
        raise SettingsError(f"{PREFIX}SHARD: must be less than {PREFIX}SHARD_COUNT ({settings.shard_count})")
    mistakes = [
        f"{PREFIX}{name.upper()}: 0, or {HISTORY_DAYS_MIN} or more"
        for name in ("trades_days", "fills_days", "orders_days", "candles_1s_days")
        if 0 < getattr(settings, name) < HISTORY_DAYS_MIN
    ]
    if mistakes:
        raise SettingsError("\n".join(mistakes))
    if bool(settings.tls_certificate) != bool(settings.tls_key):
        raise SettingsError(f"{PREFIX}TLS_CERTIFICATE, {PREFIX}TLS_KEY: both, or none")
    # Only for its refusal, like `market_map` below: a mistake must show at boot, not at the first use.
    settings.shards_of_feeds()
    if settings.feeds_processes > settings.shard_count:
        raise SettingsError(
            f"{PREFIX}FEEDS_PROCESSES: at most one for each of the {settings.shard_count} shards "
            f"({PREFIX}SHARD_COUNT)"
        )
    settings.market_map()
    for name in ("redis_url", "cache_url"):
        try:
            parse_address(getattr(settings, name) or "redis://")
        except AddressError as error:
            raise SettingsError(f"{PREFIX}{name.upper()}: {error}") from error


def _decode(expected: type, value: object) -> object:
    if expected is Path:
        return Path(str(value))
    raise NotImplementedError(expected)
