-- Times are milliseconds since 1970. Tables only gain columns with a default, and only new tables
-- come: the version before this one must still be able to work here.

CREATE TABLE store (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    history TEXT NOT NULL,
    began INTEGER NOT NULL,
    disputed INTEGER NOT NULL DEFAULT 0,
    revision INTEGER NOT NULL DEFAULT 0,
    mark TEXT NOT NULL
) STRICT;

-- Histories held by others in a dispute, and those that were ended by an operator.
CREATE TABLE histories (
    history TEXT PRIMARY KEY,
    accepted INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tenants (
    tenant TEXT PRIMARY KEY,
    synchronization TEXT NOT NULL,
    revision INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Kept in the order in which it is listed. One without a digest opens nothing.
CREATE TABLE credentials (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    digest BLOB UNIQUE CHECK (length(digest) = 32),
    status TEXT NOT NULL,
    expires INTEGER,
    revision INTEGER NOT NULL,
    created INTEGER NOT NULL,
    label TEXT NOT NULL,
    hint TEXT,
    origin TEXT NOT NULL,
    created_by TEXT NOT NULL,
    enrolled INTEGER NOT NULL,
    last_used INTEGER,
    successor TEXT,
    PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;

-- Numbers and marks stay for good, texts are thrown away after a time.
CREATE TABLE log (
    revision INTEGER PRIMARY KEY,
    mark TEXT NOT NULL,
    time INTEGER NOT NULL,
    text TEXT
) STRICT;

CREATE INDEX log_texts ON log (time) WHERE text IS NOT NULL;

CREATE TABLE audit (
    number INTEGER PRIMARY KEY,
    revision INTEGER NOT NULL,
    time INTEGER NOT NULL,
    actor TEXT NOT NULL,
    peer TEXT NOT NULL,
    request_id TEXT NOT NULL,
    action TEXT NOT NULL,
    tenant TEXT,
    credential_id TEXT,
    detail TEXT NOT NULL
) STRICT;

CREATE TABLE leases (
    instance TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    applied TEXT,
    max_stale INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tokens (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    digest BLOB NOT NULL CHECK (length(digest) = 32)
) STRICT;
