-- Signed receipts (R12). The receipts themselves are made from the books when they are asked for; kept is what signs
-- them, what proves them, and where the chain of each buyer stood at each root.
CREATE TABLE receipt_key (
  number INTEGER PRIMARY KEY,               -- from 1; the last is the one that signs now
  key_id TEXT NOT NULL UNIQUE CHECK (length(key_id) = 32),
  public_key BLOB NOT NULL UNIQUE CHECK (length(public_key) = 32),
  first_event_seq INTEGER NOT NULL,         -- signs receipts of events from this one on, up to the next key's first
  created_us INTEGER NOT NULL,
  endorsed_by TEXT NOT NULL REFERENCES receipt_key (key_id),
  endorsement BLOB NOT NULL CHECK (length(endorsement) = 64)
) STRICT;
CREATE TRIGGER receipt_key_immutable BEFORE UPDATE ON receipt_key BEGIN SELECT RAISE(ABORT, 'receipt keys are immutable'); END;
CREATE TRIGGER receipt_key_kept BEFORE DELETE ON receipt_key BEGIN SELECT RAISE(ABORT, 'receipt keys are kept'); END;

CREATE TABLE receipt_root (
  number INTEGER PRIMARY KEY,               -- from 1 without gaps
  first_event_seq INTEGER NOT NULL,         -- the events whose receipts are its leaves: the first after the root before,
  last_event_seq INTEGER NOT NULL,          -- to this one
  receipts INTEGER NOT NULL CHECK (receipts > 0),
  body TEXT NOT NULL,                       -- canonical JSON, billing/receipt/receipt.h
  signature BLOB NOT NULL CHECK (length(signature) = 64),
  CHECK (first_event_seq <= last_event_seq)
) STRICT;
CREATE TRIGGER receipt_root_immutable BEFORE UPDATE ON receipt_root BEGIN SELECT RAISE(ABORT, 'receipt roots are immutable'); END;
CREATE TRIGGER receipt_root_kept BEFORE DELETE ON receipt_root BEGIN SELECT RAISE(ABORT, 'receipt roots are kept'); END;

-- The last receipt of each buyer under a root, so that no chain has to be walked from its beginning.
CREATE TABLE receipt_chain (
  buyer_id BLOB NOT NULL CHECK (length(buyer_id) = 16),
  root_number INTEGER NOT NULL REFERENCES receipt_root,
  number INTEGER NOT NULL CHECK (number > 0),
  hash BLOB NOT NULL CHECK (length(hash) = 32),
  PRIMARY KEY (buyer_id, root_number)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER receipt_chain_immutable BEFORE UPDATE ON receipt_chain BEGIN SELECT RAISE(ABORT, 'receipt chains are immutable'); END;
CREATE TRIGGER receipt_chain_kept BEFORE DELETE ON receipt_chain BEGIN SELECT RAISE(ABORT, 'receipt chains are kept'); END;

-- Salted digests of a request's token ids as the gateway gave them. The nonce is the tenant's alone.
CREATE TABLE usage_digest (
  event_seq INTEGER PRIMARY KEY,
  prompt_digest BLOB NOT NULL CHECK (length(prompt_digest) IN (0, 32)),
  output_digest BLOB NOT NULL CHECK (length(output_digest) IN (0, 32))
) STRICT;
CREATE TRIGGER usage_digest_immutable BEFORE UPDATE ON usage_digest BEGIN SELECT RAISE(ABORT, 'digests are immutable'); END;
CREATE TRIGGER usage_digest_kept BEFORE DELETE ON usage_digest BEGIN SELECT RAISE(ABORT, 'digests are kept'); END;
