-- Profiles, credit notes, payments and what they settle.

-- ---- the ledger knows taxes and rounding ----
CREATE TABLE account_wider (
  account_no INTEGER PRIMARY KEY,
  party_no INTEGER NOT NULL REFERENCES party,
  type TEXT NOT NULL CHECK (type IN ('customer', 'cash', 'revenue', 'promotion', 'breakage', 'late_unheld', 'unbilled_loss',
                                     'rounding', 'tax')),
  currency TEXT NOT NULL,
  debit_micro INTEGER NOT NULL DEFAULT 0 CHECK (debit_micro >= 0),
  credit_micro INTEGER NOT NULL DEFAULT 0 CHECK (credit_micro >= 0),
  held_micro INTEGER NOT NULL DEFAULT 0 CHECK (held_micro >= 0),      -- open slices and pending holds
  residue_pico INTEGER NOT NULL DEFAULT 0 CHECK (residue_pico BETWEEN -999999 AND 999999),  -- used, not yet a whole micro-unit
  UNIQUE (party_no, type, currency)
) STRICT;
INSERT INTO account_wider SELECT account_no, party_no, type, currency, debit_micro, credit_micro, held_micro, residue_pico
  FROM account;
DROP TABLE account;
ALTER TABLE account_wider RENAME TO account;

CREATE TABLE transfer_wider (
  seq INTEGER PRIMARY KEY,
  debit_account INTEGER NOT NULL REFERENCES account,
  credit_account INTEGER NOT NULL REFERENCES account,
  amount_micro INTEGER NOT NULL CHECK (amount_micro > 0),
  kind INTEGER NOT NULL CHECK (kind BETWEEN 1 AND 63),                -- TransferKind
  source INTEGER NOT NULL,                  -- usage: seq of its event; expiry: its lot; invoices and credit notes: their row; else 0
  reference TEXT NOT NULL,
  booked_us INTEGER NOT NULL,
  hash BLOB NOT NULL CHECK (length(hash) = 32),
  CHECK (debit_account <> credit_account)
) STRICT;
INSERT INTO transfer_wider SELECT seq, debit_account, credit_account, amount_micro, kind, source, reference, booked_us, hash
  FROM transfer ORDER BY seq;
DROP TABLE transfer;
ALTER TABLE transfer_wider RENAME TO transfer;
CREATE INDEX transfer_by_debit ON transfer (debit_account);
CREATE INDEX transfer_by_credit ON transfer (credit_account);
CREATE TRIGGER transfer_immutable BEFORE UPDATE ON transfer BEGIN SELECT RAISE(ABORT, 'transfers are immutable'); END;
CREATE TRIGGER transfer_kept BEFORE DELETE ON transfer BEGIN SELECT RAISE(ABORT, 'transfers are kept'); END;

-- Used-up lots as well: how much promotional credit a party has used is what the amounts of its lots say.
CREATE INDEX credit_lot_by_account ON credit_lot (account_no, kind);

-- ---- who is who on paper ----
CREATE TABLE billing_profile (
  party_no INTEGER NOT NULL REFERENCES party,
  version INTEGER NOT NULL CHECK (version > 0),
  content BLOB NOT NULL,                    -- gantry.v1.BillingProfile
  series_prefix TEXT NOT NULL,              -- of it; '': billing's own
  set_us INTEGER NOT NULL,
  PRIMARY KEY (party_no, version)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER billing_profile_immutable BEFORE UPDATE ON billing_profile BEGIN SELECT RAISE(ABORT, 'profile versions are immutable'); END;
CREATE TRIGGER billing_profile_kept BEFORE DELETE ON billing_profile BEGIN SELECT RAISE(ABORT, 'profile versions are kept'); END;

-- Whose a series of numbers is, from its first number on.
CREATE TABLE invoice_series (
  series TEXT PRIMARY KEY,                  -- G2026, GC2026: credit notes
  seller_no INTEGER NOT NULL REFERENCES party,
  kind INTEGER NOT NULL CHECK (kind IN (1, 2))                        -- invoices, credit notes
) STRICT, WITHOUT ROWID;

-- ---- final invoices ----
CREATE TABLE invoice_wider (
  invoice_no INTEGER PRIMARY KEY,
  party_no INTEGER NOT NULL REFERENCES party,
  seller_no INTEGER NOT NULL REFERENCES party,
  period INTEGER NOT NULL,
  series TEXT NOT NULL,
  number INTEGER NOT NULL CHECK (number > 0),
  name TEXT NOT NULL UNIQUE,                -- as printed
  content BLOB NOT NULL,                    -- gantry.v1.Invoice as issued
  hash BLOB NOT NULL CHECK (length(hash) = 32),
  issued_us INTEGER NOT NULL,
  -- What it is made of, in micro-units: usage - unheld - promotion - carried + commitment + rounding = net. Usage was
  -- debited with each request; commitment, rounding and tax are posted when it becomes final.
  booked INTEGER NOT NULL CHECK (booked IN (0, 1)),                   -- 0: issued before invoices were booked
  usage_micro INTEGER NOT NULL,
  usage_residue_pico INTEGER NOT NULL,      -- exact usage - usage_micro: the next invoice's usage_micro takes it
  unheld_micro INTEGER NOT NULL,            -- of the usage: paid by the house
  commitment_micro INTEGER NOT NULL CHECK (commitment_micro >= 0),
  promotion_micro INTEGER NOT NULL CHECK (promotion_micro >= 0),      -- credit given that paid for usage
  carried_micro INTEGER NOT NULL,           -- > 0: taken from invoices below zero; < 0: left to later ones
  rounding_micro INTEGER NOT NULL,
  net_minor INTEGER NOT NULL CHECK (net_minor >= 0),
  tax_minor INTEGER NOT NULL CHECK (tax_minor >= 0),
  UNIQUE (series, number)
) STRICT;
INSERT INTO invoice_wider
  SELECT NULL, party_no, (SELECT coalesce(parent_no, p.party_no) FROM party p WHERE p.party_no = invoice.party_no), period, series,
         number, printf('%s-%06d', series, number), content, hash, issued_us, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
  FROM invoice ORDER BY issued_us, series, number;
DROP TABLE invoice;
ALTER TABLE invoice_wider RENAME TO invoice;
CREATE INDEX invoice_by_party ON invoice (party_no, period);
CREATE TRIGGER invoice_immutable BEFORE UPDATE ON invoice BEGIN SELECT RAISE(ABORT, 'final invoices are immutable'); END;
CREATE TRIGGER invoice_kept BEFORE DELETE ON invoice BEGIN SELECT RAISE(ABORT, 'final invoices are kept'); END;

CREATE TABLE invoice_void (
  invoice_no INTEGER PRIMARY KEY REFERENCES invoice,
  reason TEXT NOT NULL,
  voided_us INTEGER NOT NULL
) STRICT;
CREATE TRIGGER invoice_void_immutable BEFORE UPDATE ON invoice_void BEGIN SELECT RAISE(ABORT, 'void invoices stay void'); END;
CREATE TRIGGER invoice_void_kept BEFORE DELETE ON invoice_void BEGIN SELECT RAISE(ABORT, 'void invoices stay void'); END;

CREATE TABLE credit_note (
  note_no INTEGER PRIMARY KEY,
  invoice_no INTEGER NOT NULL REFERENCES invoice,
  series TEXT NOT NULL,
  number INTEGER NOT NULL CHECK (number > 0),
  name TEXT NOT NULL UNIQUE,
  net_minor INTEGER NOT NULL CHECK (net_minor >= 0),
  tax_minor INTEGER NOT NULL CHECK (tax_minor >= 0),
  content BLOB NOT NULL,                    -- gantry.v1.Invoice as issued
  hash BLOB NOT NULL CHECK (length(hash) = 32),
  issued_us INTEGER NOT NULL,
  UNIQUE (series, number)
) STRICT;
CREATE INDEX credit_note_by_invoice ON credit_note (invoice_no);
CREATE TRIGGER credit_note_immutable BEFORE UPDATE ON credit_note BEGIN SELECT RAISE(ABORT, 'credit notes are immutable'); END;
CREATE TRIGGER credit_note_kept BEFORE DELETE ON credit_note BEGIN SELECT RAISE(ABORT, 'credit notes are kept'); END;

-- How each final invoice stands. Derived from credit notes, allocations and invoice_void; audits rebuild it.
CREATE TABLE receivable (
  invoice_no INTEGER PRIMARY KEY REFERENCES invoice,
  party_no INTEGER NOT NULL REFERENCES party,
  period INTEGER NOT NULL,
  gross_minor INTEGER NOT NULL CHECK (gross_minor >= 0),
  credited_minor INTEGER NOT NULL DEFAULT 0 CHECK (credited_minor >= 0),
  allocated_minor INTEGER NOT NULL DEFAULT 0 CHECK (allocated_minor >= 0),
  due_day INTEGER NOT NULL,                 -- days since 1970-01-01, in the seller's time zone
  voided INTEGER NOT NULL DEFAULT 0 CHECK (voided IN (0, 1)),
  open INTEGER NOT NULL CHECK (open IN (0, 1)),                       -- 1: something of it is owed
  CHECK (credited_minor + allocated_minor <= gross_minor),
  CHECK (voided = 0 OR (credited_minor = 0 AND allocated_minor = 0)),
  CHECK (open = (voided = 0 AND credited_minor + allocated_minor < gross_minor))
) STRICT;
CREATE UNIQUE INDEX receivable_of_period ON receivable (party_no, period) WHERE voided = 0;
CREATE INDEX receivable_open ON receivable (party_no, invoice_no) WHERE open = 1;
INSERT INTO receivable (invoice_no, party_no, period, gross_minor, due_day, open)
  SELECT invoice_no, party_no, period, 0, 0, 0 FROM invoice;

-- ---- what came in, and what it pays ----
-- A payment is a transfer cash -> customer; a row of it comes when more is known, or when it is allocated.
CREATE TABLE payment (
  transfer_seq INTEGER PRIMARY KEY REFERENCES transfer,
  party_no INTEGER NOT NULL REFERENCES party,
  amount_micro INTEGER NOT NULL CHECK (amount_micro > 0),
  allocated_micro INTEGER NOT NULL DEFAULT 0 CHECK (allocated_micro >= 0),
  refunded_micro INTEGER NOT NULL DEFAULT 0 CHECK (refunded_micro >= 0),
  held_back INTEGER NOT NULL DEFAULT 0 CHECK (held_back IN (0, 1)),   -- 1: pays only what it is allocated to by its number
  method TEXT NOT NULL,
  received_day INTEGER NOT NULL,            -- days since 1970-01-01
  CHECK (allocated_micro + refunded_micro <= amount_micro)
) STRICT;
CREATE INDEX payment_by_party ON payment (party_no);

CREATE TABLE allocation (
  allocation_no INTEGER PRIMARY KEY,
  transfer_seq INTEGER NOT NULL REFERENCES payment,
  invoice_no INTEGER NOT NULL REFERENCES invoice,
  amount_minor INTEGER NOT NULL CHECK (amount_minor <> 0),            -- < 0: released
  allocated_us INTEGER NOT NULL
) STRICT;
CREATE INDEX allocation_by_invoice ON allocation (invoice_no);
CREATE INDEX allocation_by_payment ON allocation (transfer_seq);
CREATE TRIGGER allocation_immutable BEFORE UPDATE ON allocation BEGIN SELECT RAISE(ABORT, 'allocations are immutable'); END;
CREATE TRIGGER allocation_kept BEFORE DELETE ON allocation BEGIN SELECT RAISE(ABORT, 'allocations are kept'); END;

-- ---- usage of periods whose invoices were final when it came: the next invoice shows it with its own date (R11) ----
CREATE TABLE late_usage (
  buyer_no INTEGER NOT NULL REFERENCES party,
  period INTEGER NOT NULL,                  -- whose invoice it stands on
  event_seq INTEGER NOT NULL REFERENCES usage_event,
  PRIMARY KEY (buyer_no, period, event_seq)
) STRICT, WITHOUT ROWID;
INSERT INTO late_usage
  SELECT r.buyer_no, r.period, r.event_seq FROM rating r JOIN usage_event u ON u.seq = r.event_seq
  JOIN billing_period p ON p.party_no = r.buyer_no AND p.period = r.period WHERE u.ended_us < p.from_us;
