"""The reader of manifests: what is written in either form comes out as the same thing."""

import textwrap

import yaml

from tests.deploy.manifests import Probe, Workload, environment_of_image, of_compose, of_kubernetes
from tests.deploy.rendered import of_kind, rendered

COMPOSE = """
x-process: &process
  image: exchange:${EXCHANGE_VERSION:-0.1.0}
  restart: unless-stopped
  environment: &environment
    EXCHANGE_SHARD_COUNT: 3
    EXCHANGE_FAUCET_ENABLED: true
    EXCHANGE_REDIS_URL_FILE: /run/secrets/redis-url
services:
  gateway:
    <<: *process
    command: [python, -m, gateway.main]
    environment:
      <<: *environment
      EXCHANGE_FUNCTIONS: orders
      EXCHANGE_LOG_LEVEL: ${LOG_LEVEL:-info}
    ports: ["127.0.0.1:${REST_PORT:-8000}:8000", {target: 9100}]
    expose: ["8002"]
    healthcheck:
      test:
        - CMD
        - python
        - -c
        - "from urllib.request import urlopen; urlopen('http://127.0.0.1:9100/readyz', timeout=4)"
    secrets: [redis-url, {source: key, target: /run/key}]
    volumes: ["secrets-gateway:/run/exchange:ro", {type: volume, source: more, target: /more}]
    tmpfs: ["/tmp:size=64m,mode=1777"]
    networks: {front: {aliases: [api]}}
  migrate:
    image: exchange
    command: python -m persist.main migrate
    environment: ["EXCHANGE_LOG_FORMAT=json"]
    restart: on-failure:5
  redis:
    image: redis:7
    command: [redis-server, /etc/redis.conf]
"""


def test_a_compose_file_is_read() -> None:
    gateway, migrate, redis = of_compose(yaml.safe_load(COMPOSE), {"EXCHANGE_HOST": "0.0.0.0"})
    assert gateway == Workload(
        name="gateway",
        command=("python", "-m", "gateway.main"),
        environment={
            "EXCHANGE_HOST": "0.0.0.0",
            "EXCHANGE_SHARD_COUNT": "3",
            "EXCHANGE_FAUCET_ENABLED": "true",
            "EXCHANGE_REDIS_URL_FILE": "/run/secrets/redis-url",
            "EXCHANGE_FUNCTIONS": "orders",
            "EXCHANGE_LOG_LEVEL": "info",
        },
        ports=frozenset({8000, 9100, 8002}),
        probes=frozenset({Probe(9100, "/readyz")}),
        files={"/run/secrets/redis-url": None, "/run/key": None},
        folders=frozenset({"/run/exchange", "/more", "/tmp"}),
        answers_to=frozenset({"gateway", "api"}),
    )
    assert gateway.module == "gateway.main"
    assert (migrate.module, migrate.command[-1], migrate.finishes) == ("persist.main", "migrate", True)
    assert migrate.environment == {"EXCHANGE_HOST": "0.0.0.0", "EXCHANGE_LOG_FORMAT": "json"}
    assert redis.module is None


def test_kubernetes_objects_are_read() -> None:
    found = {each.name: each for each in of_kubernetes(rendered("local"))}
    engine = found["engine-2"]
    assert engine.module == "engine_worker.main"
    assert engine.environment["EXCHANGE_ENGINE"] == "engine-2-0"
    assert engine.environment["EXCHANGE_SHARD"] == "2"
    assert engine.environment["EXCHANGE_SHARD_COUNT"] == "3"
    assert engine.ports == {9100}
    assert engine.probes == {Probe(9100, "/livez"), Probe(9100, "/readyz")}
    assert engine.files["/run/secrets/redis/url"] == "redis://engine:development-only-engine@redis-0:6379/0"
    assert "BTCUSDT" in (engine.files["/etc/exchange/markets.toml"] or "")
    assert found["gateway"].answers_to == {"gateway"}
    assert found["frontend"].environment.keys() == {"EXCHANGE_FRONTEND_API_URL", "EXCHANGE_FRONTEND_WS_URL"}
    (migrate,) = (each["metadata"]["name"] for each in of_kind(rendered("local"), "Job"))
    assert found[migrate].finishes
    assert found["restore"].finishes
    assert found["redis"].answers_to == {"redis", "redis-0"}
    assert found["ws-edge/schema"].finishes
    production = {each.name: each for each in of_kubernetes(rendered("production"))}
    assert production["feeds"].files["/run/secrets/redis/url"] is None


def test_what_an_image_sets_is_read() -> None:
    dockerfile = textwrap.dedent("""\
        FROM python AS build
        ENV EXCHANGE_HOST=build
        FROM python
        ENV PATH=/opt/bin:$PATH \\
            EXCHANGE_HOST=0.0.0.0 \\
            EXCHANGE_METRICS_PORT=9100
        USER 10001
        """)
    assert environment_of_image(dockerfile) == {"EXCHANGE_HOST": "0.0.0.0", "EXCHANGE_METRICS_PORT": "9100"}
