"""Who reads metrics shows the password in containers, and Prometheus is not published."""

import yaml

from tests.deploy.manifests import of_kubernetes
from tests.deploy.rendered import ROOT, named, rendered

FILE = "/run/exchange/metrics-password"


def test_prometheus_shows_the_password_to_every_process_of_ours() -> None:
    jobs = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))["scrape_configs"]
    asked = {job["job_name"]: job.get("authorization") for job in jobs}
    assert asked.pop("proxy") is None  # HAProxy's own
    assert set(map(str, asked.values())) == {str({"type": "Bearer", "credentials_file": FILE})}


def test_every_process_of_compose_asks_for_it() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    measured = {
        name: service
        for name, service in services.items()
        if (service.get("environment") or {}).get("EXCHANGE_METRICS_PORT") == "9100"
    }
    assert len(measured) >= 13
    for name, service in measured.items():
        assert service["environment"]["EXCHANGE_METRICS_PASSWORD_FILE"] == FILE, name
        assert any(volume.endswith(":/run/exchange:ro") for volume in service["volumes"]), name
    assert [port for port in services["prometheus"]["ports"] if not port.startswith("127.0.0.1:")] == []


def test_every_process_of_production_asks_for_it_and_the_pod_monitor_shows_it() -> None:
    objects = rendered("production")
    processes = [each for each in of_kubernetes(objects) if each.module and each.probes]
    assert len(processes) >= 10
    for each in processes:
        assert each.environment["EXCHANGE_METRICS_PASSWORD_FILE"] in each.files, each.name
    (endpoint,) = named(objects, "PodMonitor", "exchange")["spec"]["podMetricsEndpoints"]
    assert endpoint["authorization"] == {
        "type": "Bearer",
        "credentials": {"name": "exchange-metrics", "key": "password"},
    }
