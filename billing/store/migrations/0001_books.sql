-- Parties, keys, prices, money, usage, invoices, administration.
--
-- What travels outside has an id of 16 bytes; inside, rows refer to each other by small integers (`…_no`): a usage row and
-- its postings fit in a few hundred bytes. Append-only tables are guarded by triggers; usage, transfers and the audit log
-- carry hash chains besides.
PRAGMA application_id = 0x474e5459;  -- GNTY

-- ---- who: a tree of at most four levels, the house at its root ----
CREATE TABLE party (
  party_no INTEGER PRIMARY KEY,
  party_id BLOB NOT NULL UNIQUE CHECK (length(party_id) = 16),
  kind INTEGER NOT NULL CHECK (kind BETWEEN 1 AND 4),                 -- v1.PartyKind
  name TEXT NOT NULL UNIQUE,
  legal_name TEXT NOT NULL,
  currency TEXT NOT NULL CHECK (length(currency) = 3),                -- one in a whole tree below the house
  status INTEGER NOT NULL CHECK (status BETWEEN 1 AND 3),             -- v1.PartyStatus
  parent_no INTEGER REFERENCES party,                                 -- who sells to it; null: the house
  depth INTEGER NOT NULL CHECK (depth BETWEEN 0 AND 3),
  credit_limit_micro INTEGER NOT NULL CHECK (credit_limit_micro >= 0),
  time_zone TEXT NOT NULL,                                            -- IANA name: where its months begin
  created_us INTEGER NOT NULL,
  CHECK ((kind = 1) = (depth = 0) AND (parent_no IS NULL) = (depth = 0))
) STRICT;
CREATE UNIQUE INDEX one_house ON party (kind) WHERE kind = 1;
CREATE INDEX party_by_parent ON party (parent_no);

CREATE TABLE api_key (
  key_no INTEGER PRIMARY KEY,
  key_id BLOB NOT NULL UNIQUE CHECK (length(key_id) = 16),
  public_id TEXT NOT NULL UNIQUE,
  secret_hmac BLOB NOT NULL CHECK (length(secret_hmac) = 32),
  party_no INTEGER NOT NULL REFERENCES party,
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
) STRICT;
CREATE INDEX api_key_by_party ON api_key (party_no);

-- ---- prices: a published version never changes ----
CREATE TABLE plan (
  plan_no INTEGER PRIMARY KEY,
  seller_no INTEGER NOT NULL REFERENCES party,
  name TEXT NOT NULL,
  currency TEXT NOT NULL,
  UNIQUE (seller_no, name)
) STRICT;
CREATE TABLE plan_version (
  version_no INTEGER PRIMARY KEY,
  plan_version_id BLOB NOT NULL UNIQUE CHECK (length(plan_version_id) = 16),
  plan_no INTEGER NOT NULL REFERENCES plan,
  number INTEGER NOT NULL CHECK (number > 0),
  valid_from_us INTEGER NOT NULL,
  promise_until_us INTEGER NOT NULL,        -- no dearer version takes effect before; 0: no promise
  commitment_micro INTEGER NOT NULL CHECK (commitment_micro >= 0),  -- least charge of a period
  allowance_micro INTEGER NOT NULL CHECK (allowance_micro >= 0),    -- free in a period
  published_us INTEGER NOT NULL,
  hash BLOB NOT NULL CHECK (length(hash) = 32),
  UNIQUE (plan_no, number)
) STRICT;
CREATE TABLE plan_line (
  version_no INTEGER NOT NULL REFERENCES plan_version,
  position INTEGER NOT NULL,
  model_glob TEXT NOT NULL,
  token_class INTEGER NOT NULL CHECK (token_class BETWEEN 1 AND 4),   -- v1.TokenClass
  context_from INTEGER NOT NULL CHECK (context_from >= 0),
  context_to INTEGER NOT NULL CHECK (context_to >= 0),                -- 0: no end
  mode INTEGER NOT NULL CHECK (mode BETWEEN 1 AND 4),                 -- v1.TierMode
  package_size INTEGER NOT NULL CHECK (package_size >= 0),
  PRIMARY KEY (version_no, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE plan_tier (
  version_no INTEGER NOT NULL,
  position INTEGER NOT NULL,
  from_units INTEGER NOT NULL CHECK (from_units >= 0),
  price_micro_per_m INTEGER NOT NULL CHECK (price_micro_per_m >= 0),
  PRIMARY KEY (version_no, position, from_units),
  FOREIGN KEY (version_no, position) REFERENCES plan_line
) STRICT, WITHOUT ROWID;
CREATE TRIGGER plan_version_immutable BEFORE UPDATE ON plan_version BEGIN SELECT RAISE(ABORT, 'plan versions are immutable'); END;
CREATE TRIGGER plan_version_kept BEFORE DELETE ON plan_version BEGIN SELECT RAISE(ABORT, 'plan versions are kept'); END;
CREATE TRIGGER plan_line_immutable BEFORE UPDATE ON plan_line BEGIN SELECT RAISE(ABORT, 'plan lines are immutable'); END;
CREATE TRIGGER plan_line_kept BEFORE DELETE ON plan_line BEGIN SELECT RAISE(ABORT, 'plan lines are kept'); END;
CREATE TRIGGER plan_tier_immutable BEFORE UPDATE ON plan_tier BEGIN SELECT RAISE(ABORT, 'plan tiers are immutable'); END;
CREATE TRIGGER plan_tier_kept BEFORE DELETE ON plan_tier BEGIN SELECT RAISE(ABORT, 'plan tiers are kept'); END;

-- Which plan of its parent prices a party, from when on.
CREATE TABLE subscription (
  party_no INTEGER NOT NULL REFERENCES party,
  from_us INTEGER NOT NULL,
  plan_no INTEGER NOT NULL REFERENCES plan,
  PRIMARY KEY (party_no, from_us)
) STRICT, WITHOUT ROWID;

-- The months of a party in its time zone, computed once and stored (R11).
CREATE TABLE billing_period (
  party_no INTEGER NOT NULL REFERENCES party,
  period INTEGER NOT NULL,                  -- 202611
  from_us INTEGER NOT NULL,
  to_us INTEGER NOT NULL CHECK (to_us > from_us),
  time_zone TEXT NOT NULL,
  tzdata TEXT NOT NULL,                     -- version that the boundaries were computed with
  closed INTEGER NOT NULL DEFAULT 0 CHECK (closed IN (0, 1)),         -- its invoice is final: what is late goes on
  PRIMARY KEY (party_no, period)
) STRICT, WITHOUT ROWID;

-- ---- money ----
CREATE TABLE account (
  account_no INTEGER PRIMARY KEY,
  party_no INTEGER NOT NULL REFERENCES party,
  type TEXT NOT NULL CHECK (type IN ('customer', 'cash', 'revenue', 'promotion', 'breakage', 'late_unheld', 'unbilled_loss')),
  currency TEXT NOT NULL,
  debit_micro INTEGER NOT NULL DEFAULT 0 CHECK (debit_micro >= 0),
  credit_micro INTEGER NOT NULL DEFAULT 0 CHECK (credit_micro >= 0),
  held_micro INTEGER NOT NULL DEFAULT 0 CHECK (held_micro >= 0),      -- open slices and pending holds
  residue_pico INTEGER NOT NULL DEFAULT 0 CHECK (residue_pico BETWEEN -999999 AND 999999),  -- used, not yet a whole micro-unit
  UNIQUE (party_no, type, currency)
) STRICT;

CREATE TABLE transfer (
  seq INTEGER PRIMARY KEY,
  debit_account INTEGER NOT NULL REFERENCES account,
  credit_account INTEGER NOT NULL REFERENCES account,
  amount_micro INTEGER NOT NULL CHECK (amount_micro > 0),
  kind INTEGER NOT NULL CHECK (kind BETWEEN 1 AND 7),                 -- TransferKind
  source INTEGER NOT NULL,                  -- usage: seq of its event; expiry: its lot; else 0
  reference TEXT NOT NULL,
  booked_us INTEGER NOT NULL,
  hash BLOB NOT NULL CHECK (length(hash) = 32),
  CHECK (debit_account <> credit_account)
) STRICT;
CREATE INDEX transfer_by_debit ON transfer (debit_account);
CREATE INDEX transfer_by_credit ON transfer (credit_account);
CREATE TRIGGER transfer_immutable BEFORE UPDATE ON transfer BEGIN SELECT RAISE(ABORT, 'transfers are immutable'); END;
CREATE TRIGGER transfer_kept BEFORE DELETE ON transfer BEGIN SELECT RAISE(ABORT, 'transfers are kept'); END;

-- What a customer's balance is made of; the rest of all lots of an account = its balance, or 0 when that is negative.
CREATE TABLE credit_lot (
  lot_no INTEGER PRIMARY KEY,
  account_no INTEGER NOT NULL REFERENCES account,
  kind INTEGER NOT NULL CHECK (kind IN (1, 2)),                       -- LotKind: promotional, bought
  priority INTEGER NOT NULL,                -- smaller ones are used first
  amount_micro INTEGER NOT NULL CHECK (amount_micro > 0),
  left_micro INTEGER NOT NULL CHECK (left_micro BETWEEN 0 AND amount_micro),
  granted_us INTEGER NOT NULL,
  expires_us INTEGER NOT NULL,              -- 9223372036854775807: never
  transfer_seq INTEGER NOT NULL REFERENCES transfer
) STRICT;
CREATE INDEX credit_lot_in_order ON credit_lot (account_no, priority, expires_us, kind, lot_no) WHERE left_micro > 0;
CREATE INDEX credit_lot_expiring ON credit_lot (expires_us) WHERE left_micro > 0;

-- ---- credit ----
CREATE TABLE gateway (
  gateway_no INTEGER PRIMARY KEY,
  gateway_id BLOB NOT NULL UNIQUE CHECK (length(gateway_id) = 16),
  epoch INTEGER NOT NULL,                   -- the newest seen; older ones are fenced
  since_us INTEGER NOT NULL
) STRICT;

CREATE TABLE slice (
  slice_id BLOB PRIMARY KEY CHECK (length(slice_id) = 16),
  party_no INTEGER NOT NULL,                -- 0: closed before it was ever granted
  gateway_no INTEGER NOT NULL,
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
CREATE INDEX slice_open ON slice (gateway_no, gateway_epoch) WHERE open = 1;
CREATE INDEX slice_open_by_party ON slice (party_no) WHERE open = 1;

CREATE TABLE hold (
  hold_id BLOB PRIMARY KEY CHECK (length(hold_id) = 16),
  party_no INTEGER NOT NULL REFERENCES party,
  gateway_no INTEGER NOT NULL REFERENCES gateway,
  gateway_epoch INTEGER NOT NULL,
  request_id BLOB NOT NULL,
  first_micro INTEGER NOT NULL CHECK (first_micro > 0),
  held_micro INTEGER NOT NULL CHECK (held_micro > 0),
  settled_micro INTEGER NOT NULL DEFAULT 0 CHECK (settled_micro BETWEEN 0 AND held_micro),
  extensions INTEGER NOT NULL DEFAULT 0,
  last_extension_micro INTEGER NOT NULL DEFAULT 0,
  state INTEGER NOT NULL CHECK (state BETWEEN 1 AND 4),               -- v1.HoldState
  granted_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX hold_pending ON hold (party_no) WHERE state = 1;

-- What the same slice or hold has set aside of each reseller above the tenant.
CREATE TABLE credit_hop (
  credit_id BLOB NOT NULL,                  -- slice_id or hold_id
  party_no INTEGER NOT NULL REFERENCES party,
  granted_micro INTEGER NOT NULL CHECK (granted_micro >= 0),
  spent_micro INTEGER NOT NULL DEFAULT 0 CHECK (spent_micro >= 0),
  returned_micro INTEGER NOT NULL DEFAULT 0 CHECK (returned_micro >= 0),
  open INTEGER NOT NULL CHECK (open IN (0, 1)),
  PRIMARY KEY (credit_id, party_no),
  CHECK (spent_micro + returned_micro <= granted_micro)
) STRICT, WITHOUT ROWID;
CREATE INDEX credit_hop_open ON credit_hop (party_no) WHERE open = 1;

-- ---- usage: witness 1, witness 2, and what came of their meeting ----
CREATE TABLE model (model_no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;

CREATE TABLE usage_event (
  seq INTEGER PRIMARY KEY,
  record_id BLOB NOT NULL CHECK (length(record_id) = 16),
  request_id BLOB NOT NULL CHECK (length(request_id) = 16),
  revision INTEGER NOT NULL CHECK (revision >= 0),                    -- 0: the first of its request; later ones correct it
  party_no INTEGER NOT NULL REFERENCES party,
  key_no INTEGER NOT NULL,                  -- 0: not a key of ours
  model_no INTEGER NOT NULL REFERENCES model,
  outcome INTEGER NOT NULL CHECK (outcome BETWEEN 1 AND 7),           -- v1.UsageOutcome; 7: counts are differences
  prompt_tokens INTEGER NOT NULL,
  cached_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  reasoning_tokens INTEGER NOT NULL,
  requests INTEGER NOT NULL CHECK (requests BETWEEN 0 AND 1),         -- 0: nothing was delivered, nothing is billed
  witnesses INTEGER NOT NULL CHECK (witnesses >= 0),                  -- records of witness 2 that must come
  ended_us INTEGER NOT NULL,
  received_us INTEGER NOT NULL,
  duration_ms INTEGER NOT NULL,
  first_token_ms INTEGER NOT NULL,
  drafted_tokens INTEGER NOT NULL,
  accepted_tokens INTEGER NOT NULL,
  device_us INTEGER NOT NULL,
  hash BLOB NOT NULL CHECK (length(hash) = 32),
  CHECK (outcome = 7 OR (prompt_tokens >= 0 AND cached_tokens BETWEEN 0 AND prompt_tokens AND output_tokens >= 0
                         AND reasoning_tokens BETWEEN 0 AND output_tokens))
) STRICT;
CREATE UNIQUE INDEX usage_by_request ON usage_event (request_id, revision);
CREATE INDEX usage_by_party ON usage_event (party_no, ended_us);
CREATE TRIGGER usage_immutable BEFORE UPDATE ON usage_event BEGIN SELECT RAISE(ABORT, 'usage is immutable'); END;
CREATE TRIGGER usage_kept BEFORE DELETE ON usage_event BEGIN SELECT RAISE(ABORT, 'usage is kept'); END;

-- The same usage at the price of each hop: level 0 is what the tenant pays, the last what the house gets.
CREATE TABLE rating (
  event_seq INTEGER NOT NULL REFERENCES usage_event,
  level INTEGER NOT NULL,
  buyer_no INTEGER NOT NULL REFERENCES party,
  seller_no INTEGER NOT NULL REFERENCES party,
  version_no INTEGER NOT NULL REFERENCES plan_version,
  period INTEGER NOT NULL,                  -- the buyer's, whose invoice it stands on
  amount_pico INTEGER NOT NULL,             -- beyond the allowance
  PRIMARY KEY (event_seq, level)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER rating_immutable BEFORE UPDATE ON rating BEGIN SELECT RAISE(ABORT, 'ratings are immutable'); END;
CREATE TRIGGER rating_kept BEFORE DELETE ON rating BEGIN SELECT RAISE(ABORT, 'ratings are kept'); END;

-- Sums of ratings, by which invoices are written and tiers counted. Derived: audits rebuild them.
CREATE TABLE usage_rollup (
  buyer_no INTEGER NOT NULL REFERENCES party,
  period INTEGER NOT NULL,
  version_no INTEGER NOT NULL REFERENCES plan_version,
  position INTEGER NOT NULL,                -- the line of the version
  model_no INTEGER NOT NULL REFERENCES model,
  quantity INTEGER NOT NULL,
  amount_units INTEGER NOT NULL,            -- before any allowance: units x 10^12 + pico
  amount_pico INTEGER NOT NULL CHECK (amount_pico BETWEEN 0 AND 999999999999),
  PRIMARY KEY (buyer_no, period, version_no, position, model_no)
) STRICT, WITHOUT ROWID;

CREATE TABLE worker (worker_no INTEGER PRIMARY KEY, worker_id BLOB NOT NULL UNIQUE) STRICT;

CREATE TABLE witness (
  seq INTEGER PRIMARY KEY,
  record_id BLOB NOT NULL CHECK (length(record_id) = 16),             -- one per request, attempt and sequence
  request_id BLOB NOT NULL CHECK (length(request_id) = 16),
  party_no INTEGER NOT NULL,                -- 0: the worker did not say, or nobody of ours
  worker_no INTEGER NOT NULL REFERENCES worker,
  attempt INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  from_index INTEGER NOT NULL CHECK (from_index >= 0),
  to_index INTEGER NOT NULL CHECK (to_index >= from_index),
  prompt_tokens INTEGER NOT NULL,
  cached_tokens INTEGER NOT NULL,
  recomputed_tokens INTEGER NOT NULL,
  finish_reason INTEGER NOT NULL,
  model_no INTEGER NOT NULL REFERENCES model,
  ended_us INTEGER NOT NULL
) STRICT;
CREATE INDEX witness_by_request ON witness (request_id);
CREATE TRIGGER witness_immutable BEFORE UPDATE ON witness BEGIN SELECT RAISE(ABORT, 'witness records are immutable'); END;
CREATE TRIGGER witness_kept BEFORE DELETE ON witness BEGIN SELECT RAISE(ABORT, 'witness records are kept'); END;

-- Requests whose witnesses have not met in agreement. No row: they have.
CREATE TABLE unmatched (
  request_id BLOB PRIMARY KEY CHECK (length(request_id) = 16),
  state TEXT NOT NULL CHECK (state IN ('waiting', 'w1_only', 'w2_only', 'quarantined')),
  detail TEXT NOT NULL,
  since_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX unmatched_by_state ON unmatched (state, since_us);

-- Records that could not be booked, as they came: acknowledged as refused, kept to be looked at.
CREATE TABLE refused_record (
  seq INTEGER PRIMARY KEY,
  witness INTEGER NOT NULL CHECK (witness IN (1, 2)),
  record BLOB NOT NULL,                     -- gantry.v1.UsageRecord or WitnessRecord
  reason TEXT NOT NULL,
  received_us INTEGER NOT NULL
) STRICT;

-- ---- invoices ----
CREATE TABLE invoice (
  party_no INTEGER NOT NULL REFERENCES party,
  period INTEGER NOT NULL,
  series TEXT NOT NULL,
  number INTEGER NOT NULL,
  content BLOB NOT NULL,                    -- gantry.v1.Invoice as issued
  hash BLOB NOT NULL CHECK (length(hash) = 32),
  issued_us INTEGER NOT NULL,
  PRIMARY KEY (party_no, period),
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
