-- allOrders by time: an account may have millions of orders in a market. What it indexes never changes.
CREATE INDEX orders_by_time ON orders (account_id, market, accepted_time, order_id);
