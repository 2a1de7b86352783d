"""The alerts' rules and the documents that explain them."""

from typing import Any

import msgspec

from deploy.monitoring.grafana import FOLDER

ALERTS = FOLDER / "alerts.yaml"


DOCS = FOLDER.parent.parent


def yaml(text: str) -> Any:
    return msgspec.yaml.decode(text)


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml(ALERTS.read_text())["groups"] for rule in group["rules"]]
