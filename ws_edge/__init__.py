"""WebSocket servers: market data and account events out, and the WebSocket API."""
