"""An account's money: balances, fees, statements, the faucet, and what libraries ask of a wallet."""
