-- One row may be wrong in several ways, each accepted for itself.
ALTER TABLE parked_finding RENAME TO parked_finding_by_row;
CREATE TABLE parked_finding (
  party_no INTEGER NOT NULL REFERENCES party,
  subject TEXT NOT NULL,                    -- table and key of the row
  detail TEXT NOT NULL,
  accepted INTEGER NOT NULL DEFAULT 0 CHECK (accepted IN (0, 1)),
  PRIMARY KEY (party_no, subject, detail)
) STRICT, WITHOUT ROWID;
INSERT INTO parked_finding SELECT party_no, subject, detail, accepted FROM parked_finding_by_row;
DROP TABLE parked_finding_by_row;
