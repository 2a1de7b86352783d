"""A small client of the exchange's API: signing, REST requests, new accounts.

Market maker, commands and load generators use it.

`examples/trade_with_own_client.py` trades with it.
"""
