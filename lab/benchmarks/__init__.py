"""What the exchange does per second, measured: `exchange bench`.

Every figure stands beside a reference from the same run.
"""
