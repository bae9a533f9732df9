-- Parties, keys, prices, money, usage, invoices, administration.
-- ---- who ----
CREATE TABLE party (
  party_id BLOB PRIMARY KEY CHECK (length(party_id) = 16),
  kind INTEGER NOT NULL CHECK (kind BETWEEN 1 AND 4),
  name TEXT NOT NULL UNIQUE,
  legal_name TEXT NOT NULL,
  currency TEXT NOT NULL CHECK (length(currency) = 3),
  status INTEGER NOT NULL CHECK (status BETWEEN 1 AND 3),
  parent_id BLOB REFERENCES party,
  plan TEXT NOT NULL,                       -- '' for the house
  credit_limit_micro INTEGER NOT NULL CHECK (credit_limit_micro >= 0),
  created_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX one_house ON party (kind) WHERE kind = 1;

CREATE TABLE api_key (
  key_id BLOB PRIMARY KEY CHECK (length(key_id) = 16),
  public_id TEXT NOT NULL UNIQUE,
  secret_hmac BLOB NOT NULL CHECK (length(secret_hmac) = 32),
  party_id BLOB NOT NULL REFERENCES party,
  label TEXT NOT NULL,
  created_us INTEGER NOT NULL,
  expires_us INTEGER NOT NULL,              -- 0: never
  revoked_us INTEGER NOT NULL,              -- 0: not revoked
  scopes TEXT NOT NULL,                     -- lists have one entry a line
  models TEXT NOT NULL,
  cidrs TEXT NOT NULL,
  requests_per_minute INTEGER NOT NULL CHECK (requests_per_minute >= 0),
  tokens_per_minute INTEGER NOT NULL CHECK (tokens_per_minute >= 0),
  concurrency INTEGER NOT NULL CHECK (concurrency >= 0),
  budget_micro INTEGER NOT NULL CHECK (budget_micro >= 0)
) STRICT, WITHOUT ROWID;
CREATE INDEX api_key_party ON api_key (party_id);

-- ---- prices: a published version never changes ----
CREATE TABLE plan_version (
  plan_version_id BLOB PRIMARY KEY CHECK (length(plan_version_id) = 16),
  plan TEXT NOT NULL,
  number INTEGER NOT NULL CHECK (number > 0),
  currency TEXT NOT NULL,
  valid_from_us INTEGER NOT NULL,
  published_us INTEGER NOT NULL,
  hash BLOB NOT NULL CHECK (length(hash) = 32),
  UNIQUE (plan, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE plan_line (
  plan_version_id BLOB NOT NULL REFERENCES plan_version,
  position INTEGER NOT NULL,
  model_glob TEXT NOT NULL,
  token_class INTEGER NOT NULL CHECK (token_class BETWEEN 1 AND 4),
  price_micro_per_m INTEGER NOT NULL CHECK (price_micro_per_m >= 0),
  PRIMARY KEY (plan_version_id, position)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER plan_version_immutable BEFORE UPDATE ON plan_version BEGIN SELECT RAISE(ABORT, 'plan versions are immutable'); END;
CREATE TRIGGER plan_version_kept BEFORE DELETE ON plan_version BEGIN SELECT RAISE(ABORT, 'plan versions are kept'); END;
CREATE TRIGGER plan_line_immutable BEFORE UPDATE ON plan_line BEGIN SELECT RAISE(ABORT, 'plan lines are immutable'); END;
CREATE TRIGGER plan_line_kept BEFORE DELETE ON plan_line BEGIN SELECT RAISE(ABORT, 'plan lines are kept'); END;

-- ---- money ----
CREATE TABLE account (
  account_id INTEGER PRIMARY KEY,
  party_id BLOB NOT NULL REFERENCES party,
  type TEXT NOT NULL CHECK (type IN ('prepaid', 'cash', 'revenue', 'late_unheld')),
  currency TEXT NOT NULL,
  debit_micro INTEGER NOT NULL DEFAULT 0 CHECK (debit_micro >= 0),
  credit_micro INTEGER NOT NULL DEFAULT 0 CHECK (credit_micro >= 0),
  held_micro INTEGER NOT NULL DEFAULT 0 CHECK (held_micro >= 0),        -- open slices and pending holds
  residue_pico INTEGER NOT NULL DEFAULT 0 CHECK (residue_pico BETWEEN 0 AND 999999),  -- used, not yet a whole micro-unit
  UNIQUE (party_id, type, currency)
) STRICT;

CREATE TABLE transfer (
  seq INTEGER PRIMARY KEY,
  transfer_id BLOB NOT NULL UNIQUE CHECK (length(transfer_id) = 16),
  debit_account INTEGER NOT NULL REFERENCES account,
  credit_account INTEGER NOT NULL REFERENCES account,
  amount_micro INTEGER NOT NULL CHECK (amount_micro > 0),
  currency TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('top_up', 'usage')),
  source_id BLOB NOT NULL CHECK (length(source_id) = 16),   -- usage: its record
  reference TEXT NOT NULL,
  booked_us INTEGER NOT NULL,
  hash BLOB NOT NULL CHECK (length(hash) = 32),
  CHECK (debit_account <> credit_account)
) STRICT;
CREATE INDEX transfer_by_source ON transfer (source_id);
CREATE INDEX transfer_by_debit ON transfer (debit_account);
CREATE INDEX transfer_by_credit ON transfer (credit_account);
CREATE TRIGGER transfer_immutable BEFORE UPDATE ON transfer BEGIN SELECT RAISE(ABORT, 'transfers are immutable'); END;
CREATE TRIGGER transfer_kept BEFORE DELETE ON transfer BEGIN SELECT RAISE(ABORT, 'transfers are kept'); END;

-- ---- credit ----
CREATE TABLE gateway (
  gateway_id BLOB PRIMARY KEY CHECK (length(gateway_id) = 16),
  epoch INTEGER NOT NULL,                   -- the newest seen; older ones are fenced
  since_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE slice (
  slice_id BLOB PRIMARY KEY CHECK (length(slice_id) = 16),
  party_id BLOB NOT NULL,                   -- all zero: closed before it was ever granted
  gateway_id BLOB NOT NULL,
  gateway_epoch INTEGER NOT NULL,
  wanted_micro INTEGER NOT NULL,
  minimum_micro INTEGER NOT NULL,
  granted_micro INTEGER NOT NULL CHECK (granted_micro >= 0),
  spent_micro INTEGER NOT NULL DEFAULT 0 CHECK (spent_micro >= 0),
  returned_micro INTEGER NOT NULL DEFAULT 0 CHECK (returned_micro >= 0),
  open INTEGER NOT NULL CHECK (open IN (0, 1)),
  granted_us INTEGER NOT NULL,
  CHECK (spent_micro + returned_micro <= granted_micro)
) STRICT, WITHOUT ROWID;
CREATE INDEX slice_open ON slice (gateway_id, gateway_epoch) WHERE open = 1;

CREATE TABLE hold (
  hold_id BLOB PRIMARY KEY CHECK (length(hold_id) = 16),
  party_id BLOB NOT NULL REFERENCES party,
  gateway_id BLOB NOT NULL,
  gateway_epoch INTEGER NOT NULL,
  key_id BLOB NOT NULL,
  request_id BLOB NOT NULL,
  plan_version_id BLOB NOT NULL,
  first_micro INTEGER NOT NULL CHECK (first_micro > 0),
  held_micro INTEGER NOT NULL CHECK (held_micro > 0),
  settled_micro INTEGER NOT NULL DEFAULT 0 CHECK (settled_micro BETWEEN 0 AND held_micro),
  extensions INTEGER NOT NULL DEFAULT 0,
  last_extension_micro INTEGER NOT NULL DEFAULT 0,
  state INTEGER NOT NULL CHECK (state BETWEEN 1 AND 4),   -- v1.HoldState
  granted_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX hold_pending ON hold (party_id) WHERE state = 1;

-- ---- usage: witness 1, witness 2, and what came of their meeting ----
CREATE TABLE usage_event (
  seq INTEGER PRIMARY KEY,
  record_id BLOB NOT NULL UNIQUE CHECK (length(record_id) = 16),
  request_id BLOB NOT NULL UNIQUE CHECK (length(request_id) = 16),
  party_id BLOB NOT NULL REFERENCES party,
  key_id BLOB NOT NULL,
  hold_id BLOB NOT NULL,
  slice_id BLOB NOT NULL,
  model TEXT NOT NULL,
  plan_version_id BLOB NOT NULL REFERENCES plan_version,
  outcome INTEGER NOT NULL CHECK (outcome BETWEEN 1 AND 5),
  prompt_tokens INTEGER NOT NULL CHECK (prompt_tokens >= 0),
  cached_tokens INTEGER NOT NULL CHECK (cached_tokens BETWEEN 0 AND prompt_tokens),
  output_tokens INTEGER NOT NULL CHECK (output_tokens >= 0),
  reasoning_tokens INTEGER NOT NULL CHECK (reasoning_tokens BETWEEN 0 AND output_tokens),
  requests INTEGER NOT NULL CHECK (requests IN (0, 1)),   -- 0: nothing was delivered, nothing is billed
  amount_pico INTEGER NOT NULL CHECK (amount_pico >= 0),
  witnesses INTEGER NOT NULL CHECK (witnesses >= 0),      -- records of witness 2 that must come
  ended_us INTEGER NOT NULL,
  received_us INTEGER NOT NULL,
  period TEXT NOT NULL,                                   -- 'YYYY-MM' whose invoice it stands on
  duration_ms INTEGER NOT NULL,
  first_token_ms INTEGER NOT NULL,
  payload_hash BLOB NOT NULL CHECK (length(payload_hash) = 32),
  hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;
CREATE INDEX usage_by_party ON usage_event (party_id, ended_us);
CREATE INDEX usage_by_period ON usage_event (party_id, period);
CREATE TRIGGER usage_immutable BEFORE UPDATE ON usage_event BEGIN SELECT RAISE(ABORT, 'usage is immutable'); END;
CREATE TRIGGER usage_kept BEFORE DELETE ON usage_event BEGIN SELECT RAISE(ABORT, 'usage is kept'); END;

CREATE TABLE witness (
  seq INTEGER PRIMARY KEY,
  record_id BLOB NOT NULL UNIQUE CHECK (length(record_id) = 16),
  request_id BLOB NOT NULL CHECK (length(request_id) = 16),
  worker_id BLOB NOT NULL,
  attempt INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  from_index INTEGER NOT NULL CHECK (from_index >= 0),
  to_index INTEGER NOT NULL CHECK (to_index >= from_index),
  prompt_tokens INTEGER NOT NULL,
  cached_tokens INTEGER NOT NULL,
  finish_reason INTEGER NOT NULL,
  model TEXT NOT NULL,
  ended_us INTEGER NOT NULL,
  received_us INTEGER NOT NULL,
  payload_hash BLOB NOT NULL CHECK (length(payload_hash) = 32)
) STRICT;
CREATE INDEX witness_by_request ON witness (request_id, sequence, attempt, from_index);
CREATE TRIGGER witness_immutable BEFORE UPDATE ON witness BEGIN SELECT RAISE(ABORT, 'witness records are immutable'); END;
CREATE TRIGGER witness_kept BEFORE DELETE ON witness BEGIN SELECT RAISE(ABORT, 'witness records are kept'); END;

CREATE TABLE witness_match (
  request_id BLOB PRIMARY KEY CHECK (length(request_id) = 16),
  state TEXT NOT NULL CHECK (state IN ('waiting', 'agreed', 'w1_only', 'w2_only', 'quarantined')),
  detail TEXT NOT NULL,
  since_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX witness_match_unsettled ON witness_match (state, since_us) WHERE state <> 'agreed';

-- ---- invoices ----
CREATE TABLE invoice (
  party_id BLOB NOT NULL REFERENCES party,
  period TEXT NOT NULL,
  series TEXT NOT NULL,
  number INTEGER NOT NULL,
  content BLOB NOT NULL,                    -- gantry.v1.Invoice as issued
  hash BLOB NOT NULL CHECK (length(hash) = 32),
  issued_us INTEGER NOT NULL,
  PRIMARY KEY (party_id, period),
  UNIQUE (series, number)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER invoice_immutable BEFORE UPDATE ON invoice BEGIN SELECT RAISE(ABORT, 'final invoices are immutable'); END;
CREATE TRIGGER invoice_kept BEFORE DELETE ON invoice BEGIN SELECT RAISE(ABORT, 'final invoices are kept'); END;

-- ---- administration ----
CREATE TABLE idempotency (
  key TEXT PRIMARY KEY,
  method TEXT NOT NULL,
  request_hash BLOB NOT NULL,
  response BLOB NOT NULL,
  at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE audit_log (
  seq INTEGER PRIMARY KEY,
  at_us INTEGER NOT NULL,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  object TEXT NOT NULL,
  detail TEXT NOT NULL,
  hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;
CREATE TRIGGER audit_log_immutable BEFORE UPDATE ON audit_log BEGIN SELECT RAISE(ABORT, 'the audit log is immutable'); END;
CREATE TRIGGER audit_log_kept BEFORE DELETE ON audit_log BEGIN SELECT RAISE(ABORT, 'the audit log is kept'); END;
