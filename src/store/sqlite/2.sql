
-- Of signed requests, by the hash of key and nonce, for as long as one could come again.
CREATE TABLE nonces (
    nonce BLOB PRIMARY KEY CHECK (length(nonce) = 32),
    until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX nonces_until ON nonces (until);

-- The cloud of a mirrored credential and how it stands there; null for our own. `origin` stays
-- `local`, which is all that the version before this one knows.
ALTER TABLE credentials ADD COLUMN mirrored TEXT;

-- When the last whole read of a mirrored tenant's cloud began.
CREATE TABLE reads (
    tenant TEXT PRIMARY KEY,
    begun INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
