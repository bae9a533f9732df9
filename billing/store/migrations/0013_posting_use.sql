-- Which lots paid for a posting of an invoice (minimum, rounding, tax), less what has come back since, so that a void
-- invoice and a credit note give promotional credit back as such (billing/ledger/lot_use.h).
CREATE TABLE posting_use (
  transfer_seq INTEGER NOT NULL REFERENCES transfer,
  lot_no INTEGER NOT NULL,                  -- 0: none, on the credit limit
  micro INTEGER NOT NULL CHECK (micro > 0),
  seal INTEGER NOT NULL,
  PRIMARY KEY (transfer_seq, lot_no)
) STRICT, WITHOUT ROWID;

-- Of what promotional lots gave to invoices until now nobody wrote down for which: as debts that they have paid.
INSERT INTO lot_use
  SELECT -last.seq, l.account_no, l.lot_no, l.used, gantry_row_hash(-last.seq, l.account_no, l.lot_no, l.used)
  FROM (SELECT c.lot_no, c.account_no, c.amount_micro - c.left_micro - (SELECT coalesce(sum(t.amount_micro), 0) FROM
          transfer t WHERE t.source = c.lot_no AND t.kind > 3 AND t.kind = 7) - coalesce(n.micro, 0) AS used
          FROM credit_lot c LEFT JOIN (SELECT lot_no, sum(micro) AS micro FROM lot_use GROUP BY lot_no) n USING (lot_no)
          WHERE c.kind = 1) l
  JOIN (SELECT coalesce(max(seq), 0) AS seq FROM usage_event) last
  WHERE l.used > 0
  ON CONFLICT (event_seq, account_no, lot_no) DO UPDATE SET micro = micro + excluded.micro,
    seal = gantry_row_hash(event_seq, account_no, lot_no, micro + excluded.micro);

-- What of its net a credit note does not post, because the account has it already: what invoices below zero left to a
-- next one that never came, and promotional credit that none has deducted. Only of a party that ends.
ALTER TABLE credit_note ADD COLUMN carried_micro INTEGER NOT NULL DEFAULT 0 CHECK (carried_micro >= 0);
ALTER TABLE credit_note ADD COLUMN promotion_micro INTEGER NOT NULL DEFAULT 0 CHECK (promotion_micro >= 0);

-- Of what was kept: credit that counts as bought and that no payment is left for.
ALTER TABLE closing ADD COLUMN unpaid_micro INTEGER NOT NULL DEFAULT 0;
