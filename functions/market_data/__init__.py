"""Public market data: depth, trades, candles, tickers, and the rules of the exchange."""
