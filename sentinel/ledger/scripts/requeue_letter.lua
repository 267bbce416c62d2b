-- requeue_letter: a dead letter goes back to the unreported sums, once; the next report takes it along, under an id of its own, since
-- Zion has answered the old one, and under the present names of its caller (take). Python: LedgerAdmin.requeue_letter.
-- KEYS    1 x dead letters  2 a unreported sums       (one hash tag)
-- ARGV    1 id of the dead letter
-- returns {1 requeued | 0 no such dead letter: it was requeued or dropped before}
-- clock   none: the item keeps the period in which it was settled
-- cost    O(1)
-- include: _names
-- include: _unreported
local letter = redis.call('HGET', KEYS[1], ARGV[1])
if not letter then return {0} end
local item = cjson.decode(letter)[3]
add_unreported(KEYS[2], unreported_field(written_who(item[1], item[2], item[3]), item[4]), item[5], item[6], item[7])
redis.call('HDEL', KEYS[1], ARGV[1])
return {1}
