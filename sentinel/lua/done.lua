-- done: Zion has taken a batch whole; acknowledge it, once. Python: Ledger.done.
-- KEYS    1 b sealed batches  2 s their next attempt  3.. q accounts of the callers in the batch       (one hash tag)
-- ARGV    1 batch id  2.. the external ids of KEYS[3..], in that order
-- returns {1 acknowledged | 0 was acknowledged before}
-- clock   none
-- cost    O(items)
-- include: _acknowledge
local accounts = {}
for at = 2, #ARGV do accounts[ARGV[at]] = KEYS[at + 1] end
return {acknowledge(ARGV[1], {}, accounts) and 1 or 0}
