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
