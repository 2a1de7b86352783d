"""Settings: read once, at start, from `EXCHANGE_*` environment variables; every mistake is reported at once.

A field `shard_count` is set by EXCHANGE_SHARD_COUNT. `EXCHANGE_…_FILE` may name a file that holds the value instead, for secrets.
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
"""From the port of one replica that `exchange up` starts to the next one's."""

HISTORY_DAYS_MIN = 30
"""Of the history, so many days are always kept: candles are made from them, and a restore reads them."""
_MAY_BE_EMPTY = ("master_key_previous",)
"""What the file of a secret may say; any other that is empty was not written yet, or not well, and would be taken for none."""
_CHECKOUT = Path(__file__).resolve().parent.parent
DATA_DIR = (_CHECKOUT if (_CHECKOUT / "pyproject.toml").is_file() else Path.cwd()) / ".run"
"""In the checkout, whatever folder a command is typed in; elsewhere when the program was installed without one."""


class SettingsError(ValueError):
    """One or more settings are wrong; the message names each of them, a line each."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of all processes, with the defaults of a laptop."""

    # Where things live
    data_dir: Path = DATA_DIR
    """Data of the embedded Redis and PostgreSQL, logs, the master key."""
    host: str = "127.0.0.1"
    """The address that servers listen on."""
    development: bool = False
    """This is a development installation: it may have a faucet that others reach, and keys and passwords that are published in the
    repository (runtime/unsafe_settings.py). Otherwise processes with any of these refuse to start."""
    rest_port: Port = 8000
    ws_port: Port = 8001
    """Port of the WebSocket streams and the WebSocket API."""
    redis_port: Port = 6390
    """Port of the embedded Redis."""
    postgres_port: Port = 5490
    """Port of the embedded PostgreSQL."""
    tls_certificate: str = ""
    """A PEM file: the certificate that gateways, edges and the pages' server show, and what leads from it to one that clients trust. Empty:
    no TLS, which is for what stands in front. It is read again when it changes, with its key."""
    tls_key: str = ""
    """A PEM file: the certificate's private key, without a password."""
    metrics_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """Port of a process's metrics and probes (/metrics, /livez, /readyz); 0: none."""
    metrics_host: str = "127.0.0.1"
    """The address that metrics and probes listen on, whatever EXCHANGE_HOST is; in containers that of their network."""
    metrics_password: str = ""
    """What whoever reads /metrics must show, as `Authorization: Bearer`; empty: nothing. The probes ask for nothing."""
    up_metrics_port: Annotated[int, Meta(ge=0, le=65535)] = 9500
    """`exchange up` gives its processes ports for their metrics from here on; 0: none."""
    ready_lag_ms_max: Positive = 5_000
    """A standby, the feeds or the persistence that is further behind is not ready."""
    redis_url: str = ""
    """An external Redis, a service of Sentinel, or a cluster (forms: runtime/redis_clients.py); empty: the embedded one."""
    redis_bin: str = ""
    """Folder of the embedded Redis's program, valkey-server or redis-server (6.2 or newer); empty: the one that comes along, else PATH."""
    redis_mode: Literal["single", "sentinel", "cluster"] = "single"
    """What the embedded Redis is: one server; a master with a replica and three sentinels, on five ports from EXCHANGE_REDIS_PORT on;
    or a cluster of three masters, on three."""
    redis_memory_mb: Positive = 2_048
    """`maxmemory` of each server of the embedded Redis. Gateways refuse orders before it is used up, and cancels last."""
    cache_url: str = ""
    """The Redis of what may be lost and is made anew within seconds: read models, public streams, counters, the queue of nudges (forms:
    as EXCHANGE_REDIS_URL). Empty: a second embedded one beside an embedded Redis, else that Redis plays both roles."""
    cache_enabled: bool = True
    """Run a second embedded Redis for what may be lost; else one plays both roles, and all of that costs disk syncs."""
    cache_port: Port = 6399
    """Port of the embedded Redis of what may be lost."""
    cache_memory_mb: Positive = 512
    """Its `maxmemory`."""
    redis_replicas_min: Annotated[int, Meta(ge=0)] = 0
    """Replicas that must have a batch before anybody hears of it: as many as may take the master's place (docs/decisions/0015). 0: none."""
    redis_durability_check_enabled: bool = True
    """A shard opens only on a Redis that gives back, after a restart, all that was written to it (stream_log/durability.py)."""
    database_url: str = ""
    """An external PostgreSQL or TimescaleDB, as the role that this process is to have there (docs/operations.md, "Roles of the database");
    empty: the embedded one."""
    database_role_passwords: str = ""
    """`service:password,…` of the roles of services (gateway, edge, persist) in an external database: `migrate` makes the roles with
    these passwords, and processes that know them use their own role instead of the one that EXCHANGE_DATABASE_URL names."""
    database_admin_url: str = ""
    """The same database as a role that may make roles, for `migrate`; empty: the owner may."""
    database_roles_required: bool = False
    """`migrate` waits until the roles of services are there, which somebody else makes."""
    postgres_bin: str = ""
    """Folder of PostgreSQL's programs (16 or newer) for the embedded one; empty: those on PATH, then those that come along."""

    # What is traded
    markets_file: str = ""
    """A TOML file of markets (form: protocol/markets.toml); empty: the three that come with the program."""
    shard_count: Annotated[int, Meta(ge=1, le=100)] = 1
    shard: Annotated[int, Meta(ge=0, le=99)] = 0
    """Which shard an engine worker runs."""

    # The engine worker
    engine: str = ""
    """The name of an engine worker among those of its shard; empty: `engine-` and the shard's number."""
    standbys: Annotated[int, Meta(ge=0, le=9)] = 0
    """How many more workers `exchange up` starts for each shard, to take over from the one that leads."""
    lease_ms: Annotated[int, Meta(ge=100)] = 1_000
    """A leading engine worker that has been silent for so long loses its shard to a standby."""
    batch_commands_max: Positive = 1_024
    """Stream entries that one step of an engine worker reads at most."""
    snapshot_interval_s: Positive = 30
    """A shard's state is saved so often, where its log grows by the size of what was saved last; otherwise after ten times as long."""
    unstored_orders_max: Positive = 500_000
    """Closed orders, some 500 bytes each, that an engine worker keeps for queries until the database has them. Beyond that the oldest
    are dropped, and the status of an order that may be one of them is unknown until the database is so far."""

    # The gateway
    functions: str = "orders,account,market-data,users"
    """Which groups of functions this gateway mounts."""
    reply_timeout_ms: Positive = 5_000
    """How long a gateway waits for a reply. Ten times that is how long shards remember requests, so it must be the same everywhere."""
    backlog_age_ms_max: Positive = 2_000
    """Orders are refused with 503 while the oldest waiting command of their shard is older."""
    log_mb_max: Positive = 1_024
    """Orders are refused with 503 while the log of a shard, which its slowest reader keeps from being trimmed, takes more of Redis."""
    open_orders_max: Annotated[int, Meta(ge=1, le=2**31)] = OPEN_ORDERS_MAX
    """Open orders that one account may have in all markets together, in a new exchange; from then on its log says so."""
    in_flight_max: Annotated[int, Meta(ge=1, le=2**31)] = IN_FLIGHT_MAX
    """Orders of a shard's accounts that each other shard may have without having answered them, in a new exchange; likewise."""
    pending_requests_max: Positive = 20_000
    """Requests that one gateway lets wait for replies."""
    request_weight_per_minute: Positive = 6_000
    """What one network, an IPv4 address or an IPv6 /64, may use; a /48 may use ten times that. So with all limits of networks."""
    raw_requests_per_5m: Positive = 61_000
    """Requests of one network, whatever they weigh."""
    orders_per_10s: Positive = 100
    orders_per_day: Positive = 200_000
    rate_limits_enabled: bool = True
    """Count requests, weight, handshakes and orders. What follows holds also without."""
    head_bytes_max: Positive = 16_384
    """Request line and headers of a request; also all of a body that is not its content, such as trailers."""
    url_bytes_max: Positive = 8_192
    """Path and query."""
    form_bytes_max: Positive = 16_384
    """Largest body of parameters."""
    body_bytes_max: Positive = 65_536
    """Largest other body."""
    request_timeout_ms: Positive = 10_000
    """How long a request may take to arrive, from its first byte to its last, and a new connection to send its first head."""
    idle_timeout_s: Positive = 75
    """How long a connection may stay open without a request."""
    connections_max: Positive = 20_000
    """Connections that one gateway holds; fewer where there are fewer file descriptors."""
    connections_per_address_max: Positive = 2_000
    """Of these, one network's; those of trusted proxies are not counted."""
    trusted_proxies: str = ""
    """Addresses or networks (10.0.0.0/8), comma separated, whose X-Forwarded-For names the client that limits count; empty: none."""
    cors_origins: str = ""
    """Origins, comma separated, whose pages may call the API from a browser; empty: the frontend's own, on this machine."""
    session_ttl_s: Positive = 86_400
    verification_required: bool = False
    """Accounts make keys, trade on the page and ask the faucet only when they have shown that their address is theirs. Needs mails."""
    public_url: str = ""
    """Where people find the pages; links in mails begin with it. Empty: the frontend's own, on this machine."""
    mail_host: str = ""
    """The mail server (SMTP) that sends mails to owners of accounts; empty: they are kept, and `exchange mails` shows them."""
    mail_port: Port = 587
    mail_user: str = ""
    """Who signs in to the mail server; empty: nobody does."""
    mail_password: str = ""
    mail_encryption: Literal["starttls", "tls", "none"] = "starttls"
    mail_from: str = "exchange@localhost"
    faucet_enabled: bool | None = None
    """Accounts may credit themselves. Unset: on a development installation, and where servers listen on this machine only."""
    faucet_amount_max: Positive = 10_000_000
    """The most of one asset that one request may ask for."""
    master_key: str = ""
    """32 bytes in base64url that encrypt API secrets at rest; empty: made once and kept in the data folder."""
    master_key_previous: str = ""
    """A second key that opens what was sealed under it, while one master key takes the place of another (`exchange keys reseal`). Empty:
    what `master.previous.key` in the data folder holds, if it is there and EXCHANGE_MASTER_KEY is empty, too."""

    operator_keys: str = ""
    """The public keys that a new exchange begins with, `role:key,…`; the roles are operator, treasury and faucet, a key is 32 bytes in
    base64url. Empty: those of the private keys in the data folder. Later ones are set by `exchange keys`."""
    operator_key: str = ""
    """The private key, 32 bytes in base64url, that signs what configures; empty: made once and kept in the data folder."""
    treasury_key: str = ""
    """The same for deposits and withdrawals."""
    faucet_key: str = ""
    """The same for what the faucet gives."""

    listen_keys_enabled: bool = True
    """Offer listenKeys, which Binance has retired, to clients that still ask for them."""

    # The WebSocket edge
    ws_connections_max: Positive = 20_000
    """Connections that one edge process holds."""
    ws_connections_per_address_max: Positive = 2_000
    """Of these, one network's."""
    ws_connections_per_5m: Positive = 300
    """WebSockets that one network may open within five minutes."""
    ws_streams_per_address_max: Positive = 10_240
    """Streams that all connections of one network may listen to together in one edge."""
    ws_messages_per_second: Positive = 5
    """Messages, pings included, that one connection of market streams may send."""
    ws_message_bytes_max: Positive = 65_536
    """Largest message that a client may send."""

    # The feeds
    feeds_save_period_ms: Positive = 2_000
    """How often the feeds save their state; what came since is read again at a start."""
    feeds_shards: str = ""
    """Shards, comma separated, that a feeds process follows; empty: all. Each shard must have exactly one process that follows it: of two
    the one that started last goes on, and the other ends."""

    # Persistence
    ingest_batch_entries: Positive = 2_000
    ingest_sweep_s: Positive = 5
    """How often the ingest looks without being nudged."""
    trades_days: Annotated[int, Meta(ge=0)] = 0
    """Days that public trades are kept in the database, 30 or more; 0: for ever. Candles stay."""
    fills_days: Annotated[int, Meta(ge=0)] = 0
    """The same for the accounts' own trades (`myTrades`)."""
    orders_days: Annotated[int, Meta(ge=0)] = 0
    """The same for closed orders, counted from when they were closed; open orders stay."""
    candles_1s_days: Annotated[int, Meta(ge=0)] = 0
    """The same for candles of a second; larger ones are always kept."""

    # The archive
    archive_enabled: bool = True
    """Keep the shards' input logs and snapshots in the database: what `exchange restore`, `book`, `account` and `why` read."""
    archive_period_ms: Positive = 1_000
    """How far the archive may be behind a shard that says nothing; what it says is never stored before it is archived."""
    archive_snapshot_interval_s: Positive = 7_200
    archive_snapshots_max: Positive = 24
    """Snapshots that are kept of each shard, and the log since the oldest of them."""
    archive_days: Positive = 7
    """Snapshots that are older are dropped, and the log before the oldest that is left."""
    lost_tail_check_enabled: bool = True
    """A shard opens only when its log has been compared with the database since Redis started."""

    # The frontend
    frontend_enabled: bool = True
    frontend_port: Port = 3000
    frontend_api_url: str = ""
    """Where the pages' server passes their requests on to; empty: to this machine's own gateway. Pages ask their own origin alone."""
    frontend_ws_url: str = ""
    """Where browsers reach the streams; empty: at this machine's own address and port."""

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "human", "json"] = "auto"
    """human, json, or auto: human on a terminal, JSON otherwise."""

    # Traces
    traces_url: str = ""
    """Where spans of orders go, by OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces; empty: nowhere."""
    traces_sample_ppm: Annotated[int, Meta(gt=0, le=1_000_000)] = 1_000
    """Of a million orders, how many are traced; every process chooses the same ones."""

    # Several of a kind, and their leaving
    gateways: Replicas = 1
    """How many gateways `exchange up` starts: `gateway` on EXCHANGE_REST_PORT, `gateway-2` 100 ports further on, and so forth."""
    ws_edges: Replicas = 1
    """How many WebSocket edges: `ws-edge` on EXCHANGE_WS_PORT, `ws-edge-2` 100 ports further on."""
    persist_workers: Replicas = 1
    """How many workers that bring the logs into the database."""
    feeds_processes: Replicas = 1
    """How many feeds processes: the shards, or those of EXCHANGE_FEEDS_SHARDS, are divided among them."""
    process_name: str = ""
    """What a gateway, a feeds process, an edge or a persist-worker is called among those of its kind; empty: what it is."""
    drain_delay_ms: Annotated[int, Meta(ge=0)] = 0
    """How long gateways and edges that were told to stop go on as before, though not ready: until balancers have noticed."""
    drain_grace_ms: Annotated[int, Meta(ge=0)] = 500
    """How long connections then have to move by themselves before those that are idle are closed."""

    # The market maker
    mm_enabled: bool = True
    mm_levels: Positive = 15
    mm_requote_ms: Positive = 1_000
    mm_rest_url: str = ""
    """The exchange it quotes on; empty: this one."""

    @property
    def password_file(self) -> Path:
        """Where the password of the embedded Redis and PostgreSQL is kept; made when they first start."""
        return self.data_dir / "password"

    def resolved_redis_url(self) -> str:
        """Return the URL of the Redis to use."""
        if self.redis_url or self.redis_mode == "single":
            return self.redis_url or f"redis://:{self.password()}@127.0.0.1:{self.redis_port}/0"
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.redis_ports()[-3:])
        if self.redis_mode == "cluster":
            return f"redis+cluster://:{self.password()}@{hosts}"
        return f"redis+sentinel://:{self.password()}@{hosts}/exchange?sentinel_password={self.password()}"

    def resolved_cache_url(self) -> str:
        """Return the URL of the Redis of what may be lost; it may be the one that keeps everything."""
        if self.cache_url or not self.has_own_cache():
            return self.cache_url or self.resolved_redis_url()
        return f"redis://:{self.password()}@127.0.0.1:{self.cache_port}/0"

    def has_own_cache(self) -> bool:
        """Return whether `exchange up` starts a Redis for what may be lost."""
        return self.cache_enabled and not (self.cache_url or self.redis_url)

    def redis_ports(self) -> list[int]:
        """Return the ports of the embedded Redis: those of servers with data first, then those of sentinels."""
        count = {"single": 1, "sentinel": 5, "cluster": 3}[self.redis_mode]
        return [self.redis_port + number for number in range(count)]

    def resolved_database_url(self) -> str:
        """Return the URL of the database to use."""
        return self.database_url or f"postgresql://exchange:{self.password()}@127.0.0.1:{self.postgres_port}/exchange"

    def password(self) -> str:
        """Return the password of the embedded servers.

        Raises:
            SettingsError: it was not made yet.
        """
        try:
            return self.password_file.read_text("ascii").strip()
        except OSError as error:
            raise SettingsError(f"{self.password_file}: {error.strerror}; `exchange up` makes it") from error

    def is_for_this_machine(self) -> bool:
        """Return whether servers listen where only this machine reaches them."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def has_faucet(self) -> bool:
        """Return whether accounts may credit themselves."""
        return self.development or self.is_for_this_machine() if self.faucet_enabled is None else self.faucet_enabled

    def engine_name(self) -> str:
        """Return the name of the engine worker that these settings are for."""
        return self.engine or f"engine-{self.shard}"

    def name_of_process(self, kind: str) -> str:
        """Return what the process that these settings are for, which is of `kind`, is called."""
        return self.process_name or kind

    def shards_of_feeds(self) -> list[int]:
        """Return the shards that the feeds follow, in ascending order.

        Raises:
            SettingsError: the setting names no shard, or one that there is not.
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
        """Return where people find the pages."""
        return self.public_url.rstrip("/") or self.frontend_url()

    def browser_origins(self) -> list[str]:
        """Return the origins whose pages may call the API."""
        named = [origin.strip() for origin in self.cors_origins.split(",") if origin.strip()]
        own = {
            self.frontend_url(),
            *(f"http{self._s()}://{host}:{self.frontend_port}" for host in ("127.0.0.1", "localhost")),
        }
        return named or sorted(own)

    def ws_url(self) -> str:
        """Return the base URL of the WebSocket servers."""
        return f"ws{self._s()}://{self.host}:{self.ws_port}"

    def _s(self) -> str:
        return "s" if self.tls_certificate else ""

    def windows(self) -> Windows:
        """Return for how long a shard remembers requests."""
        return Windows(request_ms=REPLY_TIMEOUTS * self.reply_timeout_ms)

    def market_map(self) -> MarketMap:
        """Return the markets and what shard owns what.

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
        return markets_of(text, self.shard_count, f"{PREFIX}MARKETS_FILE: {self.markets_file or 'markets.toml'}")


def markets_of(text: str, shard_count: int, name: str) -> MarketMap:
    """Return the markets that a markets file describes, and what shard owns what.

    Raises:
        SettingsError: it is wrong; the message begins with `name`.
    """
    try:
        file = msgspec.convert(tomllib.loads(text), MarketsFile)
        return MarketMap.of(file.to_markets(), shard_count)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, MarketError) as error:
        raise SettingsError(f"{name}: {error}") from error


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Return the settings that `environment` (default: the process's) describes.

    Raises:
        SettingsError: naming every wrong or unknown setting, a line each.
    """
    environment = os.environ if environment is None else environment
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
    settings = Settings(**values)  # type: ignore[arg-type]
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
    settings.shards_of_feeds()
    if settings.feeds_processes > settings.shard_count:
        raise SettingsError(
            f"{PREFIX}FEEDS_PROCESSES: at most one for each of the {settings.shard_count} shards ({PREFIX}SHARD_COUNT)"
        )
    settings.market_map()
    for name in ("redis_url", "cache_url"):
        try:
            parse_address(getattr(settings, name) or "redis://")
        except AddressError as error:
            raise SettingsError(f"{PREFIX}{name.upper()}: {error}") from error
    return settings


def _decode(expected: type, value: object) -> object:
    if expected is Path:
        return Path(str(value))
    raise NotImplementedError(expected)
