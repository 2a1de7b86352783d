"""What implements the ports of the functions (functions/api/ports.py), and what every process that serves
functions needs besides.

Redis and the database behind ports, the queue to the shards, who may call and how often.
"""
