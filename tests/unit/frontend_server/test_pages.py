"""Which file answers which path."""

import pytest

from frontend_server.pages import cache_control, content_type, file_of, security_headers


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("/", "index.html"),
        ("/trade", "trade.html"),
        ("/trade/", "trade.html"),
        ("/trade/BTCUSDT", "trade.html"),
        ("/trade/btcusdt", "trade.html"),
        ("/404", "404.html"),
        ("/trade/__next._tree.txt", "trade/__next._tree.txt"),
        ("/_next/static/chunks/1k3ff2q_2h7_o.js", "_next/static/chunks/1k3ff2q_2h7_o.js"),
    ],
)
def test_paths_lead_to_files(path: str, file: str) -> None:
    assert str(file_of(path)) == file


@pytest.mark.parametrize(
    "path",
    [
        "",
        "//",
        "/../package.json",
        "/_next/../../package.json",
        "/.stamp",
        "/_next/.hidden/x.js",
        "/%2e%2e/package.json",
        "/a\\..\\b",
        "/a\x00b",
        "/trade/BTC/USDT/..",
        "//etc/passwd",
    ],
)
def test_nothing_leads_out_of_the_folder(path: str) -> None:
    assert file_of(path) is None


def test_only_what_never_changes_is_kept() -> None:
    assert "immutable" in cache_control("/_next/static/chunks/a.js")
    assert cache_control("/trade/BTCUSDT") == "no-cache"


def test_types_name_their_charset() -> None:
    found = [
        content_type(file) for path in ("/", "/icon.svg", "/a.js", "/a.woff2") if (file := file_of(path))
    ]
    assert found == [
        "text/html; charset=utf-8",
        "image/svg+xml; charset=utf-8",
        "text/javascript; charset=utf-8",
        "font/woff2",
    ]


def test_pages_speak_with_the_exchange_only() -> None:
    policy = security_headers("wss://stream.example")["Content-Security-Policy"]
    assert "connect-src 'self' wss://stream.example;" in policy
    assert "frame-ancestors 'none'" in policy
