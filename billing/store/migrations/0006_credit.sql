-- What keys may spend in a day, a month or their life, and how gateways went.
--
-- A budget belongs to the keys that share it: one, and those that it was rotated into.
CREATE TABLE budget (
  budget_no INTEGER PRIMARY KEY,
  period INTEGER NOT NULL CHECK (period BETWEEN 1 AND 3),             -- v1.BudgetPeriod
  amount_micro INTEGER NOT NULL CHECK (amount_micro > 0)
) STRICT;
CREATE TABLE key_budget (
  key_no INTEGER PRIMARY KEY REFERENCES api_key,
  budget_no INTEGER NOT NULL REFERENCES budget
) STRICT;
CREATE INDEX key_budget_by_budget ON key_budget (budget_no);

-- What was used, and what slices and holds that were granted in it have set aside. A period without a row is unused.
CREATE TABLE budget_use (
  budget_no INTEGER NOT NULL REFERENCES budget,
  from_us INTEGER NOT NULL,
  to_us INTEGER NOT NULL CHECK (to_us > from_us),
  used_micro INTEGER NOT NULL CHECK (used_micro >= 0),
  held_micro INTEGER NOT NULL CHECK (held_micro >= 0),
  PRIMARY KEY (budget_no, from_us)
) STRICT, WITHOUT ROWID;

-- What a slice or a hold of a key has set aside of its budget.
CREATE TABLE credit_budget (
  credit_id BLOB PRIMARY KEY CHECK (length(credit_id) = 16),          -- slice_id or hold_id
  budget_no INTEGER NOT NULL REFERENCES budget,
  from_us INTEGER NOT NULL,                 -- the period that it counts in
  granted_micro INTEGER NOT NULL CHECK (granted_micro >= 0),
  spent_micro INTEGER NOT NULL DEFAULT 0 CHECK (spent_micro >= 0),
  returned_micro INTEGER NOT NULL DEFAULT 0 CHECK (returned_micro >= 0),
  open INTEGER NOT NULL CHECK (open IN (0, 1)),
  CHECK (spent_micro + returned_micro <= granted_micro)
) STRICT, WITHOUT ROWID;
CREATE INDEX credit_budget_open ON credit_budget (budget_no) WHERE open = 1;

-- Until now a budget was counted by the gateway since its start: what the books know of each key is taken over.
INSERT INTO budget (budget_no, period, amount_micro) SELECT key_no, 3, budget_micro FROM api_key WHERE budget_micro > 0;
INSERT INTO key_budget (key_no, budget_no) SELECT key_no, key_no FROM api_key WHERE budget_micro > 0;
INSERT INTO budget_use (budget_no, from_us, to_us, used_micro, held_micro)
  SELECT u.key_no, 0, 9223372036854775807, CAST(max(0, total(r.amount_pico) / 1000000) AS INTEGER), 0
  FROM usage_event u JOIN rating r ON r.event_seq = u.seq AND r.level = 0
  WHERE u.key_no IN (SELECT key_no FROM key_budget) GROUP BY u.key_no;

-- Holds that were voided before they were reserved: the reservation may still be on its way, and is refused.
CREATE TABLE voided_hold (
  hold_id BLOB PRIMARY KEY CHECK (length(hold_id) = 16),
  voided_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Gateways whose permits and windows nobody needs to wait for. Gone with the next epoch.
CREATE TABLE gateway_end (
  gateway_no INTEGER PRIMARY KEY REFERENCES gateway,
  left_us INTEGER NOT NULL,                 -- when it went in good order; 0: it did not
  forgotten_us INTEGER NOT NULL             -- when an administrator gave it up; 0: nobody did
) STRICT;
