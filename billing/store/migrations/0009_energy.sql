-- What a request took of the machine: microseconds of device time and millijoules (0: not measured). Memos, never billed.
-- The gateway hears of them when a sequence ends by itself; the worker's witness always has them.
--
-- The hash of a usage event covers energy_mj where it is not 0, so that rows from before keep theirs.
ALTER TABLE usage_event ADD COLUMN energy_mj INTEGER NOT NULL DEFAULT 0;
ALTER TABLE witness ADD COLUMN device_us INTEGER NOT NULL DEFAULT 0;
ALTER TABLE witness ADD COLUMN energy_mj INTEGER NOT NULL DEFAULT 0;

DROP TRIGGER witness_immutable;
-- A row that was changed before keeps a seal that does not fit.
UPDATE witness SET seal = gantry_row_hash(record_id, request_id, party_no, worker_no, attempt, sequence, from_index,
  to_index, prompt_tokens, cached_tokens, recomputed_tokens, finish_reason, model_no, ended_us, device_us, energy_mj)
  WHERE seal = gantry_row_hash(record_id, request_id, party_no, worker_no, attempt, sequence, from_index, to_index,
    prompt_tokens, cached_tokens, recomputed_tokens, finish_reason, model_no, ended_us);
CREATE TRIGGER witness_immutable BEFORE UPDATE ON witness BEGIN SELECT RAISE(ABORT, 'witness records are immutable'); END;
