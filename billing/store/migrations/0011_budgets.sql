-- What `used` of a budget's period is made of, so that audits can add it up again: what slices and holds that count in
-- it have spent (credit_budget), less what corrections gave back, and what is older than either.
CREATE TABLE budget_return (
  event_seq INTEGER PRIMARY KEY REFERENCES usage_event,               -- the correction
  budget_no INTEGER NOT NULL REFERENCES budget,
  from_us INTEGER NOT NULL,                 -- the period that it was given back in
  micro INTEGER NOT NULL CHECK (micro > 0)
) STRICT;

-- Used before budgets were billing's, less what was given back before the table above: taken as it stands.
ALTER TABLE budget_use ADD COLUMN before_micro INTEGER NOT NULL DEFAULT 0;
UPDATE budget_use SET before_micro = used_micro;
UPDATE budget_use SET before_micro = used_micro - spent.micro
  FROM (SELECT budget_no, from_us, sum(spent_micro) AS micro FROM credit_budget GROUP BY budget_no, from_us) AS spent
  WHERE spent.budget_no = budget_use.budget_no AND spent.from_us = budget_use.from_us;
