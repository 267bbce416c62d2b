-- done: Zion has taken a batch whole; acknowledge it, once. Python: Ledger.done.
-- KEYS    1 b sealed batches  2 s their next attempt  3.. q accounts of the callers in the batch       (one hash tag)
-- ARGV    1 now_ms (0 = TIME)  2 batch id  3.. the external ids of KEYS[3..], in that order
-- returns {1 acknowledged | 0 was acknowledged before}
-- clock   Redis TIME, never before the last of an account: an account whose period is over takes no acknowledgement for it
-- cost    O(items)
-- include: _clock
-- include: _account
-- include: _acknowledge
local keys = {}
for at = 3, #ARGV do keys[ARGV[at]] = KEYS[at] end
return {acknowledge(ARGV[2], {}, keys, read_clock(tonumber(ARGV[1]))) and 1 or 0}
