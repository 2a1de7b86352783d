"""A signed order with nothing but the standard library: what every client library does underneath.

.venv/bin/exchange demo-account --json
python3 examples/sign_by_hand.py KEY SECRET
"""

import argparse
import hashlib
import hmac
import json
import time
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen


def signed(url: str, key: str, secret: str, method: str, path: str, **parameters: str | int) -> Any:
    """Send one signed request and return the decoded answer, also that of a refusal.

    The signature is the HMAC-SHA256, in hex, of the query exactly as it is sent, with the time in
    milliseconds in it.
    """
    query = urlencode({**parameters, "timestamp": time.time_ns() // 1_000_000})
    signature = hmac.new(secret.encode(), query.encode(), hashlib.sha256).hexdigest()
    request = Request(
        f"{url}{path}?{query}&signature={signature}", method=method, headers={"X-MBX-APIKEY": key}
    )
    try:
        with urlopen(request) as response:
            return json.load(response)
    except HTTPError as refusal:
        return json.load(refusal)


def main() -> None:
    """Buy, ask for the order, and make one mistake."""
    parser = argparse.ArgumentParser(description="Place a signed order without any library.")
    parser.add_argument("key")
    parser.add_argument("secret")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    arguments = parser.parse_args()
    account = (arguments.url, arguments.key, arguments.secret)

    order = signed(
        *account, "POST", "/api/v3/order", symbol="ETHUSDT", side="BUY", type="MARKET", quoteOrderQty="100"
    )
    print(json.dumps(order, indent=2))
    print(signed(*account, "GET", "/api/v3/order", symbol="ETHUSDT", orderId=order["orderId"])["status"])
    print(signed(*account, "POST", "/api/v3/order", symbol="ETHUSDT", side="BUY", type="LIMIT", quantity="1"))


if __name__ == "__main__":
    main()
