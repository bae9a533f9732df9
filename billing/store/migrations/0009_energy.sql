-- Millijoules of a request, a memo like device_us; 0: not measured. The hash of a row covers it where it is not 0, so
-- that rows from before keep theirs.
ALTER TABLE usage_event ADD COLUMN energy_mj INTEGER NOT NULL DEFAULT 0;
