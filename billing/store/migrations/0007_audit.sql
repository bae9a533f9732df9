-- Indexes by range and owner.
--
-- An index on the party alone has as many places that grow as there are parties: a group commit of requests of a
-- thousand tenants touched a thousand pages of it, and what went to the log was mostly that. Ranges of 8192 rows keep
-- the growing places of an index together (some twenty pages), and whoever asks for one party's rows visits each range
-- once, which is a few microseconds a range. Ask the views below; the planner uses these indexes through them.
DROP INDEX usage_by_party;
DROP INDEX transfer_by_debit;
DROP INDEX transfer_by_credit;
CREATE INDEX usage_by_party ON usage_event (seq >> 13, party_no);
CREATE INDEX transfer_by_debit ON transfer (seq >> 13, debit_account);
CREATE INDEX transfer_by_credit ON transfer (seq >> 13, credit_account);

-- What is rare: unheld, unbilled, returned, expired. A query names `kind > 3`.
CREATE INDEX transfer_by_source ON transfer (source) WHERE kind > 3;

-- `SELECT … FROM usage_of_party WHERE party_no = ?`: the columns of usage_event.
CREATE VIEW usage_of_party AS
  WITH RECURSIVE range(number) AS (
    VALUES (0) UNION ALL SELECT number + 1 FROM range WHERE number < (SELECT max(seq) >> 13 FROM usage_event))
  SELECT u.* FROM range CROSS JOIN usage_event u ON u.seq >> 13 = range.number;
-- `SELECT … FROM transfer_of_account WHERE debit_account = ?` or credit_account: the columns of transfer.
CREATE VIEW transfer_of_account AS
  WITH RECURSIVE range(number) AS (
    VALUES (0) UNION ALL SELECT number + 1 FROM range WHERE number < (SELECT max(seq) >> 13 FROM transfer))
  SELECT t.* FROM range CROSS JOIN transfer t ON t.seq >> 13 = range.number;

-- ---- seals ----
-- Tables whose rows change until they end have no chain. A seal is a checksum over what must not change any more, put
-- on by the statement that ends a row (accounts and lots: by the schema; a trigger on the others would cost each request
-- more than the rest of its statement). gantry_row_hash is a function of the program (billing/store/database.cc).
ALTER TABLE account ADD COLUMN seal INTEGER;     -- of whose it is
ALTER TABLE credit_lot ADD COLUMN seal INTEGER;  -- of everything but what is left
ALTER TABLE hold ADD COLUMN seal INTEGER;        -- of a hold that has ended; NULL before
ALTER TABLE slice ADD COLUMN seal INTEGER;       -- of a slice that is closed; NULL before
ALTER TABLE credit_hop ADD COLUMN seal INTEGER;  -- likewise
ALTER TABLE witness ADD COLUMN seal INTEGER;     -- of the row

CREATE TRIGGER account_sealed AFTER INSERT ON account BEGIN
  UPDATE account SET seal = gantry_row_hash(NEW.account_no, NEW.party_no, NEW.type, NEW.currency)
  WHERE account_no = NEW.account_no;
END;
CREATE TRIGGER credit_lot_sealed AFTER INSERT ON credit_lot BEGIN
  UPDATE credit_lot SET seal = gantry_row_hash(NEW.lot_no, NEW.account_no, NEW.kind, NEW.priority, NEW.amount_micro,
    NEW.granted_us, NEW.expires_us, NEW.transfer_seq) WHERE lot_no = NEW.lot_no;
END;

-- What is there already is taken as it stands.
UPDATE account SET seal = gantry_row_hash(account_no, party_no, type, currency);
UPDATE credit_lot SET seal = gantry_row_hash(lot_no, account_no, kind, priority, amount_micro, granted_us, expires_us,
  transfer_seq);
UPDATE hold SET seal = gantry_row_hash(hold_id, party_no, gateway_no, gateway_epoch, request_id, first_micro, held_micro,
  settled_micro, extensions, last_extension_micro, state, granted_us) WHERE state <> 1;
UPDATE slice SET seal = gantry_row_hash(slice_id, party_no, gateway_no, gateway_epoch, wanted_micro, minimum_micro,
  granted_micro, spent_micro, returned_micro, open, granted_us) WHERE open = 0;
UPDATE credit_hop SET seal = gantry_row_hash(credit_id, party_no, granted_micro, spent_micro, returned_micro, open)
  WHERE open = 0;
DROP TRIGGER witness_immutable;
UPDATE witness SET seal = gantry_row_hash(record_id, request_id, party_no, worker_no, attempt, sequence, from_index,
  to_index, prompt_tokens, cached_tokens, recomputed_tokens, finish_reason, model_no, ended_us);
CREATE TRIGGER witness_immutable BEFORE UPDATE ON witness BEGIN SELECT RAISE(ABORT, 'witness records are immutable'); END;

-- ---- checkpoints: up to where an audit has found the books well ----
CREATE TABLE audit_checkpoint (
  checkpoint_no INTEGER PRIMARY KEY,
  made_us INTEGER NOT NULL,
  complete INTEGER NOT NULL CHECK (complete IN (0, 1)),               -- 1: everything was checked, 0: from the one before on
  body TEXT NOT NULL,                       -- canonical JSON: books, ends of the chains, digest of the sums
  key_id TEXT NOT NULL,                     -- of receipt_key
  signature BLOB NOT NULL CHECK (length(signature) = 64)
) STRICT;
-- The sums of every account at the last checkpoint.
CREATE TABLE audit_account (
  account_no INTEGER PRIMARY KEY,
  debit_micro INTEGER NOT NULL,
  credit_micro INTEGER NOT NULL
) STRICT;

-- ---- parties whose books an audit found wrong: nothing is booked for them ----
CREATE TABLE parked_party (
  party_no INTEGER PRIMARY KEY REFERENCES party,
  since_us INTEGER NOT NULL,
  reason TEXT NOT NULL
) STRICT;
-- Usage of parked parties as it came: acknowledged, durable, booked once the party is released.
CREATE TABLE parked_record (
  record_id BLOB PRIMARY KEY NOT NULL CHECK (length(record_id) = 16),
  party_no INTEGER NOT NULL REFERENCES party,
  record BLOB NOT NULL,                     -- gantry.v1.UsageRecord
  received_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX parked_record_by_party ON parked_record (party_no);
-- What an audit found of parties that it parked; accepted when they were released: the same does not park them again.
CREATE TABLE parked_finding (
  party_no INTEGER NOT NULL REFERENCES party,
  subject TEXT NOT NULL,                    -- table and key of the row
  detail TEXT NOT NULL,
  accepted INTEGER NOT NULL DEFAULT 0 CHECK (accepted IN (0, 1)),
  PRIMARY KEY (party_no, subject)
) STRICT, WITHOUT ROWID;

-- Keys of administrative requests are kept 400 days, then pruned by age.
CREATE INDEX idempotency_by_age ON idempotency (at_us);
