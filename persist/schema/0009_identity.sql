-- What an API key may do and from where, sessions that their owner can list and end, and what was done with an account.

ALTER TABLE api_keys
    ADD COLUMN scopes text[] NOT NULL DEFAULT '{read,trade}'
        CHECK (scopes <@ '{read,trade,withdraw}' AND cardinality(scopes) > 0),
    ADD COLUMN networks cidr[] NOT NULL DEFAULT '{}', -- empty: from anywhere
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN last_used_at timestamptz;

CREATE TABLE sessions (
    session_id text PRIMARY KEY,
    account_id bigint NOT NULL REFERENCES users,
    token_hash text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    address text NOT NULL,
    agent text NOT NULL
);

CREATE INDEX sessions_account ON sessions (account_id, created_at);

CREATE TABLE activity (
    activity_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id bigint NOT NULL REFERENCES users,
    time timestamptz NOT NULL DEFAULT now(),
    kind text NOT NULL,
    address text NOT NULL,
    agent text NOT NULL,
    detail text NOT NULL
);

CREATE INDEX activity_account ON activity (account_id, activity_id);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is only ever added to', TG_TABLE_NAME;
END
$$;

CREATE TRIGGER activity_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON activity
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
