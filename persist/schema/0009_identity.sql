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

ALTER TABLE users
    ADD COLUMN verified_at timestamptz,
    ADD COLUMN totp_secret bytea, -- sealed; set but not `totp_since`: not confirmed yet
    ADD COLUMN totp_since timestamptz,
    ADD COLUMN totp_step bigint NOT NULL DEFAULT 0; -- the newest half minute whose code was used: none is good twice

CREATE TABLE recovery_codes (
    account_id bigint NOT NULL REFERENCES users,
    code_hash text NOT NULL,
    used_at timestamptz,
    PRIMARY KEY (account_id, code_hash)
);

-- What a mail gives its reader: proof of having the address, or the right to choose a new password. Once, and for a while.
CREATE TABLE mail_tokens (
    token_hash text PRIMARY KEY,
    account_id bigint NOT NULL REFERENCES users,
    purpose text NOT NULL CHECK (purpose IN ('verification', 'reset')),
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);

CREATE INDEX mail_tokens_account ON mail_tokens (account_id);

-- Written with what they tell of, sent afterwards (persist/mails.py). A body is emptied when it was sent: it may open an account.
CREATE TABLE mails (
    mail_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id bigint NOT NULL REFERENCES users,
    recipient text NOT NULL,
    subject text NOT NULL,
    body text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    next_try_at timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,
    sent_at timestamptz,
    error text NOT NULL DEFAULT ''
);

CREATE INDEX mails_unsent ON mails (next_try_at) WHERE sent_at IS NULL;
CREATE INDEX mails_account ON mails (account_id, created_at);
