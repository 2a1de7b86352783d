-- For dropping what is old (persist/retention.py).
CREATE INDEX trades_by_day ON trades USING brin (time);
CREATE INDEX fills_by_day ON fills USING brin (time);
