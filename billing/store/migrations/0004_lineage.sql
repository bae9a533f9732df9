-- Which books these are, how often they were restored and how far they have come (R14).
CREATE TABLE lineage (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  books_id BLOB NOT NULL CHECK (length(books_id) = 16),
  epoch INTEGER NOT NULL CHECK (epoch > 0),              -- grows with every restore
  sequence INTEGER NOT NULL CHECK (sequence >= 0),       -- grows with every group commit that a command log holds
  logged INTEGER NOT NULL CHECK (logged IN (0, 1)),      -- 1: a command log holds everything since it began
  logged_schema INTEGER NOT NULL                         -- the schema's version that the command log knows
) STRICT;
INSERT INTO lineage VALUES (1, randomblob(16), 1, 0, 0, 0);

CREATE TABLE restore (
  epoch INTEGER PRIMARY KEY,                             -- the one that began
  restored_us INTEGER NOT NULL,
  backup_us INTEGER NOT NULL,                            -- when the backup was made
  last_us INTEGER NOT NULL,                              -- the last commit that came back
  complete INTEGER NOT NULL CHECK (complete IN (0, 1))   -- 1: the command log held everything acknowledged
) STRICT;

-- Backups that are safely in a file somewhere, as who made them said.
CREATE TABLE backup (
  backup_id BLOB PRIMARY KEY CHECK (length(backup_id) = 16),
  made_us INTEGER NOT NULL,                              -- everything acknowledged before is in it
  confirmed_us INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  sequence INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX backup_by_time ON backup (made_us);
