-- What parties are told: written in the transaction of what it tells, delivered at least once (R17).
CREATE TABLE outbox_endpoint (
  endpoint_id BLOB PRIMARY KEY CHECK (length(endpoint_id) = 16),
  party_id BLOB NOT NULL CHECK (length(party_id) = 16),
  target TEXT NOT NULL,                     -- https://… or mailto:…
  topics TEXT NOT NULL,                     -- globs, one a line; empty: all
  secret_number INTEGER NOT NULL CHECK (secret_number >= 1),  -- the secret is derived from it (billing/outbox/signature.h)
  previous_until_us INTEGER NOT NULL,       -- the secret before signs too until then; 0: no more
  created_us INTEGER NOT NULL,
  UNIQUE (party_id, target)
) STRICT, WITHOUT ROWID;

-- One row per message and endpoint. A message of a party without endpoints has one row that goes nowhere.
CREATE TABLE outbox (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  message_id BLOB NOT NULL CHECK (length(message_id) = 16),
  topic TEXT NOT NULL,
  party_id BLOB NOT NULL CHECK (length(party_id) = 16),
  endpoint_id BLOB CHECK (endpoint_id IS NULL OR length(endpoint_id) = 16),
  payload TEXT NOT NULL,                    -- JSON
  created_us INTEGER NOT NULL,
  state INTEGER NOT NULL CHECK (state BETWEEN 1 AND 4),       -- v1.OutboxState
  attempts INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),  -- since `since_us`
  since_us INTEGER NOT NULL,                -- when it began to wait: created, or taken up again by hand
  next_us INTEGER NOT NULL,                 -- not tried before
  ended_us INTEGER NOT NULL DEFAULT 0,      -- delivered, parked or addressed to nobody
  last_error TEXT NOT NULL DEFAULT '',
  UNIQUE (message_id, endpoint_id)
) STRICT;
CREATE INDEX outbox_waiting ON outbox (endpoint_id, next_us) WHERE state = 1;
CREATE INDEX outbox_parked ON outbox (seq) WHERE state = 3;
CREATE INDEX outbox_ended ON outbox (ended_us) WHERE state <> 1;

-- How far each alert has risen, so that a crossing is told once.
CREATE TABLE alert_state (
  rule TEXT NOT NULL,
  subject TEXT NOT NULL,
  window TEXT NOT NULL,
  level INTEGER NOT NULL,
  reference_micro INTEGER NOT NULL,
  changed_us INTEGER NOT NULL,
  PRIMARY KEY (rule, subject)
) STRICT, WITHOUT ROWID;
