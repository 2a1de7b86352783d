"""An obviously right, slow model of the exchange, and the driver that runs the real engine beside it."""
