"""What the exchange is deployed with: configurations of other programs, and what is watched."""
