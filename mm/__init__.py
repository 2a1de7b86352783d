"""The market maker: an ordinary client of the public API that keeps the markets liquid."""
