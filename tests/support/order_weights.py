"""What an account with too many waiting requests is answered."""

BUSY = "Server is currently overloaded with other requests. Please try again in a few minutes."
