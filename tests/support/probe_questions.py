"""Asking a process's probes."""

import urllib.error
import urllib.request

import msgspec


def ask(url: str) -> tuple[int, dict[str, str]]:
    try:
        with urllib.request.urlopen(url, timeout=20) as response:
            status, body = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read()
    return status, msgspec.json.decode(body)["reasons"]
