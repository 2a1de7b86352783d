from lab.chaos.watching import LocalBook, MarketWatch, ReportWatch


def update(first: int, last: int, price: str = "1.0", quantity: str = "2.0") -> dict[str, object]:
    return {"e": "depthUpdate", "s": "BTCUSDT", "U": first, "u": last, "b": [[price, quantity]], "a": []}


def test_a_book_waits_for_a_snapshot_that_reaches_back_to_its_first_update() -> None:
    book = LocalBook()
    assert not book.hear(update(5, 6))
    assert not book.hear(update(7, 7, "3.0"))
    assert not book.fill({"lastUpdateId": 3, "bids": [], "asks": []})
    assert book.fill({"lastUpdateId": 6, "bids": [["1.0", "9.0"]], "asks": []})
    assert (book.update_id, book.bids) == (7, {"1.0": "9.0", "3.0": "2.0"})
    assert not book.hear(update(8, 8, "1.0", "0.00000000"))
    assert book.bids == {"3.0": "2.0"}


def test_a_snapshot_that_turns_out_to_be_older_than_the_stream_is_fetched_again() -> None:
    book = LocalBook()
    assert book.fill({"lastUpdateId": 3, "bids": [["4.0", "1.0"]], "asks": []})
    assert not book.hear(update(6, 7, "3.0"))
    assert not book.bids.keys() & {"3.0"}, "it waits for another snapshot"
    assert not book.fill({"lastUpdateId": 4, "bids": [["4.0", "1.0"]], "asks": []})
    assert book.fill({"lastUpdateId": 5, "bids": [], "asks": []})
    assert (book.update_id, book.bids) == (7, {"3.0": "2.0"})


def test_a_missing_update_is_noticed() -> None:
    book = LocalBook()
    book.hear(update(5, 6))
    assert book.hear(update(8, 8)) == "update 8 follows on 6"


def test_a_new_connection_may_begin_later() -> None:
    watch = MarketWatch("subscriber", ["BTCUSDT"])
    for first in (1, 9):
        watch.connected()
        watch.hear({"e": "trade", "s": "BTCUSDT", "t": first, "p": "1", "q": "1", "m": True})
        watch.hear(update(first, first))
    assert not watch.breaches.count
    watch.hear({"e": "trade", "s": "BTCUSDT", "t": 11, "p": "1", "q": "1", "m": True})
    assert watch.breaches.first == ["subscriber: BTCUSDT trade 11 follows on 9"]


def test_reports_of_an_order_must_add_up() -> None:
    watch = ReportWatch("owner")
    watch.connected()
    report = {"e": "executionReport", "T": 1, "i": 7, "x": "NEW", "X": "NEW", "l": "0.0", "z": "0.0", "t": -1}
    watch.hear(1, report)
    watch.hear(1, {**report, "x": "TRADE", "X": "PARTIALLY_FILLED", "l": "0.2", "z": "0.2", "t": 1})
    assert not watch.breaches.count
    watch.hear(1, {**report, "x": "TRADE", "X": "PARTIALLY_FILLED", "l": "0.2", "z": "0.6", "t": 3})
    assert watch.breaches.first == ["owner: order 7: 0.2 and 0.2 do not make 0.6"]
