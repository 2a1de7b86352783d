"""An account's money: balances, fees, statements, the faucet, and the wallet endpoints that libraries use."""
