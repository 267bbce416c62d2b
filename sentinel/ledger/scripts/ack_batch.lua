-- ack_batch: Zion has taken a batch whole; acknowledge it, once. Python: Ledger.ack_batch.
-- KEYS    1 b sealed batches  2 s their next attempt  3 y batches that Zion has  4.. q accounts of the callers in the batch
--         (one hash tag)
-- ARGV    1 now_ms (0 = TIME)  2 batch id  3 its place in KEYS[3] (-1: none)  4.. the external ids of KEYS[4..], in that order
-- returns {1 acknowledged | 0 was acknowledged before, or is not known}
-- clock   Redis TIME, never before the last of an account: an account whose period is over takes no acknowledgement for it
-- cost    O(items)
-- include: _clock
-- include: _account
-- include: _acknowledge
local keys = {}
for at = 4, #ARGV do keys[ARGV[at]] = KEYS[at] end
return {acknowledge(ARGV[2], {}, keys, read_clock(tonumber(ARGV[1])), KEYS[3], tonumber(ARGV[3])) and 1 or 0}
