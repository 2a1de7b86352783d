"""Signatures, against the example of the specification."""

from client.signing import signature, signed_parameters, signed_query

SECRET = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j"
API_KEY = "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A"
ORDER: dict[str, str | int] = {
    "symbol": "LTCBTC",
    "side": "BUY",
    "type": "LIMIT",
    "timeInForce": "GTC",
    "quantity": "1",
    "price": "0.1",
    "recvWindow": 5000,
}
NOW_MS = 1499827319559
QUERY = (
    "symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1"
    "&recvWindow=5000&timestamp=1499827319559"
)
SIGNATURE = "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71"


def test_a_query_is_signed_as_in_the_specification() -> None:
    assert signature(SECRET, QUERY) == signature(SECRET.encode(), QUERY.encode()) == SIGNATURE
    assert signed_query(SECRET, ORDER, NOW_MS) == f"{QUERY}&signature={SIGNATURE}"


def test_parameters_of_the_websocket_api_are_signed_in_their_order() -> None:
    signed = signed_parameters(API_KEY, SECRET, {"symbol": "BTCUSDT", "side": "SELL"}, 1645423376532)
    payload = f"apiKey={API_KEY}&side=SELL&symbol=BTCUSDT&timestamp=1645423376532"
    assert signed == {
        "symbol": "BTCUSDT",
        "side": "SELL",
        "apiKey": API_KEY,
        "timestamp": 1645423376532,
        "signature": signature(SECRET, payload),
    }
