"""Orders and accounts through a real gateway and its shards."""

import base64
import hashlib
import hmac
import json
import signal
import time
from decimal import Decimal
from urllib.parse import urlencode

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from websockets.sync.client import connect

from tests.support.api import Api, RefusedError, new_account, now_ms, refused, signature_of
from tests.support.eventually import eventually
from tests.support.gateway_processes import Processes
from tests.support.order_weights import BUSY

UNKNOWN_STATUS = (
    "Timeout waiting for response from backend server. Send status unknown; execution status unknown."
)


def test_the_life_of_an_order(url: str) -> None:
    alice = new_account(url, USDT="100000", BTC="1")
    placed = alice.order("BTCUSDT", "BUY", "LIMIT", quantity="0.5", price="50000", newClientOrderId="mine")
    assert placed == {
        "symbol": "BTCUSDT",
        "orderId": placed["orderId"],
        "orderListId": -1,
        "clientOrderId": "mine",
        "transactTime": placed["transactTime"],
        "price": "50000.00000000",
        "origQty": "0.50000000",
        "executedQty": "0.00000000",
        "origQuoteOrderQty": "0.00000000",
        "cummulativeQuoteQty": "0.00000000",
        "status": "NEW",
        "timeInForce": "GTC",
        "type": "LIMIT",
        "side": "BUY",
        "workingTime": placed["workingTime"],
        "selfTradePreventionMode": "EXPIRE_MAKER",
        "fills": [],
    }
    # With several shards the market's shard accepts it a moment after the account's shard has seen it.
    assert now_ms() - 10_000 < placed["workingTime"] <= placed["transactTime"] <= now_ms()
    assert alice.balances()["USDT"] == (Decimal(75000), Decimal(25000))
    order = alice.signed("GET", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="mine")
    assert order == {
        "symbol": "BTCUSDT",
        "orderId": placed["orderId"],
        "orderListId": -1,
        "clientOrderId": "mine",
        "price": "50000.00000000",
        "origQty": "0.50000000",
        "executedQty": "0.00000000",
        "cummulativeQuoteQty": "0.00000000",
        "status": "NEW",
        "timeInForce": "GTC",
        "type": "LIMIT",
        "side": "BUY",
        "stopPrice": "0.00000000",
        "icebergQty": "0.00000000",
        "time": placed["workingTime"],
        "updateTime": placed["transactTime"],
        "isWorking": True,
        "workingTime": placed["workingTime"],
        "origQuoteOrderQty": "0.00000000",
        "selfTradePreventionMode": "EXPIRE_MAKER",
    }
    assert alice.signed("GET", "/api/v3/openOrders", symbol="BTCUSDT") == [order]
    assert alice.signed("GET", "/api/v3/openOrders", symbol="ETHUSDT") == []
    with refused(-2010, "Duplicate order sent."):
        alice.order("BTCUSDT", "BUY", "LIMIT", quantity="0.5", price="50000", newClientOrderId="mine")
    canceled = alice.signed(
        "DELETE", "/api/v3/order", symbol="BTCUSDT", orderId=placed["orderId"], newClientOrderId="stop"
    )
    assert (canceled["origClientOrderId"], canceled["clientOrderId"]) == ("mine", "stop")
    assert (canceled["status"], canceled["orderId"]) == ("CANCELED", placed["orderId"])
    assert "workingTime" not in canceled
    with refused(-2011, "Unknown order sent."):
        alice.signed("DELETE", "/api/v3/order", symbol="BTCUSDT", orderId=placed["orderId"])
    assert (
        alice.signed("GET", "/api/v3/order", symbol="BTCUSDT", orderId=placed["orderId"])["status"]
        == "CANCELED"
    )
    with refused(-2013, "Order does not exist."):
        alice.signed("GET", "/api/v3/order", symbol="BTCUSDT", orderId=987654321)
    assert alice.balances()["USDT"] == (Decimal(100000), Decimal(0))


def test_two_accounts_trade(url: str) -> None:
    alice, bob = new_account(url, BTC="2"), new_account(url, USDT="200000")
    for quantity, price in (("1", "50000"), ("1", "50010")):
        alice.order("BTCUSDT", "SELL", "LIMIT", quantity=quantity, price=price)
    bought = bob.order("BTCUSDT", "BUY", "LIMIT", quantity="1.5", price="50010", timeInForce="IOC")
    assert (bought["status"], bought["executedQty"]) == ("FILLED", "1.50000000")
    assert bought["cummulativeQuoteQty"] == "75005.00000000"
    assert [
        (fill["price"], fill["qty"], fill["commission"], fill["commissionAsset"]) for fill in bought["fills"]
    ] == [
        ("50000.00000000", "1.00000000", "0.00100000", "BTC"),
        ("50010.00000000", "0.50000000", "0.00050000", "BTC"),
    ]
    assert all(isinstance(fill["tradeId"], int) for fill in bought["fills"])
    with refused(-2010, "Order would immediately match and take."):
        bob.order("BTCUSDT", "BUY", "LIMIT_MAKER", quantity="0.1", price="50010")
    sold = bob.order("BTCUSDT", "BUY", "MARKET", quoteOrderQty="5001", newOrderRespType="RESULT")
    assert (sold["price"], sold["origQuoteOrderQty"]) == ("0.00000000", "5001.00000000")
    assert (sold["type"], sold["timeInForce"], sold["status"]) == ("MARKET", "GTC", "FILLED")
    assert sold["executedQty"] == "0.10000000"
    ack = bob.order("BTCUSDT", "BUY", "MARKET", quantity="0.1", newOrderRespType="ACK")
    assert set(ack) == {"symbol", "orderId", "orderListId", "clientOrderId", "transactTime"}
    assert alice.signed("DELETE", "/api/v3/openOrders", symbol="BTCUSDT")[0]["status"] == "CANCELED"
    with refused(-2011, "Unknown order sent."):
        alice.signed("DELETE", "/api/v3/openOrders", symbol="BTCUSDT")
    with refused(-2010, "Account has insufficient balance for requested action."):
        alice.order("BTCUSDT", "SELL", "LIMIT", quantity="1", price="50000")


def test_every_way_to_send_a_signed_request(url: str) -> None:
    api = new_account(url, USDT="1000")
    order = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.001"}
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    def send(method: str, query: str, body: str, headers: dict[str, str]) -> httpx.Response:
        api_query = f"?{query}" if query else ""
        return api.http.request(method, f"/api/v3/order{api_query}", content=body, headers=headers)

    def signed(query: str, body: str) -> str:
        return f"signature={signature(api, query + body)}"

    whole = urlencode({**order, "price": "20000", "timestamp": now_ms()})
    assert send("POST", "", f"{whole}&{signed('', whole)}", form).status_code == 200
    first = urlencode(order)
    rest = urlencode({"price": "20000", "quantity": "999", "timestamp": now_ms()})
    mixed = send("POST", first, f"{rest}&{signed(first, rest)}", form)
    assert mixed.json()["origQty"] == "0.00100000"  # the query's
    in_query = f"{whole}&{signed(whole, '')}"
    assert send("POST", in_query, "", {"Content-Type": "application/json"}).status_code == 200
    cancel = urlencode({"symbol": "BTCUSDT", "orderId": mixed.json()["orderId"], "timestamp": now_ms()})
    canceled = send("DELETE", "", f"{cancel}&{signed('', cancel)}", form)
    assert canceled.json()["status"] == "CANCELED"
    micro = urlencode(
        {**order, "price": "20000", "timestamp": time.time_ns() // 1000, "recvWindow": "1000.5"}
    )
    answer = send("POST", f"{micro}&{signed(micro, '')}", "", {"X-MBX-TIME-UNIT": "microsecond"})
    assert answer.json()["transactTime"] > 10**15


def signature(api: Api, payload: str) -> str:
    return hmac.new(api.secret.encode(), payload.encode(), hashlib.sha256).hexdigest()


def test_ed25519_keys(url: str) -> None:
    credentials = {"email": "Carol@Example.com", "password": "correct horse"}
    with httpx.Client(base_url=url) as http:
        assert http.post("/api/v1/signup", json=credentials).json() == {"email": "carol@example.com"}
        session = {"Authorization": f"Bearer {http.post('/api/v1/signin', json=credentials).json()['token']}"}
        key = ed25519.Ed25519PrivateKey.generate()
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        asked = {"publicKey": public.decode(), "password": credentials["password"]}
        made = http.post("/api/v1/api-keys", json=asked, headers=session).json()
        assert "secret" not in made
        query = urlencode({"timestamp": now_ms()})
        signed = urlencode({"signature": base64.b64encode(key.sign(query.encode())).decode()})
        answer = http.get(f"/api/v3/account?{query}&{signed}", headers={"X-MBX-APIKEY": made["apiKey"]})
        assert answer.json()["uid"] == http.get("/api/v1/me", headers=session).json()["accountId"]


def test_a_revoked_key_and_an_ended_session_are_refused(url: str) -> None:
    credentials = {"email": "dave@example.com", "password": "correct horse"}
    with httpx.Client(base_url=url) as http:
        http.post("/api/v1/signup", json=credentials)
        assert http.post("/api/v1/signin", json={**credentials, "password": "wrong horse"}).status_code == 401
        session = {"Authorization": f"Bearer {http.post('/api/v1/signin', json=credentials).json()['token']}"}
        asked = {"label": "bot", "password": credentials["password"]}
        made = http.post("/api/v1/api-keys", json=asked, headers=session).json()
        api = Api(url, made["apiKey"], made["secret"])
        assert api.signed("GET", "/api/v3/account", omitZeroBalances="true")["balances"] == []
        listed = http.get("/api/v1/api-keys", headers=session).json()
        assert [(key["apiKey"], key["label"]) for key in listed] == [(made["apiKey"], "bot")]
        assert http.delete(f"/api/v1/api-keys?apiKey={made['apiKey']}", headers=session).json() == {}

        def is_refused() -> bool:
            try:
                api.signed("GET", "/api/v3/account")
            except RefusedError as error:
                return bool(error.code == -2015)
            return False

        eventually("the revoked key is refused", is_refused)
        assert http.get("/api/v1/me", headers=session).json()["email"] == "dave@example.com"
        assert http.post("/api/v1/signout", headers=session).status_code == 200
        assert http.get("/api/v1/me", headers=session).json()["code"] == -1002


def test_no_reply_in_time_means_status_unknown(processes: Processes) -> None:
    shards = processes.shards()
    url = processes.gateway(REPLY_TIMEOUT_MS="300")
    api = new_account(url, USDT="1000")
    for shard in shards:
        shard.send_signal(signal.SIGSTOP)
    with refused(-1007, UNKNOWN_STATUS):
        api.order("BTCUSDT", "BUY", "LIMIT", quantity="0.001", price="20000", newClientOrderId="lost")
    for shard in shards:
        shard.send_signal(signal.SIGCONT)
    found = eventually("the order is there all the same", lambda: order_or_none(api, "lost"))
    assert found["status"] == "NEW"


def order_or_none(api: Api, client_order_id: str) -> dict[str, object] | None:
    try:
        answer: dict[str, object] = api.signed(
            "GET", "/api/v3/order", symbol="BTCUSDT", origClientOrderId=client_order_id
        )
    except RefusedError:
        return None
    return answer


def test_a_backlog_is_refused_with_503(processes: Processes) -> None:
    shards = processes.shards()
    url = processes.gateway(REPLY_TIMEOUT_MS="200", BACKLOG_AGE_MS_MAX="100")
    api = new_account(url, USDT="1000")
    for shard in shards:
        shard.send_signal(signal.SIGSTOP)

    def refusal() -> RefusedError | None:
        try:
            api.order("BTCUSDT", "BUY", "LIMIT", quantity="0.001", price="20000")
        except RefusedError as error:
            return error if error.code == -1008 else None
        return None

    error = eventually("the backlog is seen", refusal)
    assert (error.status, error.message) == (503, BUSY)
    for shard in shards:
        shard.send_signal(signal.SIGCONT)

    def accepted() -> bool:
        try:
            api.order("BTCUSDT", "BUY", "LIMIT", quantity="0.001", price="20000")
        except RefusedError:
            return False
        return True

    eventually("orders are taken again", accepted)


def test_limits_are_shared_by_gateways(processes: Processes) -> None:
    processes.shards()
    limited = {"RATE_LIMITS_ENABLED": "true", "ORDERS_PER_10S": "5", "REQUEST_WEIGHT_PER_MINUTE": "100000"}
    one, other = processes.gateway(**limited), processes.gateway(**limited)
    api = new_account(one, USDT="1000")
    elsewhere = Api(other, api.key, api.secret)

    def is_limited() -> RefusedError | None:
        for each in (api, elsewhere):
            try:
                each.order("BTCUSDT", "BUY", "LIMIT", quantity="0.001", price="20000")
            except RefusedError as error:
                return error
        return None

    error = eventually("the limit is reached", is_limited)
    assert (error.status, error.code) == (429, -1015)

    def is_limited_elsewhere() -> bool:
        is_limited()  # the ten seconds may have ended meanwhile
        counts = elsewhere.signed("GET", "/api/v3/rateLimit/order")
        return bool(counts[0]["count"] >= 5)

    eventually("the other gateway knows", is_limited_elsewhere)
    answer = api.http.get("/api/v3/ping")
    assert int(answer.headers["X-MBX-USED-WEIGHT-1M"]) > 0


@pytest.mark.parametrize("groups", ["market-data", "orders"])
def test_a_gateway_mounts_what_it_is_told(processes: Processes, groups: str) -> None:
    url = processes.gateway(FUNCTIONS=groups)
    assert httpx.get(f"{url}/api/v3/time").status_code == (200 if groups == "market-data" else 404)
    assert httpx.get(f"{url}/api/v3/openOrders").status_code == (404 if groups == "market-data" else 401)


def test_a_closed_order_is_found_before_the_database_has_it(url: str) -> None:
    alice = new_account(url, USDT="1000")  # nobody ingests here
    order = {"quantity": "0.001", "price": "20000", "timeInForce": "IOC", "newClientOrderId": "mine"}
    first, second = (alice.order("BTCUSDT", "BUY", "LIMIT", **order) for _ in range(2))
    assert (first["status"], second["status"]) == ("EXPIRED", "EXPIRED")
    assert first["orderId"] != second["orderId"], "the id is free again as soon as its order is closed"
    for wanted, names in (
        (first, {"orderId": first["orderId"]}),
        (second, {"orderId": second["orderId"]}),
        (second, {"origClientOrderId": "mine"}),
        (first, {"orderId": first["orderId"], "origClientOrderId": "mine"}),
    ):
        found = alice.signed("GET", "/api/v3/order", symbol="BTCUSDT", **names)
        assert (found["orderId"], found["status"]) == (wanted["orderId"], "EXPIRED")


def test_an_order_that_nobody_may_have_is_not_said_not_to_exist(processes: Processes) -> None:
    processes.shards(UNSTORED_ORDERS_MAX="1")
    alice = new_account(processes.gateway(), USDT="1000")
    order = {"quantity": "0.001", "price": "20000", "timeInForce": "IOC"}
    first, second = (
        alice.order("BTCUSDT", "BUY", "LIMIT", **order, newClientOrderId=name) for name in ("a", "b")
    )
    for names in ({"orderId": first["orderId"]}, {"origClientOrderId": "a"}, {"orderId": 987654321}):
        with refused(-1007, UNKNOWN_STATUS):
            alice.signed("GET", "/api/v3/order", symbol="BTCUSDT", **names)
    assert (
        alice.signed("GET", "/api/v3/order", symbol="BTCUSDT", orderId=second["orderId"])["status"]
        == "EXPIRED"
    )


def test_idempotency_keys(url: str) -> None:
    alice, bob = new_account(url, USDT="1000"), new_account(url, USDT="1000")
    order = {"quantity": "0.001", "price": "20000", "timeInForce": "IOC", "idempotencyKey": "my key/1"}
    first = alice.order("BTCUSDT", "BUY", "LIMIT", **order)
    assert first["status"] == "EXPIRED"
    assert alice.order("BTCUSDT", "BUY", "LIMIT", **order) == first
    ack = alice.order("BTCUSDT", "BUY", "LIMIT", **order, newOrderRespType="ACK")
    assert (ack["orderId"], ack["clientOrderId"]) == (first["orderId"], first["clientOrderId"])
    with pytest.raises(RefusedError) as caught:
        alice.order("BTCUSDT", "BUY", "LIMIT", **order | {"quantity": "0.002"})
    assert (caught.value.status, caught.value.code) == (422, -2010)
    assert caught.value.message == "Idempotency key was used with other parameters before."
    assert bob.order("BTCUSDT", "BUY", "LIMIT", **order)["orderId"] != first["orderId"]
    with refused(-2010, "Account has insufficient balance for requested action."):
        alice.order("BTCUSDT", "BUY", "LIMIT", **order | {"quantity": "1", "idempotencyKey": "big"})
    with refused(-2010, "Account has insufficient balance for requested action."):
        alice.order("BTCUSDT", "BUY", "LIMIT", **order | {"quantity": "1", "idempotencyKey": "big"})
    legal = "legal range is '^[ -~]{1,64}$'."
    for wrong in ("ä", "x" * 65, "a\tb"):
        with refused(-1100, f"Illegal characters found in parameter 'idempotencyKey'; {legal}"):
            alice.order("BTCUSDT", "BUY", "LIMIT", **order | {"idempotencyKey": wrong})


def test_the_idempotency_key_may_be_a_header(url: str) -> None:
    with httpx.Client(base_url=url) as http:
        credentials = {"email": "erin@example.com", "password": "correct horse"}
        assert http.post("/api/v1/signup", json=credentials).status_code == 200
        session = {"authorization": f"Bearer {http.post('/api/v1/signin', json=credentials).json()['token']}"}

        def credit(amount: str, **headers: str) -> tuple[int, object]:
            wanted = {"asset": "USDT", "amount": amount}
            answer = http.post("/api/v1/faucet", json=wanted, headers={**session, **headers})
            return answer.status_code, answer.json().get("free", answer.json().get("code"))

        assert credit("5", **{"Idempotency-Key": "one"}) == (200, "5.00000000")
        assert credit("7") == (200, "12.00000000")
        assert credit("5", **{"Idempotency-Key": "one"}) == (200, "5.00000000"), "the first outcome"
        assert credit("6", **{"Idempotency-Key": "one"}) == (422, -2010)
        assert credit("1") == (200, "13.00000000")
        assert credit("1", **{"Idempotency-Key": "x" * 65}) == (400, -1100)


def test_a_key_is_the_same_over_the_websocket_api(processes: Processes) -> None:
    processes.shards()
    alice, edge = new_account(processes.gateway(), USDT="1000"), processes.edge()
    order = {"quantity": "0.001", "price": "20000", "timeInForce": "IOC", "idempotencyKey": "one"}
    first = alice.order("BTCUSDT", "BUY", "LIMIT", **order)
    parameters = {
        "symbol": "BTCUSDT",
        "side": "BUY",
        "type": "LIMIT",
        **order,
        "apiKey": alice.key,
        "timestamp": str(now_ms()),
    }
    payload = "&".join(f"{name}={parameters[name]}" for name in sorted(parameters))
    signed = {**parameters, "signature": signature_of(alice.secret, payload)}
    with connect(f"{edge}/ws-api/v3") as socket:
        socket.send(json.dumps({"id": 1, "method": "order.place", "params": signed}))
        answer = json.loads(socket.recv(10))
    assert (answer["status"], answer["result"]) == (200, first)
