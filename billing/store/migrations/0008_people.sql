-- Who acts for a party. A user of a closed party is erased: its row stays without name and address.
CREATE TABLE user (
  user_no INTEGER PRIMARY KEY,
  user_id BLOB NOT NULL UNIQUE CHECK (length(user_id) = 16),
  party_no INTEGER NOT NULL REFERENCES party,
  email TEXT NOT NULL,
  name TEXT NOT NULL,
  role INTEGER NOT NULL CHECK (role BETWEEN 1 AND 5),                 -- v1.UserRole
  token_id TEXT NOT NULL UNIQUE,
  secret_hmac BLOB NOT NULL CHECK (length(secret_hmac) = 32),
  created_us INTEGER NOT NULL,
  disabled_us INTEGER NOT NULL                                        -- 0: not disabled
) STRICT;
CREATE UNIQUE INDEX user_by_email ON user (party_no, email) WHERE disabled_us = 0;

-- Offers; what they offer never changes.
CREATE TABLE quote (
  quote_no INTEGER PRIMARY KEY,
  number TEXT NOT NULL UNIQUE,              -- Q-2026-000007
  seller_no INTEGER NOT NULL REFERENCES party,
  buyer_name TEXT NOT NULL,                 -- a party's, perhaps one that does not exist yet
  content BLOB NOT NULL,                    -- gantry.v1.Quote as drafted
  state INTEGER NOT NULL CHECK (state BETWEEN 1 AND 4),               -- v1.QuoteState
  drafted_us INTEGER NOT NULL,
  open_until_us INTEGER NOT NULL,           -- exclusive
  sent_us INTEGER NOT NULL DEFAULT 0,
  ended_us INTEGER NOT NULL DEFAULT 0,      -- accepted or withdrawn
  accepted_by TEXT NOT NULL DEFAULT '',
  version_no INTEGER REFERENCES plan_version,
  CHECK ((state = 3) = (version_no IS NOT NULL))
) STRICT;
CREATE INDEX quote_by_seller ON quote (seller_no);
CREATE TRIGGER quote_content_immutable BEFORE UPDATE OF number, seller_no, buyer_name, content, drafted_us, open_until_us
ON quote BEGIN SELECT RAISE(ABORT, 'what a quote offers is immutable'); END;
CREATE TRIGGER quote_kept BEFORE DELETE ON quote BEGIN SELECT RAISE(ABORT, 'quotes are kept'); END;

-- What is rare among transfers, by account: what came in (a query names `kind <= 2`), and all but usage (`kind > 3`).
CREATE INDEX transfer_paid_in ON transfer (credit_account) WHERE kind <= 2;
CREATE INDEX transfer_unusual_by_debit ON transfer (debit_account) WHERE kind > 3;
CREATE INDEX transfer_unusual_by_credit ON transfer (credit_account) WHERE kind > 3;

-- ---- parties that end ----
CREATE TABLE closing (
  party_no INTEGER PRIMARY KEY REFERENCES party,
  leftover INTEGER NOT NULL CHECK (leftover IN (1, 2)),               -- v1.Leftover
  requested_us INTEGER NOT NULL,
  waits_for TEXT NOT NULL,
  done_us INTEGER NOT NULL DEFAULT 0,
  refunded_micro INTEGER NOT NULL DEFAULT 0,
  kept_micro INTEGER NOT NULL DEFAULT 0,
  name_hash BLOB NOT NULL                   -- SHA-256 of the name it had: to answer who still knows it
) STRICT;
CREATE INDEX closing_open ON closing (party_no) WHERE done_us = 0;

-- Who a closed party was is forgotten; its invoices, which are kept by law, name it still.
DROP TRIGGER billing_profile_kept;
CREATE TRIGGER billing_profile_kept BEFORE DELETE ON billing_profile
WHEN (SELECT status FROM party WHERE party_no = OLD.party_no) <> 3
BEGIN SELECT RAISE(ABORT, 'profile versions are kept'); END;
