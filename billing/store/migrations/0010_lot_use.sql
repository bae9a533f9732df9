-- Which lots paid for usage, where promotional credit was among them, so that a correction gives promotional credit back
-- as such (billing/ledger/lots.h). Usage that was paid by bought credit alone has no rows.
CREATE TABLE lot_use (
  event_seq INTEGER NOT NULL,               -- usage, or the correction that gave back; below 0: -(the last event that it may be for)
  account_no INTEGER NOT NULL REFERENCES account,
  lot_no INTEGER NOT NULL,                  -- 0: none, on the credit limit
  micro INTEGER NOT NULL CHECK (micro <> 0),                          -- below 0: given back
  seal INTEGER NOT NULL,
  PRIMARY KEY (event_seq, account_no, lot_no)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER lot_use_immutable BEFORE UPDATE ON lot_use WHEN OLD.event_seq > 0
BEGIN SELECT RAISE(ABORT, 'what lots paid for usage is immutable'); END;
CREATE TRIGGER lot_use_kept BEFORE DELETE ON lot_use WHEN OLD.event_seq > 0
BEGIN SELECT RAISE(ABORT, 'what lots paid for usage is kept'); END;

-- Of what was used until now nobody wrote down for which request.
INSERT INTO lot_use
  SELECT -last.seq, l.account_no, l.lot_no, l.used, gantry_row_hash(-last.seq, l.account_no, l.lot_no, l.used)
  FROM (SELECT lot_no, account_no, amount_micro - left_micro - (SELECT coalesce(sum(t.amount_micro), 0) FROM transfer t
          WHERE t.source = credit_lot.lot_no AND t.kind > 3 AND t.kind = 7) AS used FROM credit_lot WHERE kind = 1) l
  JOIN (SELECT max(seq) AS seq FROM usage_event) last ON last.seq > 0
  WHERE l.used > 0;

-- An invoice may take back what earlier ones have deducted as promotional credit: promotion_micro below 0.
CREATE TABLE invoice_either_way (
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
  promotion_micro INTEGER NOT NULL,         -- credit given that paid for usage; < 0: came back, after it was deducted
  carried_micro INTEGER NOT NULL,           -- > 0: taken from invoices below zero; < 0: left to later ones
  rounding_micro INTEGER NOT NULL,
  net_minor INTEGER NOT NULL CHECK (net_minor >= 0),
  tax_minor INTEGER NOT NULL CHECK (tax_minor >= 0),
  UNIQUE (series, number)
) STRICT;
INSERT INTO invoice_either_way
  SELECT invoice_no, party_no, seller_no, period, series, number, name, content, hash, issued_us, booked, usage_micro,
         usage_residue_pico, unheld_micro, commitment_micro, promotion_micro, carried_micro, rounding_micro, net_minor, tax_minor
  FROM invoice ORDER BY invoice_no;
DROP TABLE invoice;
ALTER TABLE invoice_either_way RENAME TO invoice;
CREATE INDEX invoice_by_party ON invoice (party_no, period);
CREATE TRIGGER invoice_immutable BEFORE UPDATE ON invoice BEGIN SELECT RAISE(ABORT, 'final invoices are immutable'); END;
CREATE TRIGGER invoice_kept BEFORE DELETE ON invoice BEGIN SELECT RAISE(ABORT, 'final invoices are kept'); END;
