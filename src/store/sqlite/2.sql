
-- Of signed requests, by the hash of key and nonce, for as long as one could come again.
CREATE TABLE nonces (
    nonce BLOB PRIMARY KEY CHECK (length(nonce) = 32),
    until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX nonces_until ON nonces (until);
